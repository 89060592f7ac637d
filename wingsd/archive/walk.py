"""Walks a tree by directory descriptors: no symlink is followed, no recursion, few descriptors.

The order is the same every time. A directory comes before what is in it; of one directory first
the files, then the symlinks, then the rest, then its directories, each sorted by their bytes. So
only the names of directories that are still to come are kept of the directories above.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import NoReturn

from wingsd.archive.directories import Directories
from wingsd.archive.listing import Listing, Path
from wingsd.archive.policy import MAX_NAME, display
from wingsd.archive.span import EVERYTHING, Span
from wingsd.diskadvice import reading_advice
from wingsd.errors import StorageError

__all__ = [
    "REPLACED",
    "VANISHED",
    "gone",
    "measure",
    "opened",
    "unreadable",
    "walk",
]

VANISHED = "it vanished meanwhile"
REPLACED = "it was replaced by something else meanwhile"

_MISSING = (errno.ENOENT, errno.ESTALE)


def measure(directory: str) -> int:
    """Return the bytes of data of all regular files below it, a hard-linked one counted once.

    What is a hole of a sparse file counts as well. Blocking; follows no symlink. What vanishes
    meanwhile counts as nothing. Raises StorageError where a directory cannot be read.
    """
    total = 0
    linked: set[tuple[int, int]] = set()
    with opened(directory) as root:
        for listing in walk(root, lambda name, why: None):
            for found in _stats(listing):
                if found.st_nlink > 1:
                    inode = (found.st_dev, found.st_ino)
                    if inode in linked:
                        continue
                    linked.add(inode)
                total += found.st_size
    return total


def _stats(listing: Listing) -> Iterator[os.stat_result]:
    for name in listing.files:
        try:
            found = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
        except OSError as error:
            if not gone(error):
                unreadable(listing.prefix + name, error)
            continue
        if stat.S_ISREG(found.st_mode):
            yield found


@contextmanager
def opened(directory: str) -> Iterator[int]:
    """Open the root of a tree. Raises StorageError where there is none, or only a symlink."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise StorageError.reading(f"{directory}: {reading_advice(error)}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def walk(
    root: int, leave_out: Callable[[bytes, str], None], span: Span = EVERYTHING
) -> Generator[Listing, None, None]:
    """Yield every directory of the tree below the descriptor `root`, itself first.

    Of a `span` that is not everything, each that it enters, with what is in it alone.

    `leave_out` gets the name and the reason for each directory that is gone, or something else,
    when its turn comes. Raises StorageError where one cannot be read, and for names too long.
    """
    with closing(Directories(root, lambda path: None)) as directories:
        here: list[bytes] = []
        todo: list[list[bytes]] = []
        while True:
            listing = _listing(directories, tuple(here), leave_out)
            if listing is not None:
                if span is not EVERYTHING:
                    listing = span.of(listing)
                yield listing
            todo.append(listing.directories[::-1] if listing is not None else [])
            while todo and not todo[-1]:
                todo.pop()
            if not todo:
                return
            here[len(todo) - 1 :] = [todo[-1].pop()]


def _listing(
    directories: Directories, path: Path, leave_out: Callable[[bytes, str], None]
) -> Listing | None:
    name = b"/".join(path)
    if len(name) > MAX_NAME:
        raise StorageError.reading(
            f"{display(name)} lies too deep: with the directories above, its name is longer than "
            f"{MAX_NAME} bytes; move it up or delete it, and transfer the server again"
        )
    try:
        fd = directories.get(path, make=False)
        listing = Listing(path, fd, os.fstat(fd))
        _fill(listing)
    except OSError as error:
        if gone(error) and path:
            leave_out(name, VANISHED)
        elif error.errno in (errno.ENOTDIR, errno.ELOOP):
            leave_out(name, REPLACED)
        else:
            unreadable(name, error)
        return None
    return listing


def _fill(listing: Listing) -> None:
    with os.scandir(listing.fd) as entries:
        for entry in entries:
            _names(listing, entry).append(os.fsencode(entry.name))
    for names in (listing.files, listing.symlinks, listing.others, listing.directories):
        names.sort()


def _names(listing: Listing, entry: os.DirEntry[str]) -> list[bytes]:
    if entry.is_file(follow_symlinks=False):
        return listing.files
    if entry.is_dir(follow_symlinks=False):
        return listing.directories
    return listing.symlinks if entry.is_symlink() else listing.others


def gone(error: OSError) -> bool:
    """Return whether it says of a name that nothing has it any more."""
    return error.errno in _MISSING


def unreadable(name: bytes, error: OSError) -> NoReturn:
    """Raise the StorageError that says what to do about `name`."""
    shown = display(name or b".")
    raise StorageError.reading(f"{shown} could not be read: {reading_advice(error)}") from error
