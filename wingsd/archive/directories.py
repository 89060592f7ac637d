"""Directories of a tree that is written: open ones by path, and their modes and times.

An archive may have any number of directories, so they are kept on the disk: a file without a name
beside them, read backwards at the end, so that a directory comes before those above it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from struct import Struct
from tempfile import SpooledTemporaryFile
from threading import Lock

from wingsd.archive.errors import ArchiveError
from wingsd.archive.tree_range import Path

__all__ = ["DirectoryMetadata", "OpenDirectories"]

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_KEPT = 64


class OpenDirectories:
    """Descriptors of directories below `root`, the most recently used kept open.

    `made` is called with the path of every directory that had to be made on the way; `lock` is
    held from its making to the end of that call. A kept descriptor stays right: nothing here ever
    moves or removes a directory.
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
        """Return a descriptor of the directory, good until the next call.

        With `make`, missing directories are made. The descriptor `keep` stays good as well.
        Raises OSError: ENOTDIR or ELOOP where the path leads through something else.
        """
        if path == self._last:
            return self._last_fd
        fd = self._find(path, make, keep)
        self._last = path
        self._last_fd = fd
        return fd

    def close(self) -> None:
        """Close all of them, but not the root's."""
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
            fd = self._enter(fd, path[:end], make)
            self._remember(path[:end], fd, keep)
        return fd

    def _enter(self, parent: int, path: Path, make: bool) -> int:
        try:
            return os.open(path[-1], _FLAGS, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
        # another thread may be faster
        with suppress(FileExistsError), self._lock:
            # closed to others until it is whole; its own mode comes at the very end
            os.mkdir(path[-1], 0o700, dir_fd=parent)
            self._made(path)
        return os.open(path[-1], _FLAGS, dir_fd=parent)

    def _remember(self, path: Path, fd: int, keep: int) -> None:
        self._open[path] = fd
        if len(self._open) > _KEPT:
            oldest = next(known for known, other in self._open.items() if other != keep)
            os.close(self._open.pop(oldest))


Entry = tuple[Path, int, int | None]

_CHUNK = 1 << 16
_SPOOLED = 1 << 19
_HEAD = Struct("<Hq?I")
_OVERHEAD = 300  # bytes that the least entry of `_later` takes, as CPython 3.11 has them


class DirectoryMetadata:
    """What directories are to have: `mode`, and `mtime` in nanoseconds or None for whichever.

    `place` is a directory's path on the disk that is to keep them; `memory` the bytes that those
    of `again` may take. `close` must be called.

    Threads that share it hold `lock` while they make a directory and say so: else what is in one
    could be told before it, and the order at the end would be wrong.
    """

    def __init__(self, place: str, memory: int) -> None:
        self.lock = Lock()
        self._file = SpooledTemporaryFile(_SPOOLED, dir=place)  # noqa: SIM115 - closed by close
        self._borders = array("q", [0])
        self._chunk = bytearray()
        self._later: dict[Path, tuple[int, int]] = {}
        self._room = memory

    def made(self, path: Path, mode: int, mtime: int | None) -> None:
        """Take those of a directory that was just made, after those above it.

        Raises OSError where the disk fails.
        """
        name = b"/".join(path)
        self._chunk += _HEAD.pack(mode, mtime or 0, mtime is not None, len(name)) + name
        if len(self._chunk) >= _CHUNK:
            self._file.write(self._chunk)
            self._borders.append(self._borders[-1] + len(self._chunk))
            self._chunk.clear()

    def again(self, path: Path, mode: int, mtime: int) -> None:
        """Take those of a directory that was there before; the last word holds.

        They are kept in memory. Raises ArchiveError where that is used up.
        """
        if path not in self._later:
            self._room -= _OVERHEAD + sum(len(part) + 41 for part in path)
            if self._room < 0:
                raise ArchiveError(
                    "too many directories come after what is in them, or twice; write the archive "
                    "with directories first, as tar does, or raise "
                    "system.transfers.directory_memory on this node"
                )
        self._later[path] = (mode, mtime)

    def in_order(self) -> Iterator[Entry]:
        """Yield every directory once, before those above it, the root at the end.

        May be called once. Raises OSError where the disk fails.
        """
        later = self._later
        for path, mode, mtime in self._made_backwards():
            yield path, *later.pop(path, (mode, mtime))
        # those that were there before the archive came
        for path in sorted(later, reverse=True):
            yield path, *later[path]

    def close(self) -> None:
        """Let go of the file."""
        # what could not be written any more is of no interest any more
        with suppress(OSError):
            self._file.close()

    def _made_backwards(self) -> Iterator[Entry]:
        yield from _entries(bytes(self._chunk))
        for start, end in zip(self._borders[-2::-1], self._borders[:0:-1], strict=True):
            self._file.seek(start)
            yield from _entries(self._file.read(end - start))


def _entries(chunk: bytes) -> Iterator[Entry]:
    entries: list[Entry] = []
    at = 0
    while at < len(chunk):
        mode, mtime, has_mtime, length = _HEAD.unpack_from(chunk, at)
        at += _HEAD.size + length
        path = tuple(chunk[at - length : at].split(b"/"))
        entries.append((path, mode, mtime if has_mtime else None))
    return reversed(entries)
