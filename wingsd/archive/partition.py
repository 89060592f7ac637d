"""Divides a tree into parts of about equal size, each to be packed into an archive of its own."""

from __future__ import annotations

import os
import stat
from contextlib import closing

from attrs import Factory, frozen

from wingsd.archive.tree_range import (
    EVERYTHING,
    FILES,
    SYMLINKS,
    Borders,
    Listing,
    TreeRange,
    directory_key,
)
from wingsd.archive.walk import FirstNames, gone, opened, unreadable, walk

__all__ = ["Part", "split"]

_HEADER = 1536  # what the headers of a member take, which has its time in nanoseconds


@frozen
class Part:
    """What of the tree below `directory` is in a span, by default all of it.

    It has the first name in the whole tree of each file that has several. `limit` is the most
    bytes of file data that may be sent of it, None without a limit.
    """

    directory: str
    span: TreeRange = EVERYTHING
    first_names: FirstNames = Factory(FirstNames)
    limit: int | None = None


def split(directory: str, count: int, limit: int | None = None) -> list[Part]:
    """Divide the tree below `directory` into that many parts, the same for the same tree.

    Each may have `limit` bytes of file data. They hold about as many bytes, but for single files
    that are larger. Blocking: every file is looked at once, and none is read. Raises StorageError
    where something cannot be read.
    """
    borders = Borders()
    names = FirstNames()
    with opened(directory) as root, closing(walk(root, lambda name, why: None)) as listings:
        for listing in listings:
            if listing.is_first:
                borders.add(directory_key(listing.path), _HEADER)
            _add(listing, FILES, listing.files, borders, names)
            _add(listing, SYMLINKS, listing.symlinks, borders, names)
    return [Part(directory, span, names, limit) for span in borders.spans(count)]


def _add(
    listing: Listing,
    kind: int,
    names: list[bytes],
    borders: Borders,
    first_names: FirstNames,
) -> None:
    above = directory_key(listing.path)
    for name in names:
        try:
            found = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
        except OSError as error:
            if not gone(error):
                unreadable(listing.prefix + name, error)
            continue
        if found.st_nlink > 1:
            first_names.add((found.st_dev, found.st_ino), listing.prefix + name)
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        borders.add((*above, (kind, name)), _HEADER + size)
