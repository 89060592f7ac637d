"""The members of an archive of some files of a server, read once, in the order of `walk`.

No symlink is followed, and nothing but regular files is opened. Files that are deleted meanwhile
are left out. Blocking.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs

from wingsd.errors import FileTypeRefused, IsDirectory
from wingsd.files.guard import Guard
from wingsd.filesystem import ServerPath, ServerRoot
from wingsd.filesystem.directory import open_regular
from wingsd.filesystem.new_file import TEMPORARY
from wingsd.filesystem.walk import Listing, gone, unreadable_for_user

__all__ = ["Chosen", "FileMember", "Selection"]

#: It was replaced by something else than a symlink.
_REPLACED = (errno.EINVAL,)
_STEP = 240 << 10


@attrs.frozen
class FileMember:
    """A directory, a regular file or a symlink: its path in the archive, and its stat result.

    `fd` is of a regular file, and valid until the next member; `link` is the text of a symlink.
    """

    name: bytes
    found: os.stat_result
    fd: int = -1
    link: bytes = b""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.found.st_mode)

    @property
    def size(self) -> int:
        """The bytes of a regular file, 0 for others."""
        return self.found.st_size if self.fd >= 0 else 0

    def data(self) -> Iterator[bytes]:
        """Yield as many bytes as `size`: of a file that became shorter, zeros for the rest.

        Raises StorageError.
        """
        left = self.size
        while left:
            try:
                block = os.read(self.fd, min(left, _STEP)) or bytes(min(left, _STEP))
            except OSError as error:
                unreadable_for_user(self.name, error)
            left -= len(block)
            yield block


class Chosen:
    """The files that a user has chosen, by their paths in one directory; its own is all of it."""

    def __init__(self, paths: Iterable[ServerPath]) -> None:
        #: The names on the way to each of them, and True in place of the names in one of them.
        self._tree: Any = {}
        for path in paths:
            if path.is_root:
                self._tree = True
            here = self._tree
            for part in path.parts[:-1]:
                if here is True:
                    break
                here = here.setdefault(part, {})
            if here is not True:
                here[path.name] = True

    def of(self, directory: tuple[bytes, ...]) -> Callable[[bytes, bool], bool]:
        """Return what decides on a name in a directory, and whether that is a directory."""
        here = self._tree
        for part in directory:
            if here is True:
                break
            here = here.get(part, {})
        if here is True:
            return lambda name, is_directory: True

        def chosen(name: bytes, is_directory: bool) -> bool:
            found = here.get(name)
            return found is True or (is_directory and found is not None)

        return chosen

    def has(self, directory: tuple[bytes, ...]) -> bool:
        """Return whether a directory is itself chosen, or below one that is."""
        return bool(directory) and self.of(directory[:-1])(directory[-1], False)


@attrs.frozen
class Selection:
    """What of the directory `top` is packed into `archive`, of which a part is denied."""

    root: ServerRoot
    guard: Guard
    top: ServerPath
    chosen: Chosen
    archive: ServerPath

    def total(self, check: Callable[[], None]) -> int:
        """Return the bytes of its regular files. `check` is called now and then.

        Raises the errors of `members`.
        """
        total = 0
        with self._listings() as listings:
            for listing in listings:
                check()
                for name in listing.files:
                    with suppress(OSError):
                        total += os.lstat(name, dir_fd=listing.fd).st_size
        return total

    def members(self) -> Iterator[FileMember]:
        """Yield what is chosen but what is denied, `archive` itself, and files being written.

        Raises DirectoryMissing, FileInUse, and StorageError where something cannot be read.
        """
        with self._listings() as listings:
            for listing in listings:
                if listing.is_first and self.chosen.has(listing.path):
                    yield FileMember(b"/".join(listing.path), listing.stat)
                for name in listing.files:
                    with _opened(listing, name) as member:
                        if member is not None:
                            yield member
                for name in listing.symlinks:
                    symlink = _symlink(listing, name)
                    if symlink is not None:
                        yield symlink

    @contextmanager
    def _listings(self) -> Iterator[Iterator[Listing]]:
        places = (self.top, self.root.real_path(self.top))

        def select(listing: Listing) -> Listing:
            here = [ServerPath((*place.parts, *listing.path)) for place in places]
            return self.guard.allowed(self._wanted(listing, here[0]), *here)

        with (
            self.root.directory(self.top) as directory,
            directory.tree(select) as listings,
        ):
            yield listings

    def _wanted(self, listing: Listing, here: ServerPath) -> Listing:
        chosen = self.chosen.of(listing.path)

        def left(names: list[bytes], is_directory: bool) -> list[bytes]:
            return [
                name
                for name in names
                if chosen(name, is_directory) and here.child(name) != self.archive
            ]

        return attrs.evolve(
            listing,
            files=[each for each in left(listing.files, False) if not TEMPORARY.fullmatch(each)],
            symlinks=left(listing.symlinks, False),
            others=[],
            directories=left(listing.directories, True),
        )


@contextmanager
def _opened(listing: Listing, name: bytes) -> Iterator[FileMember | None]:
    path = listing.prefix + name
    try:
        file = open_regular(listing.fd, name)
    except (IsDirectory, FileTypeRefused):  # it was replaced
        yield None
        return
    except OSError as error:
        _check(path, error)
        yield None
        return
    with file:
        try:
            found = os.fstat(file.fileno())
        except OSError as error:
            unreadable_for_user(path, error)
        yield FileMember(path, found, file.fileno())


def _symlink(listing: Listing, name: bytes) -> FileMember | None:
    path = listing.prefix + name
    try:
        found = os.lstat(name, dir_fd=listing.fd)
        return FileMember(path, found, link=os.readlink(name, dir_fd=listing.fd))
    except OSError as error:
        _check(path, error)
        return None


def _check(path: bytes, error: OSError) -> None:
    """Raise FileNotPermitted or StorageError unless the file was deleted or replaced."""
    if not gone(error) and error.errno not in _REPLACED:
        unreadable_for_user(path, error)
