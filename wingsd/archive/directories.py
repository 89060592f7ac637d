"""Directories of a tree by descriptor: open ones by path, their metadata, and symlinks below them.

Nothing here ever has the kernel follow a symlink, so no path leads out of the tree, whatever
changes in it meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from struct import Struct
from tempfile import SpooledTemporaryFile
from threading import Lock

from wingsd.archive.policy import ArchiveError
from wingsd.util.text import display

__all__ = [
    "FILE_FLAGS",
    "REPLACED",
    "DirectoryMetadata",
    "OpenDirectories",
    "Path",
    "SymlinkResolver",
    "UnresolvableSymlink",
    "file_type_name",
]

Path = tuple[bytes, ...]
"""A directory or file below a root: the names of its directories, then its own; `()` is the
root."""

REPLACED = "it was replaced by something else meanwhile"

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MAX_OPEN = 64


class OpenDirectories:
    """Descriptors of directories below `root`, the most recently used kept open.

    `made` is called with the path of every directory that had to be made on the way; `lock` is
    held from its making to the end of that call. A descriptor stays valid: nothing here moves or
    removes a directory.
    """

    def __init__(
        self,
        root: int,
        made: Callable[[Path], None],
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._root = root
        self._made = made
        self._lock = nullcontext() if lock is None else lock
        self._open: dict[Path, int] = {}
        self._last: Path = ()
        self._last_fd = root

    def get(self, path: Path, *, make: bool = True, keep: int = -1) -> int:
        """Return a descriptor of the directory, valid until the next call.

        With `make`, missing directories are made. The descriptor `keep` stays valid as well.
        Raises OSError: ENOTDIR or ELOOP where the path leads through something else.
        """
        if path == self._last:
            return self._last_fd
        fd = self._find(path, make, keep)
        self._last = path
        self._last_fd = fd
        return fd

    def close(self) -> None:
        """Close all descriptors but the root's."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._last, self._last_fd = (), self._root

    def _find(self, path: Path, make: bool, keep: int) -> int:
        depth = len(path)
        while depth and path[:depth] not in self._open:
            depth -= 1
        fd = self._root
        if depth:
            fd = self._open.pop(path[:depth])
            self._open[path[:depth]] = fd
        for end in range(depth + 1, len(path) + 1):
            fd = self._open_child(fd, path[:end], make)
            self._add(path[:end], fd, keep)
        return fd

    def _open_child(self, parent: int, path: Path, make: bool) -> int:
        try:
            return os.open(path[-1], _FLAGS, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
        # another thread may be faster
        with suppress(FileExistsError), self._lock:
            # closed to others until it is complete; its own mode is set at the very end
            os.mkdir(path[-1], 0o700, dir_fd=parent)
            self._made(path)
        return os.open(path[-1], _FLAGS, dir_fd=parent)

    def _add(self, path: Path, fd: int, keep: int) -> None:
        self._open[path] = fd
        if len(self._open) > _MAX_OPEN:
            oldest = next(known for known, other in self._open.items() if other != keep)
            os.close(self._open.pop(oldest))


DirectoryEntry = tuple[Path, int, int | None]

_CHUNK = 1 << 16
_SPOOLED = 1 << 19
_HEAD = Struct("<Hq?I")
_OVERHEAD = 300  # bytes of the smallest entry of `_updated` in CPython 3.11


class DirectoryMetadata:
    """What directories are to have: `mode`, and `mtime` in nanoseconds or None for any.

    An archive may have any number of directories, so they are kept on the disk: in a file without
    a name in the directory `place`, read backwards at the end, so that a directory comes before
    its parents. `memory` is the most bytes for those of `update`. `close` must be called.

    Threads that share it hold `lock` while they make a directory and add it: else its contents
    could be added before it, and the order at the end would be wrong.
    """

    def __init__(self, place: str, memory: int) -> None:
        self.lock = Lock()
        self._file = SpooledTemporaryFile(_SPOOLED, dir=place)  # noqa: SIM115 - closed by close
        self._offsets = array("q", [0])
        self._chunk = bytearray()
        self._updated: dict[Path, tuple[int, int]] = {}
        self._memory_left = memory

    def add(self, path: Path, mode: int, mtime: int | None) -> None:
        """Add a directory that was just made, after its parents.

        Raises OSError where the disk fails.
        """
        name = b"/".join(path)
        self._chunk += _HEAD.pack(mode, mtime or 0, mtime is not None, len(name)) + name
        if len(self._chunk) >= _CHUNK:
            self._file.write(self._chunk)
            self._offsets.append(self._offsets[-1] + len(self._chunk))
            self._chunk.clear()

    def update(self, path: Path, mode: int, mtime: int) -> None:
        """Set the metadata of a directory that exists already; the last call counts.

        It is kept in memory. Raises ArchiveError where that is used up.
        """
        if path not in self._updated:
            self._memory_left -= _OVERHEAD + sum(len(part) + 41 for part in path)
            if self._memory_left < 0:
                raise ArchiveError(
                    "too many directories come after their contents, or twice; write the archive "
                    "with directories first, as tar does, or raise "
                    "system.transfers.directory_memory on this node"
                )
        self._updated[path] = (mode, mtime)

    def in_order(self) -> Iterator[DirectoryEntry]:
        """Yield every directory once, before its parents, the root at the end.

        May be called once. Raises OSError where the disk fails.
        """
        updated = self._updated
        for path, mode, mtime in self._added_backwards():
            yield path, *updated.pop(path, (mode, mtime))
        # those that existed before the archive
        for path in sorted(updated, reverse=True):
            yield path, *updated[path]

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # unwritten data is not needed any more
            self._file.close()

    def _added_backwards(self) -> Iterator[DirectoryEntry]:
        yield from _entries(bytes(self._chunk))
        for start, end in zip(self._offsets[-2::-1], self._offsets[:0:-1], strict=True):
            self._file.seek(start)
            yield from _entries(self._file.read(end - start))


def _entries(chunk: bytes) -> Iterator[DirectoryEntry]:
    entries: list[DirectoryEntry] = []
    at = 0
    while at < len(chunk):
        mode, mtime, has_mtime, length = _HEAD.unpack_from(chunk, at)
        at += _HEAD.size + length
        path = tuple(chunk[at - length : at].split(b"/"))
        entries.append((path, mode, mtime if has_mtime else None))
    return reversed(entries)


FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""How a file is opened that may have become something else: without waiting for a FIFO's
writer."""

_CONTAINER_ROOT = (b"", b"home", b"container")  # the server's directory inside its container
_MAX_SYMLINKS = 40  # as many as Linux follows: path_resolution(7)
_TYPE_NAMES = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def file_type_name(mode: int) -> str:
    """Return the name of a file type other than file, directory and symlink, for messages."""
    return _TYPE_NAMES.get(stat.S_IFMT(mode), "of an unknown type")


class UnresolvableSymlink(Exception):
    """A symlink that does not lead to a regular file inside the tree; the text is the reason."""


class SymlinkResolver:
    """Finds the files to which symlinks lead, for nodes that cannot receive symlinks.

    Symlinks are resolved within the tree below the descriptor `root`, component by component.
    `close` must be called.
    """

    def __init__(self, root: int) -> None:
        self._directories = OpenDirectories(root, lambda path: None)

    def close(self) -> None:
        """Close every descriptor."""
        self._directories.close()

    def open(self, link: Path, text: bytes) -> int:
        """Return a new descriptor of the regular file that the symlink `link` leads to.

        Absolute texts are resolved as in the server's container: `/home/container` is the root of
        the tree, all else is outside. The file may have become something else before it was
        opened: fstat shows it. Raises UnresolvableSymlink, and OSError where the disk fails.
        """
        try:
            return self._resolve(link, text)
        except OSError as error:
            # ENAMETOOLONG: no file can have such a name, but a symlink's text may hold it
            if isinstance(error, FileNotFoundError) or error.errno == errno.ENAMETOOLONG:
                raise UnresolvableSymlink(
                    f"it is a symlink to {display(text)}, which does not exist"
                ) from None
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL):
                raise UnresolvableSymlink(REPLACED) from None
            raise

    def _resolve(self, link: Path, text: bytes) -> int:
        directory, rest = self._start(list(link[:-1]), text)
        followed = 1
        while rest:
            part = rest.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if not directory:
                    raise _outside(text)
                directory.pop()
                continue
            parent = self._directories.get(tuple(directory), make=False)
            mode = os.stat(part, dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                directory.append(part)
            elif stat.S_ISLNK(mode):
                followed += 1
                if followed > _MAX_SYMLINKS:
                    raise UnresolvableSymlink("it is a symlink in a loop of symlinks")
                directory, more = self._start(directory, os.readlink(part, dir_fd=parent))
                rest.extendleft(reversed(more))
            else:
                return _open_file(part, parent, mode, rest)
        raise UnresolvableSymlink(
            "it is a symlink to a directory, which the other node does not accept"
        )

    def _start(self, directory: list[bytes], text: bytes) -> tuple[list[bytes], deque[bytes]]:
        """Return the directory to which `text` is relative, and its components."""
        if not text.startswith(b"/"):
            return directory, deque(text.split(b"/"))
        parts = text.split(b"/")
        if tuple(parts[:3]) != _CONTAINER_ROOT:
            raise _outside(text)
        return [], deque(parts[3:])


def _open_file(name: bytes, parent: int, mode: int, rest: deque[bytes]) -> int:
    if rest:
        raise FileNotFoundError  # a component after a file's: ENOTDIR to the kernel
    if not stat.S_ISREG(mode):
        raise UnresolvableSymlink(f"it is a symlink to {file_type_name(mode)}")
    return os.open(name, FILE_FLAGS, dir_fd=parent)


def _outside(text: bytes) -> UnresolvableSymlink:
    return UnresolvableSymlink(
        f"it is a symlink to {display(text)}, outside the server's directory"
    )
