"""Walks, measures and removes trees by directory descriptors: no symlink is followed.

A directory comes before what is in it; of one directory first the files, then the symlinks, then
the rest, each sorted by their bytes, and at last its directories. A directory with more than
`BATCH` names is read in batches of so many, in the order of the file system; each batch is sorted
in itself. So no whole directory is kept in memory, but for the names of directories that are still
to be entered: they may take `MAX_PENDING` bytes.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import NoReturn

from attrs import Factory, define, frozen

from wingsd.archive.directories import OpenDirectories
from wingsd.archive.policy import MAX_NAME, display
from wingsd.archive.quota import counted_entries
from wingsd.archive.tree_range import EVERYTHING, Listing, Path, TreeRange
from wingsd.errors import StorageError
from wingsd.util.os_errors import reading_advice

__all__ = [
    "BATCH",
    "MAX_LINKED",
    "MAX_PENDING",
    "REPLACED",
    "VANISHED",
    "FirstNames",
    "Inode",
    "Measured",
    "gone",
    "measure",
    "opened",
    "remove_tree",
    "survey",
    "unreadable",
    "walk",
]

_LONGEST = 300


def remove_tree(path: str) -> None:
    """Delete a directory and all below it; symlinks are not followed. A missing one is fine.

    What is mounted in it stays, and fails the rest. Raises OSError with rm's first complaint.
    """
    # Not by shutil.rmtree: its depth is bounded by the stack and the open files of this process,
    # and a server can make directories in directories without end.
    command = ["/bin/rm", "-rf", "--one-file-system", "--", path]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").partition("\n")[0]
        raise OSError(complaint.removeprefix("/bin/rm: ")[:_LONGEST] or "it was not deleted")


Inode = tuple[int, int]
"""The device and the number of a file, which all its names have in common."""

BATCH = 4096
"""The most names of one listing."""

MAX_PENDING = 64 << 20
"""The most bytes of names of directories that were seen and not entered yet."""

MAX_LINKED = 128 << 20
"""About the most bytes of memory for files with several names, in one walk."""

VANISHED = "it vanished meanwhile"
REPLACED = "it was replaced by something else meanwhile"

_MISSING = (errno.ENOENT, errno.ESTALE)
_LINKED = 250  # bytes of an entry of `FirstNames` beside its name, as CPython 3.11 has it


@define
class FirstNames:
    """The first name that was found of each file that has several.

    `room` is about the bytes of memory that they may take.
    """

    _room: int = MAX_LINKED
    _names: dict[Inode, bytes] = Factory(dict)

    def get(self, inode: Inode) -> bytes | None:
        """Return the first name of a file, None before it has one."""
        return self._names.get(inode)

    def add(self, inode: Inode, name: bytes) -> bool:
        """Give a file its first name; return whether it had none yet.

        Raises StorageError where there are too many.
        """
        if inode in self._names:
            return False
        self._room -= _LINKED + len(name)
        if self._room < 0:
            raise StorageError.reading(
                f"more than {len(self._names)} of its files have several names (hard links), and "
                "the memory for them is used up; delete some of the links"
            )
        self._names[inode] = name
        return True


@frozen
class Measured:
    """What the files of a directory take, as a server's disk limit counts it.

    `size` is in bytes; `largest` is the name of the largest file, empty where there is none.
    """

    size: int
    largest: bytes
    largest_size: int

    @property
    def shown(self) -> str:
        """The name of the largest file, to be shown."""
        return display(self.largest)


def measure(directory: str) -> int:
    """Return the bytes that a directory takes; see `survey`."""
    return survey(directory).size


def survey(directory: str) -> Measured:
    """Measure a directory: the data of all regular files below it, a hard-linked one once.

    The holes of sparse files count as well, and so do directories, symlinks and further names of
    hard-linked files beyond the first `limits.FREE_ENTRIES`. Blocking; follows no symlink. What
    vanishes meanwhile counts as nothing. Raises StorageError where a directory cannot be read.
    """
    total = entries = largest_size = 0
    largest = b""
    linked = FirstNames()
    with opened(directory) as root, closing(walk(root, lambda name, why: None)) as listings:
        for listing in listings:
            entries += len(listing.directories) + len(listing.symlinks)
            for name, found in _stats(listing):
                if found.st_nlink > 1 and not linked.add((found.st_dev, found.st_ino), b""):
                    entries += 1
                    continue
                total += found.st_size
                if found.st_size > largest_size:
                    largest, largest_size = listing.prefix + name, found.st_size
    return Measured(total + counted_entries(entries), largest, largest_size)


def _stats(listing: Listing) -> Iterator[tuple[bytes, os.stat_result]]:
    for name in listing.files:
        try:
            found = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
        except OSError as error:
            if not gone(error):
                unreadable(listing.prefix + name, error)
            continue
        if stat.S_ISREG(found.st_mode):
            yield name, found


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
    root: int, leave_out: Callable[[bytes, str], None], span: TreeRange = EVERYTHING
) -> Generator[Listing, None, None]:
    """Yield every directory of the tree below the descriptor `root`, itself first.

    Of a `span` that is not everything, each that it enters, with what is in it alone.

    `leave_out` gets the name and the reason for each directory that is gone, or something else,
    when its turn comes. Raises StorageError where one cannot be read, for names too long, and for
    too many directories side by side.
    """
    with closing(OpenDirectories(root, lambda path: None)) as directories:
        here: list[bytes] = []
        pending = _Pending()
        while True:
            pending.enter()
            for listing in _listings(directories, tuple(here), leave_out):
                part = listing if span is EVERYTHING else span.of(listing)
                pending.add(part)
                yield part
            depth, name = pending.take()
            if not name:
                return
            here[depth:] = [name]


class _Pending:
    """The names of directories that were seen and not entered yet.

    Those of each listing are kept as one text, as there may be millions of them.
    """

    def __init__(self) -> None:
        self._texts: list[deque[bytes]] = []
        self._names: list[Iterator[bytes]] = []
        self._size = 0

    def enter(self) -> None:
        """Begin with the names in one more directory, which is in the last that was taken."""
        texts: deque[bytes] = deque()
        self._texts.append(texts)
        self._names.append(self._taken(texts))

    def add(self, listing: Listing) -> None:
        """Add the directories of a listing. Raises StorageError where there are too many."""
        if not listing.directories:
            return
        text = b"/".join((*listing.directories, b""))
        self._texts[-1].append(text)
        self._size += len(text)
        if self._size > MAX_PENDING:
            raise StorageError.reading(
                f"{display(b'/'.join(listing.path) or b'.')} holds too many directories: the "
                f"names of those still to be read take more than {MAX_PENDING >> 20} MiB; "
                "delete some of them"
            )

    def take(self) -> tuple[int, bytes]:
        """Return the next name, and how deep its directory lies; an empty one at the end."""
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


def _listings(
    directories: OpenDirectories, path: Path, leave_out: Callable[[bytes, str], None]
) -> Iterator[Listing]:
    name = b"/".join(path)
    if len(name) > MAX_NAME:
        raise StorageError.reading(
            f"{display(name)} lies too deep: with the directories above, its name is longer than "
            f"{MAX_NAME} bytes; move it up or delete it, and transfer the server again"
        )
    try:
        fd = directories.get(path, make=False)
        found = os.fstat(fd)
        with os.scandir(fd) as entries:
            yield _filled(Listing(path, fd, found), islice(entries, BATCH))
            while batch := list(islice(entries, BATCH)):
                yield _filled(Listing(path, fd, found, is_first=False), batch)
    except OSError as error:
        if gone(error) and path:
            leave_out(name, VANISHED)
        elif error.errno in (errno.ENOTDIR, errno.ELOOP):
            leave_out(name, REPLACED)
        else:
            unreadable(name, error)


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
    """Return whether it says of a name that nothing has it any more."""
    return error.errno in _MISSING


def unreadable(name: bytes, error: OSError) -> NoReturn:
    """Raise the StorageError that says what to do about `name`."""
    shown = display(name or b".")
    raise StorageError.reading(f"{shown} could not be read: {reading_advice(error)}") from error
