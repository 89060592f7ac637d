"""Walks through trees by directory descriptors: no symlink is followed.

A directory comes before its contents: first the files, then the symlinks, then the rest, each
sorted by their bytes, and its directories last. A directory with more than `BATCH` names is read
in batches of that size, in the order of the file system, and each batch is sorted. Memory holds
one batch and the names of directories still to be read, at most `MAX_PENDING` bytes.

A tree is measured as a server's disk limit counts it, and given to one owner. An installation
script runs as root, so what it leaves belongs to root. Only entries with another owner are
changed. Symlinks are changed themselves. A file with several hard links is changed when all of
them are in the tree: with another one elsewhere it is somebody else's file as well.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from itertools import islice
from typing import NoReturn

from attrs import Factory, define, evolve, frozen

from wingsd.errors import StorageError, TreeTooLarge
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.open_directories import (
    REPLACED,
    OpenDirectories,
    Path,
    closing_descriptor,
)
from wingsd.filesystem.paths import file_error
from wingsd.util.text import disk_advice, display, reading_advice

Inode = tuple[int, int]
"""The device and the inode number of a file, the same for all its hard links."""

MAX_NAME = 1 << 14
"""Bytes in a whole name below the root: four times PATH_MAX. Without a limit, nested directories
could take all memory."""

BATCH = 4096
"""The most names of one listing."""

MAX_PENDING = 64 << 20
"""The most bytes of names of directories that are still to be read."""

MAX_LINKED = 128 << 20
"""About the most bytes of memory for hard-linked files, in one walk."""

VANISHED = "it vanished meanwhile"

_MISSING = (errno.ENOENT, errno.ESTALE)
_ENTRY = 250  # bytes of an entry of `FirstNames` beside its name, in CPython 3.11


@frozen(eq=False, repr=False)
class Listing:
    """One directory: its path, a descriptor and its stat result, and the names in it by kind.

    The descriptor is valid until the next listing is asked for. A directory with many names comes
    in several listings, one after the other.
    """

    path: Path
    fd: int
    stat: os.stat_result
    files: list[bytes] = Factory(list)
    symlinks: list[bytes] = Factory(list)
    others: list[bytes] = Factory(list)
    directories: list[bytes] = Factory(list)
    #: Whether it is the directory's first listing.
    is_first: bool = True

    @property
    def prefix(self) -> bytes:
        """The directory's name below the root with a slash, empty for the root."""
        return b"".join(part + b"/" for part in self.path)

    @property
    def count(self) -> int:
        """The number of names."""
        return sum(map(len, (self.files, self.symlinks, self.others, self.directories)))

    def filtered(self, keep: Callable[[bytes, bool], bool]) -> Listing:
        """Return what `keep` leaves of it, which gets each name and whether it is a directory."""

        def kept(names: list[bytes], is_directory: bool = False) -> list[bytes]:
            return [name for name in names if keep(name, is_directory)]

        return evolve(
            self,
            files=kept(self.files),
            symlinks=kept(self.symlinks),
            others=kept(self.others),
            directories=kept(self.directories, is_directory=True),
        )


@define
class FirstNames:
    """The name found first of each hard-linked file.

    `memory_left` is about the bytes of memory that further names may take.
    """

    _memory_left: int = MAX_LINKED
    _names: dict[Inode, bytes] = Factory(dict)

    def get(self, inode: Inode) -> bytes | None:
        """Return the first name of a file, None before one was added."""
        return self._names.get(inode)

    def add(self, inode: Inode, name: bytes) -> bool:
        """Set the first name of a file that has none; return whether it had none.

        Raises TreeTooLarge where there are too many.
        """
        if inode in self._names:
            return False
        self._memory_left -= _ENTRY + len(name)
        if self._memory_left < 0:
            raise TreeTooLarge.reading(
                f"more than {len(self._names)} of its files have several hard links, and the "
                "memory for them is used up; delete some of the links"
            )
        self._names[inode] = name
        return True


