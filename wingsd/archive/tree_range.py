"""Ranges of a tree in the order in which it is sent, and the entries of one directory.

The order is that in which `walk` goes. A border is a place in it and no list of files, so whatever
changes in the tree while it is read, each name is in exactly one span. Pure.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right

from attrs import Factory, evolve, frozen

__all__ = [
    "EVERYTHING",
    "FILES",
    "SYMLINKS",
    "Borders",
    "Key",
    "Listing",
    "Path",
    "TreeRange",
    "directory_key",
]

Path = tuple[bytes, ...]
"""A directory or file below a root, by the names on the way to it; `()` is the root."""


@frozen
class Listing:
    """One directory: its path, a descriptor and what it tells, and the names in it by kind.

    The descriptor is good until the next listing is asked for. A directory with many names comes
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
        """What stands before the names in it to make names below the root."""
        return b"".join(part + b"/" for part in self.path)


Key = tuple[tuple[int, bytes], ...]
"""The place of a name in the order: each directory above it, then itself, with its kind."""

FILES, SYMLINKS, OTHERS, DIRECTORIES = range(4)
_END: Key = ((DIRECTORIES + 1, b""),)  # behind all that there can be

#: The most places that are remembered: by so many the parts may be off, in parts of the whole.
MARKS = 4096


def directory_key(path: Path) -> Key:
    """Return the place of a directory, which comes right before all that is in it."""
    return tuple((DIRECTORIES, part) for part in path)


@frozen
class TreeRange:
    """All from `first` on that comes before `end`."""

    first: Key = ()
    end: Key = _END

    def holds(self, key: Key) -> bool:
        """Return whether a name is in it."""
        return self.first <= key < self.end

    def enters(self, path: Path) -> bool:
        """Return whether the directory, or anything below it, is in it."""
        key = directory_key(path)
        return self.first[: len(key)] <= key < self.end

    def of(self, listing: Listing) -> Listing:
        """Return what of a directory is in it, with the directories that it enters."""
        return evolve(
            listing,
            files=self._cut(listing.path, FILES, listing.files),
            symlinks=self._cut(listing.path, SYMLINKS, listing.symlinks),
            others=self._cut(listing.path, OTHERS, listing.others),
            directories=[n for n in listing.directories if self.enters((*listing.path, n))],
        )

    def _cut(self, path: Path, kind: int, names: list[bytes]) -> list[bytes]:
        above = directory_key(path)

        def place(name: bytes) -> Key:
            return (*above, (kind, name))

        start = bisect_left(names, self.first, key=place)
        return names[start : bisect_left(names, self.end, lo=start, key=place)]


EVERYTHING = TreeRange()


class Borders:
    """Finds the borders between about equal parts of what is added, in whatever order that comes.

    It remembers some thousand places, however much is added.
    """

    def __init__(self) -> None:
        #: Places, each with the bytes of what lies between it and the next.
        self._marks: list[tuple[Key, int]] = []
        self._total = 0

    def add(self, key: Key, size: int) -> None:
        """Add a name, and the bytes that it takes of an archive."""
        self._marks.append((key, size))
        self._total += size
        if len(self._marks) > MARKS:
            self._thin_out()

    def _thin_out(self) -> None:
        """Join neighbours, so that about half as many places are left."""
        apart = max(1, -(-2 * self._total // MARKS))
        marks = sorted(self._marks)
        self._marks.clear()
        here, gathered = marks[0][0], 0
        for key, size in marks:
            if gathered >= apart:
                self._marks.append((here, gathered))
                here, gathered = key, 0
            gathered += size
        self._marks.append((here, gathered))

    def spans(self, count: int) -> list[TreeRange]:
        """Return that many spans, in order, which hold everything; some may hold nothing."""
        starts: list[tuple[int, Key]] = []
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


def _nearest(starts: list[tuple[int, Key]], place: int) -> Key:
    at = bisect_right(starts, place, key=lambda start: start[0])
    near = starts[max(at - 1, 0) : at + 1]
    return min(near, key=lambda start: abs(start[0] - place))[1]
