"""A server's past: a directory at the top of its files that is not on the disk.

It has a directory for each point of the server's history, with the files as they were. The server
and its programs never see it. A `ServerRoot` with a `Past` leads paths there, unless the server
has a file of that name of its own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NoReturn

from wingsd.errors import PastReadOnly
from wingsd.filesystem.directory import Directory, Entry, OpenFile
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.walk import Listing

PAST = b".history"
"""The name of the directory."""

_MODE = stat.S_IFDIR | 0o555


def is_past(path: ServerPath) -> bool:
    """Return whether a path leads into the past, where a server has one."""
    return path.parts[:1] == (PAST,)


def in_point(path: ServerPath) -> ServerPath:
    """Return what a path in the past was in the server's directory; that for a point itself."""
    return ServerPath(path.parts[2:])


def past_directory(name: bytes, time: int) -> Entry:
    """Return the entry of a directory that is not on the disk; `time` is in nanoseconds."""
    return Entry(name, _MODE, 0, time, time, time, 2, 0, 0, is_virtual=True)


class Past:
    """The past of one server, for work that does not read it: each access is refused.

    Paths are whole ones, which begin with `.history`. Those on the way are followed in one point
    only. Methods raise FileMissing and what those of `ServerRoot` raise with such a path, and
    PastUnreadable.
    """

    def stat(self, path: ServerPath) -> Entry:
        """Return the entry of a path; a symlink is itself meant."""
        self._refuse(path)

    def directory(self, path: ServerPath) -> Directory:
        """Return a directory, to be listed."""
        self._refuse(path)

    def open_file(self, path: ServerPath) -> OpenFile:
        """Open a regular file for reading: a copy, which stays as it is."""
        self._refuse(path)

    def link_text(self, path: ServerPath) -> bytes:
        """Return the text of a symlink."""
        self._refuse(path)

    def real_path(self, path: ServerPath) -> ServerPath:
        """Return the path without the symlinks that lead to its directory."""
        self._refuse(path)

    def write(self, path: ServerPath, fd: int, cancelled: Callable[[], bool]) -> None:
        """Write a regular file to the empty one with the descriptor `fd`."""
        self._refuse(path)

    def tree(
        self, path: ServerPath, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[ServerPath, Entry, bytes, Callable[[int], None]]]:
        """Yield all that is below a directory, parents first.

        With each come the text of a symlink, and what writes a regular file, which is called
        before the next entry is asked for, with a descriptor as for `write`.
        """
        self._refuse(path)

    @staticmethod
    def _refuse(path: ServerPath) -> NoReturn:
        raise PastReadOnly


class PastFile(OpenFile):
    """A regular file of the past, open for reading: a copy that has no name.

    `ended` is called once, in any thread, when the copy is not used any more.
    """

    def __init__(self, fd: int, entry: Entry, ended: Callable[[], object] = lambda: None) -> None:
        super().__init__(fd, entry)
        self._endings = [ended]

    def stat(self) -> Entry:
        """Return its entry, which does not change."""
        return self.entry

    def close(self) -> None:
        """Close it; a second time nothing is done."""
        super().close()
        while self._endings:
            self._endings.pop()()

    def given_away(self) -> Callable[[], object]:
        """Return what is to be called when another process, which has it, has closed it."""
        return self._endings.pop()


class PastDirectoryListing(Directory):
    """A directory of the past; `found` are its entries, which are read once.

    `fd` is a descriptor that they are read from, which is closed with this.
    """

    def __init__(self, path: ServerPath, own: Entry, found: Iterator[Entry], fd: int = -1) -> None:
        super().__init__(fd, path)
        self._own = own
        self._found = found

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, in no order."""
        return self._found

    def own_entry(self) -> Entry:
        """Return the entry of the directory itself."""
        return self._own

    def open_file(self, name: bytes) -> OpenFile:
        """Refuse to open a file: each would be copied for its first bytes."""
        raise PastReadOnly(os.fsdecode(name))

    def tree(
        self, select: Callable[[Listing], Listing]
    ) -> AbstractContextManager[Iterator[Listing]]:
        """Refuse to walk by descriptors; see `Past.tree`."""
        raise PastReadOnly

    def close(self) -> None:
        """Read no more entries."""
        self._found = iter(())
        super().close()