def opened(directory: str) -> AbstractContextManager[int]:
    """Open the root of a tree. Raises StorageError where it is missing, or a symlink."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise StorageError.reading(f"{directory}: {reading_advice(error)}") from error
    return closing_descriptor(fd)


def opened_again(root: int) -> AbstractContextManager[int]:
    """Open a root once more. Raises StorageError.

    Two walks at a time need a descriptor each: one that lists a directory moves on for all.
    """
    try:
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    except OSError as error:
        unreadable(b"", error)
    return closing_descriptor(fd)


def unreadable(name: bytes, error: OSError) -> NoReturn:
    """Raise StorageError for a file that cannot be read, with what to do about it."""
    shown = display(name or b".")
    raise StorageError.reading(f"{shown} could not be read: {reading_advice(error)}") from error


def unreadable_for_user(name: bytes, error: OSError) -> NoReturn:
    """Raise the same of what a user has asked for, but FileNotPermitted where it is that."""
    if isinstance(error, PermissionError):
        raise file_error(error, name) from error
    unreadable(name, error)


def walk(
    root: int,
    skipped: Callable[[bytes, str], None],
    select: Callable[[Listing], Listing] = lambda listing: listing,
    failed: Callable[[bytes, OSError], NoReturn] = unreadable,
    passed: Callable[[Path], Sequence[bytes] | None] = lambda path: None,
) -> Generator[Listing, None, None]:
    """Yield every directory of the tree below the descriptor `root`, itself first.

    `select` reduces each listing to the names wanted; directories that it drops are not entered.
    `passed` returns the directories in one that is not read, as another process has, and None for
    those that are.
    `skipped` is called with the name of each directory that was deleted or replaced before it was
    read, and the reason; `failed` raises the error of one that cannot be read, StorageError by
    default. Raises TreeTooLarge for names that are too long and for too many directories side by
    side.
    """
    with closing(OpenDirectories(root)) as directories:
        path: list[bytes] = []
        pending = _Pending()
        while True:
            pending.enter()
            names = passed(tuple(path))
            if names is not None:
                pending.add(path, names)
            else:
                for listing in _listings(directories, tuple(path), skipped, failed):
                    selected = select(listing)
                    pending.add(selected.path, selected.directories)
                    yield selected
            depth, name = pending.take()
            if not name:
                return
            path[depth:] = [name]


class _Pending:
    """The names of directories that are still to be read.

    Those of each listing are joined to one string, as there may be millions of them.
    """

    def __init__(self) -> None:
        self._texts: list[deque[bytes]] = []
        self._names: list[Iterator[bytes]] = []
        self._size = 0

    def enter(self) -> None:
        """Start the names in the directory that was taken last."""
        texts: deque[bytes] = deque()
        self._texts.append(texts)
        self._names.append(self._taken(texts))

    def add(self, path: Sequence[bytes], directories: Sequence[bytes]) -> None:
        """Add the directories in one. Raises TreeTooLarge where there are too many."""
        if not directories:
            return
        text = b"/".join((*directories, b""))
        self._texts[-1].append(text)
        self._size += len(text)
        if self._size > MAX_PENDING:
            raise TreeTooLarge.reading(
                f"{display(b'/'.join(path) or b'.')} holds too many directories: the "
                f"names of those still to be read take more than {MAX_PENDING >> 20} MiB; "
                "delete some of them"
            )

    def take(self) -> tuple[int, bytes]:
        """Return the depth of the next directory and its name, which is empty at the end."""
        while self._names:
            name = next(self._names[-1], b"")
            if name:
                return len(self._names) - 1, name
            self._names.pop()
            self._texts.pop()
        return 0, b""

    def _taken(self, texts: deque[bytes]) -> Iterator[bytes]:
        while texts:
            text, at = texts.popleft(), 0
            while (end := text.find(b"/", at)) >= 0:
                yield text[at:end]
                at = end + 1
            self._size -= len(text)


def small_listing(directories: OpenDirectories, path: Path) -> Listing | None:
    """Return a directory with less than `BATCH` names; None for others, and those unreadable."""
    try:
        fd = directories.get(path, make=False)
        found = os.fstat(fd)
        os.lseek(fd, 0, os.SEEK_SET)  # as in `_listings`
        with os.scandir(fd) as entries:
            listing = _filled(Listing(path, fd, found), islice(entries, BATCH))
    except OSError:
        return None
    return listing if listing.count < BATCH else None


def _listings(
    directories: OpenDirectories,
    path: Path,
    skipped: Callable[[bytes, str], None],
    failed: Callable[[bytes, OSError], NoReturn],
) -> Iterator[Listing]:
    name = b"/".join(path)
    if len(name) > MAX_NAME:
        raise TreeTooLarge.reading(
            f"{display(name)} is nested too deeply: its name with its directories is longer than "
            f"{MAX_NAME} bytes; move it up or delete it, and try again"
        )
    try:
        fd = directories.get(path, make=False)
        found = os.fstat(fd)
        # of a descriptor that stays open, btrfs lists what there was when it was last rewound
        os.lseek(fd, 0, os.SEEK_SET)
        with os.scandir(fd) as entries:
            yield _filled(Listing(path, fd, found), islice(entries, BATCH))
            while batch := list(islice(entries, BATCH)):
                yield _filled(Listing(path, fd, found, is_first=False), batch)
    except OSError as error:
        if gone(error) and path:
            skipped(name, VANISHED)
        elif error.errno in (errno.ENOTDIR, errno.ELOOP):
            skipped(name, REPLACED)
        else:
            failed(name, error)


def _filled(listing: Listing, entries: Iterable[os.DirEntry[str]]) -> Listing:
    for entry in entries:
        if entry.is_file(follow_symlinks=False):
            names = listing.files
        elif entry.is_dir(follow_symlinks=False):
            names = listing.directories
        else:
            names = listing.symlinks if entry.is_symlink() else listing.others
        names.append(os.fsencode(entry.name))
    for names in (listing.files, listing.symlinks, listing.others, listing.directories):
        names.sort()
    return listing


def gone(error: OSError) -> bool:
    """Return whether an error means that the file does not exist any more."""
    return error.errno in _MISSING


FREE_ENTRIES = 50_000
"""Directories, symlinks and further hard links of one server, all together, that do not count
against its disk limit."""

ENTRY_SIZE = 4096
"""Bytes that each further one counts: the size of a directory on common file systems."""

_SECTOR = 512  # bytes of `st_blocks`, whatever the block size; stat(2)


MAX_SIZE = (1 << 63) - 1
"""The largest size reported, of sparse files as a rule: what databases and Panels can read."""


def counted_entries(count: int) -> int:
    """Return the bytes that `count` directories and links of a server count together."""
    return max(count - FREE_ENTRIES, 0) * ENTRY_SIZE


@frozen
class Measured:
    """The size of a directory as a server's disk limit counts it, and its largest file.

    Sizes are in bytes; `largest` is the name of the largest file, empty where there is no file. A
    copy of it takes `on_disk` bytes, without the holes of sparse files, and has `files` files,
    directories and symlinks.
    """

    size: int
    largest: bytes
    largest_size: int
    on_disk: int = 0
    files: int = 0

    @property
    def shown(self) -> str:
        """The name of the largest file, for messages."""
        return display(self.largest)


def measure(directory: str) -> int:
    """Return the size of a directory in bytes; see `survey`."""
    return survey(directory).size


def survey(directory: str) -> Measured:
    """Measure a directory: the data of all regular files below it, hard-linked ones once.

    The holes of sparse files count, and so do directories, symlinks and further hard links beyond
    the first `FREE_ENTRIES`. Files that are deleted meanwhile do not. Blocking; follows no
    symlink. Raises StorageError where a directory cannot be read, and TreeTooLarge.
    """
    with opened(directory) as root, closing(walk(root, lambda name, why: None)) as listings:
        return measured(listings)


def measured(listings: Iterable[Listing]) -> Measured:
    """Measure what some listings have; see `survey`."""
    total = entries = largest_size = on_disk = files = 0
    largest = b""
    linked = FirstNames()
    for listing in listings:
        others = len(listing.directories) + len(listing.symlinks)
        entries += others
        files += others
        on_disk += others * ENTRY_SIZE
        for name, found in stats(listing, listing.files):
            if not stat.S_ISREG(found.st_mode):
                continue
            if found.st_nlink > 1 and not linked.add((found.st_dev, found.st_ino), b""):
                entries += 1
                continue
            files += 1
            total += found.st_size
            # file systems also allocate what a file may grow by
            whole = -(-found.st_size // ENTRY_SIZE) * ENTRY_SIZE
            on_disk += min(found.st_blocks * _SECTOR, whole)
            if found.st_size > largest_size:
                largest, largest_size = listing.prefix + name, found.st_size
    size = min(total + counted_entries(entries), MAX_SIZE)
    return Measured(size, largest, largest_size, on_disk, files)


def regular_bytes(listings: Iterable[Listing], check: Callable[[], None]) -> int:
    """Return the bytes of all regular files in some listings; `check` is called for each of them.

    Files that vanish meanwhile do not count.
    """
    total = 0
    for listing in listings:
        check()
        for name in listing.files:
            with suppress(OSError):
                total += os.lstat(name, dir_fd=listing.fd).st_size
    return total


def stats(listing: Listing, names: Iterable[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield names in a listing with their stat results, but those that vanish meanwhile.

    Raises StorageError where one cannot be read.
    """
    for name in names:
        try:
            yield name, os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
        except OSError as error:
            if not gone(error):
                unreadable(listing.prefix + name, error)


