"""The size of a server's files, as its disk limit counts them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing

from attrs import frozen

from wingsd.filesystem.walk import FirstNames, Listing, gone, opened, unreadable, walk
from wingsd.util.text import display

__all__ = [
    "ENTRY_SIZE",
    "FREE_ENTRIES",
    "MAX_SIZE",
    "Measured",
    "counted_entries",
    "measure",
    "survey",
]

FREE_ENTRIES = 50_000
"""Directories, symlinks and further hard links of one server, all together, that do not count
against its disk limit."""

ENTRY_SIZE = 4096
"""Bytes that each further one counts: the size of a directory on common file systems."""

_SECTOR = 512  # bytes of `st_blocks`, whatever the block size; stat(2)


MAX_SIZE = (1 << 63) - 1
"""The largest size that is told, of sparse files as a rule: what databases and Panels can read."""


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
    total = entries = largest_size = on_disk = files = 0
    largest = b""
    linked = FirstNames()
    with opened(directory) as root, closing(walk(root, lambda name, why: None)) as listings:
        for listing in listings:
            others = len(listing.directories) + len(listing.symlinks)
            entries += others
            files += others
            on_disk += others * ENTRY_SIZE
            for name, found in _stats(listing):
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
