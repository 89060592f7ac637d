"""Walks through trees by directory descriptors: no symlink is followed.

A directory comes before its contents: first the files, then the symlinks, then the rest, each
sorted by their bytes, and its directories last. A directory with more than `BATCH` names is read
in batches of that size, in the order of the file system, and each batch is sorted. Memory holds
one batch and the names of directories still to be read, at most `MAX_PENDING` bytes.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import NoReturn

from attrs import Factory, define, frozen

from wingsd.errors import StorageError, TreeTooLarge
from wingsd.filesystem.errors import file_error
from wingsd.filesystem.open_directories import REPLACED, OpenDirectories, Path
from wingsd.util.text import display, reading_advice

__all__ = [
    "BATCH",
    "MAX_LINKED",
    "MAX_NAME",
    "MAX_PENDING",
    "VANISHED",
    "FirstNames",
    "Inode",
    "Listing",
    "gone",
    "opened",
    "opened_again",
    "small_listing",
    "unreadable",
    "unreadable_for_user",
    "walk",
]

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


@contextmanager
def opened(directory: str) -> Iterator[int]:
    """Open the root of a tree. Raises StorageError where it is missing, or a symlink."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise StorageError.reading(f"{directory}: {reading_advice(error)}") from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_again(root: int) -> Iterator[int]:
    """Open a root once more. Raises StorageError.

    Two walks at a time need a descriptor each: one that lists a directory moves on for all.
    """
    try:
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    except OSError as error:
        unreadable(b"", error)
    try:
        yield fd
    finally:
        os.close(fd)


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
    with closing(OpenDirectories(root, lambda path: None)) as directories:
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
            f"{MAX_NAME} bytes; move it up or delete it, and transfer the server again"
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
        _names(listing, entry).append(os.fsencode(entry.name))
    for names in (listing.files, listing.symlinks, listing.others, listing.directories):
        names.sort()
    return listing


def _names(listing: Listing, entry: os.DirEntry[str]) -> list[bytes]:
    if entry.is_file(follow_symlinks=False):
        return listing.files
    if entry.is_dir(follow_symlinks=False):
        return listing.directories
    return listing.symlinks if entry.is_symlink() else listing.others


def gone(error: OSError) -> bool:
    """Return whether an error means that the file does not exist any more."""
    return error.errno in _MISSING
