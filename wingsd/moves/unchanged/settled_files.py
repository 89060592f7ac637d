"""Settled files in little memory: two packed numbers each, inode number and ctime.

A settled file is known by both: if it is changed, its ctime is another, so that an entry that is
out of date matches no file. Everything else of a file's identity is in the tree.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import groupby, pairwise
from struct import Struct

from attrs import frozen

__all__ = ["SavedSettledFiles", "SettledFiles"]

#: Magic, version, boot, device, wall time less monotonic time, count.
_HEAD = Struct("<8sI16sQqQ")
_MAGIC = b"WMVSETTL"
_VERSION = 1
_CRC = Struct("<I")
_INODE_BITS = _CTIME_BITS = 64
#: How many files are sorted at a time, about: each takes 50 bytes then. And one of how many is
#: looked at to choose them.
_SLICE, _SAMPLED = 1 << 16, 64


class SettledFiles:
    """Inode numbers and ctimes (ns since 1970, not negative) of settled files: 16 bytes a file.

    `add` collects; `sort` has to be called before `has` finds what was added.
    """

    def __init__(self, inodes: Iterable[int] = (), ctimes: Iterable[int] = ()) -> None:
        self._inodes = array("Q", inodes)
        self._ctimes = array("Q", ctimes)
        #: Where the next file is if inode numbers were given in the order of the walk.
        self._likely = 0

    def __len__(self) -> int:
        return len(self._inodes)

    def add(self, inode: int, ctime: int) -> None:
        """Add a file; twice is the same as once."""
        self._inodes.append(inode)
        self._ctimes.append(ctime)

    def take(self, others: SettledFiles) -> None:
        """Add the files of others; both are sorted, and so is this one after it.

        Of a file that is in both only the later ctime is known.
        """
        count = len(self)
        for inode, ctime in zip(others._inodes, others._ctimes, strict=True):
            at = bisect_left(self._inodes, inode, hi=count)
            if at < count and self._inodes[at] == inode:
                self._ctimes[at] = max(self._ctimes[at], ctime)
            else:
                self.add(inode, ctime)
        if len(self) > count:
            self.sort()

    def sort(self) -> None:
        """Make what was added known to `has`."""
        inodes, ctimes = self._inodes, self._ctimes
        self._inodes, self._ctimes = array("Q"), array("Q")
        for low, high in pairwise((0, *_bounds(inodes), 1 << _INODE_BITS)):
            pairs = zip(inodes, ctimes, strict=True)
            self._append(
                sorted(
                    inode << _CTIME_BITS | ctime for inode, ctime in pairs if low <= inode < high
                )
            )

    def _append(self, merged: list[int]) -> None:
        """Add sorted files, one number each: tuples would take three times the memory."""
        mask = (1 << _CTIME_BITS) - 1
        for inode, each in groupby(merged, key=lambda both: both >> _CTIME_BITS):
            *_, last = each
            self.add(inode, last & mask)

    def has(self, inode: int, ctime: int) -> bool:
        """Return whether the file was settled with this ctime."""
        at = self._likely
        if at >= len(self._inodes) or self._inodes[at] != inode:
            at = bisect_left(self._inodes, inode)
        self._likely = at + 1
        return at < len(self._inodes) and self._inodes[at] == inode and self._ctimes[at] == ctime

    def packed(self) -> bytes:
        """Return all of it, little-endian."""
        numbers = self._inodes + self._ctimes
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tobytes()

    @classmethod
    def unpacked(cls, data: bytes) -> SettledFiles:
        """Return what `packed` has packed."""
        numbers = array("Q", data)
        if sys.byteorder == "big":
            numbers.byteswap()
        half = len(numbers) // 2
        return cls(numbers[:half], numbers[half:])


def _bounds(inodes: array[int]) -> list[int]:
    """Return inode numbers that divide others into parts of about `_SLICE`."""
    sample = sorted(inodes[::_SAMPLED])
    return sample[_SLICE // _SAMPLED :: _SLICE // _SAMPLED]


@frozen(eq=False, repr=False)
class SavedSettledFiles:
    """Settled files with what they hold for: one boot, device and clock. As bytes for a file."""

    boot: bytes
    device: int
    offset: int
    files: SettledFiles

    def packed(self) -> bytes:
        """Return the bytes."""
        head = _HEAD.pack(_MAGIC, _VERSION, self.boot, self.device, self.offset, len(self.files))
        data = head + self.files.packed()
        return data + _CRC.pack(zlib.crc32(data))

    @classmethod
    def unpacked(cls, data: bytes) -> SavedSettledFiles | None:
        """Return what the bytes say, None for bytes that are not whole or of another version."""
        body = data[: -_CRC.size]
        if len(body) < _HEAD.size or data[-_CRC.size :] != _CRC.pack(zlib.crc32(body)):
            return None
        magic, version, boot, device, offset, count = _HEAD.unpack_from(body)
        files = body[_HEAD.size :]
        if (magic, version) != (_MAGIC, _VERSION) or len(files) != count * 16:
            return None
        return cls(boot, device, offset, SettledFiles.unpacked(files))
