"""Divides a tree into parts of about equal size, each to be packed into an archive of its own.

A part is a range of the order in which `walk` goes through the tree. A range ends at a place in
that order and is no list of files, so whatever changes while the tree is read, each name is in
exactly one part.
"""

from __future__ import annotations

import stat
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from contextlib import closing

from attrs import Factory, evolve, frozen

from wingsd.filesystem.open_directories import Path
from wingsd.filesystem.walk import FirstNames, Listing, opened, stats, walk

TreeKey = tuple[tuple[int, bytes], ...]
"""The place of a name in the order: each directory above it, then itself, with its kind."""

FILES, SYMLINKS, OTHERS, DIRECTORIES = range(4)
_END: TreeKey = ((DIRECTORIES + 1, b""),)  # behind every name

#: The most places that are kept: parts may be off by one in so many of the whole.
MAX_MARKS = 4096

_HEADER = 1536  # bytes of a member's headers, with a time in nanoseconds


def directory_key(path: Path) -> TreeKey:
    """Return the place of a directory, which comes right before its contents."""
    return tuple((DIRECTORIES, part) for part in path)


@frozen(repr=False)
class TreeRange:
    """All names from `first` on that come before `end`."""

    first: TreeKey = ()
    end: TreeKey = _END

    def contains(self, key: TreeKey) -> bool:
        """Return whether a name is in the range."""
        return self.first <= key < self.end

    def overlaps(self, path: Path) -> bool:
        """Return whether the directory, or anything below it, is in the range."""
        key = directory_key(path)
        return self.first[: len(key)] <= key < self.end

    def select(self, listing: Listing) -> Listing:
        """Return the names of a listing in the range, and the directories that overlap it."""
        if self is EVERYTHING:
            return listing
        return evolve(
            listing,
            files=self._cut(listing.path, FILES, listing.files),
            symlinks=self._cut(listing.path, SYMLINKS, listing.symlinks),
            others=self._cut(listing.path, OTHERS, listing.others),
            directories=[n for n in listing.directories if self.overlaps((*listing.path, n))],
        )

    def _cut(self, path: Path, kind: int, names: list[bytes]) -> list[bytes]:
        parent = directory_key(path)

        def place(name: bytes) -> TreeKey:
            return (*parent, (kind, name))

        start = bisect_left(names, self.first, key=place)
        return names[start : bisect_left(names, self.end, lo=start, key=place)]


EVERYTHING = TreeRange()


class PartitionBuilder:
    """Finds ranges of about equal size of the names added, in whatever order these come.

    It keeps at most `MAX_MARKS` places, however many names are added.
    """

    def __init__(self) -> None:
        #: Places, each with the bytes of what lies between it and the next.
        self._marks: list[tuple[TreeKey, int]] = []
        self._total = 0

    def add(self, key: TreeKey, size: int) -> None:
        """Add a name, and the bytes that it takes of an archive."""
        self._marks.append((key, size))
        self._total += size
        if len(self._marks) > MAX_MARKS:
            self._merge_marks()

    def _merge_marks(self) -> None:
        """Merge neighbours until about half as many places are left."""
        least = max(1, -(-2 * self._total // MAX_MARKS))
        marks = sorted(self._marks)
        self._marks.clear()
        start, merged = marks[0][0], 0
        for key, size in marks:
            if merged >= least:
                self._marks.append((start, merged))
                start, merged = key, 0
            merged += size
        self._marks.append((start, merged))

    def ranges(self, count: int) -> list[TreeRange]:
        """Return `count` ranges in order that contain every name; some may be empty."""
        starts: list[tuple[int, TreeKey]] = []
        before = 0
        for key, size in sorted(self._marks):
            if before:
                starts.append((before, key))
            before += size
        starts.append((self._total, _END))
        cuts = [_nearest(starts, self._total * number // count) for number in range(1, count)]
        return [
            TreeRange(first, end) for first, end in zip([(), *cuts], [*cuts, _END], strict=True)
        ]


def _nearest(starts: list[tuple[int, TreeKey]], offset: int) -> TreeKey:
    at = bisect_right(starts, offset, key=lambda start: start[0])
    candidates = starts[max(at - 1, 0) : at + 1]
    return min(candidates, key=lambda start: abs(start[0] - offset))[1]


@frozen(repr=False)
class Part:
    """A range of the tree below `directory`, by default all of it.

    `first_names` are those of hard-linked files in the whole tree. `limit` is the most bytes of
    file data that may be sent of the part, None without a limit. `select` reduces the listings of
    directories to what is packed; a directory that it drops is not entered. With `holes`, sparse
    files are packed as such, with `attributes` extended attributes and ACLs.
    """

    directory: str
    tree_range: TreeRange = EVERYTHING
    first_names: FirstNames = Factory(FirstNames)
    limit: int | None = None
    select: Callable[[Listing], Listing] = lambda listing: listing
    holes: bool = False
    attributes: bool = True


def split(directory: str, count: int, limit: int | None = None) -> list[Part]:
    """Divide the tree below `directory` into `count` parts, the same for the same tree.

    Each part may have `limit` bytes of file data. Parts are about equally large, except for single
    larger files. Blocking: calls stat once for every file and reads none. Raises StorageError
    where something cannot be read.
    """
    builder = PartitionBuilder()
    names = FirstNames()
    with opened(directory) as root, closing(walk(root, lambda name, why: None)) as listings:
        for listing in listings:
            if listing.is_first:
                builder.add(directory_key(listing.path), _HEADER)
            parent = directory_key(listing.path)
            for kind, found_names in ((FILES, listing.files), (SYMLINKS, listing.symlinks)):
                for name, found in stats(listing, found_names):
                    if found.st_nlink > 1:
                        names.add((found.st_dev, found.st_ino), listing.prefix + name)
                    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
                    builder.add((*parent, (kind, name)), _HEADER + size)
    return [Part(directory, tree_range, names, limit) for tree_range in builder.ranges(count)]
