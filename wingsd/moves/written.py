"""Checksums of what was written, by which it is read back from the disk.

The bytes were compared with their digests when they arrived. What the disk has made of them is
seen by one CRC-32 of up to a MiB, which takes a tenth of the time; where that differs, the digests
decide.
"""

from __future__ import annotations

from attrs import define
from isal.isal_zlib import crc32

from wingsd.moves.frames import ZeroFrame

__all__ = ["PIECE", "RunningChecksum", "Written", "WrittenBlocks", "checksum"]

PIECE = 1 << 20
"""Bytes that are read back at a time."""


def checksum(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-32 of some bytes behind those that have the CRC-32 `before`."""
    found: int = crc32(data, before)
    return found


@define(eq=False, repr=False)
class WrittenBlocks:
    """Consecutive blocks of one file: their bytes, and the CRC-32 of these.

    `of` is the number of the file, or the path of one that came as a whole.
    """

    of: int | bytes
    first: int
    count: int
    size: int
    crc: int


#: Zeros are read back by their digests.
Written = WrittenBlocks | ZeroFrame


class RunningChecksum:
    """The CRC-32 of consecutive blocks of one file, up to a piece of them at a time."""

    def __init__(self) -> None:
        self._number = self._since = self._next = self._size = self._crc = 0

    def add(self, number: int, first: int, count: int, data: memoryview) -> tuple[int, int]:
        """Add blocks of the file with a number, 0 for one that comes as a whole.

        Return the block from which on the checksum counts, and the checksum.
        """
        is_next = number and (self._number, self._next) == (number, first)
        if not is_next or self._size + len(data) > PIECE:
            self._number, self._since = number, first
            self._size = self._crc = 0
        self._next = first + count
        self._size += len(data)
        self._crc = checksum(data, self._crc)
        return self._since, self._crc
