"""Directories of a tree by descriptor, the most recently used kept open.

Nothing here ever has the kernel follow a symlink, so no path leads out of the tree, whatever
changes in it meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import attrs

Path = tuple[bytes, ...]
"""A directory or file below a root: the names of its directories, then its own; `()` is the
root."""

REPLACED = "it was replaced by something else meanwhile"

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MAX_OPEN = 64


@contextmanager
def closing_descriptor(fd: int) -> Iterator[int]:
    """Close an open descriptor at the end of the context."""
    try:
        yield fd
    finally:
        os.close(fd)


@attrs.define(eq=False, repr=False)
class OpenDirectories:
    """Descriptors of directories below `root`, the most recently used kept open.

    `made` is called with the path of every directory that had to be made on the way; `lock` is
    held from its making to the end of that call. A descriptor stays valid: nothing here moves or
    removes a directory.
    """

    _root: int
    _made: Callable[[Path], None] = lambda path: None
    _lock: AbstractContextManager[object] = attrs.field(factory=nullcontext)
    _open: dict[Path, int] = attrs.field(factory=dict, init=False)
    #: The directory that was returned last, at first the root.
    _last: Path = attrs.field(default=(), init=False)
    _last_fd: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._last_fd = self._root

    def get(self, path: Path, *, make: bool = True, keep: int = -1) -> int:
        """Return a descriptor of the directory, valid until the next call.

        With `make`, missing directories are made. The descriptor `keep` stays valid as well.
        Raises OSError: ENOTDIR or ELOOP where the path leads through something else.
        """
        if path == self._last:
            return self._last_fd
        # on its way more may be opened than are kept, and then one be missing
        self._last, self._last_fd = (), self._root
        fd = self._find(path, make, keep)
        self._last = path
        self._last_fd = fd
        return fd

    def place(self, path: bytes) -> tuple[int, bytes]:
        """Return a descriptor of the directory that a path is in, and the last name.

        Nothing is made. Raises as `get`.
        """
        *directory, name = path.split(b"/")
        return self.get(tuple(directory), make=False), name

    def open_file(self, path: bytes) -> int:
        """Return a new descriptor to read what has a path, by `FILE_FLAGS`. Raises OSError."""
        parent, name = self.place(path)
        return os.open(name, FILE_FLAGS, dir_fd=parent)

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
            self._open[path[:end]] = fd
            if len(self._open) > _MAX_OPEN:
                oldest = next(known for known, other in self._open.items() if other != keep)
                os.close(self._open.pop(oldest))
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


FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""How a file is opened that may have become something else: without waiting for a FIFO's
writer."""

_TYPE_NAMES = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def file_type_name(mode: int) -> str:
    """Return the name of a file type other than file, directory and symlink, for messages."""
    return _TYPE_NAMES.get(stat.S_IFMT(mode), "of an unknown type")