#: Hard-linked files that are counted at most, about 100 bytes each.
MAX_GIVEN_LINKED = 200_000
LINKED_ELSEWHERE = "it has a hard link outside of the directory"
TOO_MANY_LINKED = "too many files have several hard links"


@define
class GivenTree:
    """The number of entries that were changed, and of those that keep their owner.

    `example` is the name of one that does, and `why` the reason, both for people.
    """

    changed: int = 0
    kept: int = 0
    example: str = ""
    why: str = ""

    def keep(self, name: bytes, why: str) -> None:
        """Count an entry that keeps its owner."""
        self.kept += 1
        if not self.example:
            self.example, self.why = display(name or b"."), why


def give_tree(directory: str, owner: Owner, cancelled: Callable[[], bool]) -> GivenTree:
    """Give a directory and all below it to `owner`, unless `cancelled` says to stop.

    What cannot be changed keeps its owner. Blocking; `cancelled` is called in this thread for each
    directory. Raises StorageError where a directory cannot be read.
    """
    giver = _Giver(owner)
    with opened(directory) as root, closing(walk(root, lambda name, why: None)) as listings:
        for listing in listings:
            if cancelled():
                return giver.given
            giver.give(listing)
    for name, _ in giver.linked.values():
        giver.given.keep(name, LINKED_ELSEWHERE)
    return giver.given


