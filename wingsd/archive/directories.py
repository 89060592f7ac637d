"""Directories of an archive's tree: their metadata, and the symlinks below them.

Nothing here ever has the kernel follow a symlink, so no path leads out of the tree, whatever
changes in it meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from tempfile import SpooledTemporaryFile
from threading import Lock

from wingsd.errors import ArchiveError
from wingsd.filesystem.open_directories import (
    FILE_FLAGS,
    REPLACED,
    OpenDirectories,
    Path,
    file_type_name,
)
from wingsd.util.text import display

DirectoryEntry = tuple[Path, int, int | None, bytes]

_CHUNK = 1 << 16
_SPOOLED = 1 << 19
_HEAD = Struct("<Hq?IH")
_OVERHEAD = 300  # bytes of the smallest entry of `_updated` in CPython 3.11


class DirectoryMetadata:
    """The metadata of directories: `mode`, `attributes`, and `mtime`, None for any.

    Times are in nanoseconds.

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
        self._updated: dict[Path, tuple[int, int, bytes]] = {}
        self._memory_left = memory

    def add(self, path: Path, mode: int, mtime: int | None, attributes: bytes = b"") -> None:
        """Add a directory that was just made, after its parents.

        Raises OSError where the disk fails.
        """
        name = b"/".join(path)
        sizes = len(name), len(attributes)
        self._chunk += _HEAD.pack(mode, mtime or 0, mtime is not None, *sizes) + name + attributes
        if len(self._chunk) >= _CHUNK:
            self._file.write(self._chunk)
            self._offsets.append(self._offsets[-1] + len(self._chunk))
            self._chunk.clear()

    def update(self, path: Path, mode: int, mtime: int, attributes: bytes = b"") -> None:
        """Set the metadata of a directory that exists already; the last call counts.

        It is kept in memory. Raises ArchiveError where that is used up.
        """
        if path not in self._updated:
            self._memory_left -= _OVERHEAD + sum(len(part) + 41 for part in path)
        self._memory_left -= len(attributes)
        if self._memory_left < 0:
            raise ArchiveError(
                "too many directories come after their contents, or twice; write the archive "
                "with directories first, as tar does, or raise "
                "system.transfers.directory_memory on this node"
            )
        self._updated[path] = (mode, mtime, attributes)

    def in_order(self) -> Iterator[DirectoryEntry]:
        """Yield every directory once, before its parents, the root at the end.

        May be called once. Raises OSError where the disk fails.
        """
        updated = self._updated
        for path, *metadata in self._added_backwards():
            yield path, *updated.pop(path, metadata)
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
        mode, mtime, has_mtime, length, more = _HEAD.unpack_from(chunk, at)
        at += _HEAD.size + length
        path = tuple(chunk[at - length : at].split(b"/"))
        attributes = chunk[at : at + more]
        at += more
        entries.append((path, mode, mtime if has_mtime else None, attributes))
    return reversed(entries)


_CONTAINER_ROOT = (b"", b"home", b"container")  # the server's directory inside its container
_MAX_SYMLINKS = 40  # as many as Linux follows: path_resolution(7)


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
            elif rest:
                raise FileNotFoundError  # a component after a file's: ENOTDIR to the kernel
            elif not stat.S_ISREG(mode):
                raise UnresolvableSymlink(f"it is a symlink to {file_type_name(mode)}")
            else:
                return os.open(part, FILE_FLAGS, dir_fd=parent)
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


def _outside(text: bytes) -> UnresolvableSymlink:
    return UnresolvableSymlink(
        f"it is a symlink to {display(text)}, outside the server's directory"
    )