@define(eq=False, repr=False)
class _Giver:
    _owner: Owner
    given: GivenTree = Factory(GivenTree)
    #: Of each hard-linked file of another owner, its first name and the links not yet seen.
    linked: dict[Inode, tuple[bytes, int]] = Factory(dict)

    def give(self, listing: Listing) -> None:
        if listing.is_first and self._is_foreign(listing.stat):
            self._change(listing.prefix.rstrip(b"/"), lambda: os.fchown(listing.fd, *self._owner))
        for names in (listing.files, listing.symlinks, listing.others):
            for name in names:
                self._give_entry(listing, name)

    def _is_foreign(self, found: os.stat_result) -> bool:
        return (found.st_uid, found.st_gid) != self._owner

    def _give_entry(self, listing: Listing, name: bytes) -> None:
        try:
            found = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
        except OSError as error:
            if not gone(error):
                self.given.keep(listing.prefix + name, disk_advice(error))
            return
        # A directory in its place is new, and the daemon's users cannot make one of another owner.
        if stat.S_ISDIR(found.st_mode) or not self._is_foreign(found):
            return
        if found.st_nlink > 1 and not self._is_last_link(found, listing.prefix + name):
            return

        def change() -> None:
            os.chown(name, *self._owner, dir_fd=listing.fd, follow_symlinks=False)

        self._change(listing.prefix + name, change)

    def _is_last_link(self, found: os.stat_result, name: bytes) -> bool:
        inode = (found.st_dev, found.st_ino)
        if inode not in self.linked and len(self.linked) >= MAX_GIVEN_LINKED:
            self.given.keep(name, TOO_MANY_LINKED)
            return False
        first, left = self.linked.get(inode, (name, found.st_nlink))
        if left > 1:
            self.linked[inode] = first, left - 1
            return False
        del self.linked[inode]
        return True

    def _change(self, name: bytes, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as error:
            if not gone(error):
                self.given.keep(name, disk_advice(error))
        else:
            self.given.changed += 1
