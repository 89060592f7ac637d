"""Reads the checksums of a RAR's files, since libarchive does not check them all.

Its 3.7 checks none of version 4, and of version 5 none of files that are stored without being
compressed: what was damaged on its way would be extracted without an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from struct import Struct

__all__ = ["rar4_checksums", "rar5_checksums"]

#: More than the part of a header that is read here has.
_HEAD = 128
# Version 4: after the checksum, the type, flags and size of a header. A file's has behind that
# the packed and the real size, the checksum, and, by a flag, the upper halves of both sizes.
_START_4, _BLOCK_4 = 7, Struct("<2xBHH")
_FILE_4, _HIGH_4 = Struct("<7xIIxI"), Struct("<32xII")
_IS_FILE_4, _IS_SERVICE_4, _IS_END_4 = 0x74, 0x7A, 0x7B
_HAS_DATA_4, _IS_LARGE_4, _IS_SPLIT_4 = 0x8000, 0x100, 0x3
# Version 5: after the checksum, numbers in pieces of seven bits.
_START_5, _CRC = 8, 4
_IS_FILE_5, _IS_END_5 = 2, 5
_HAS_EXTRA_5, _HAS_DATA_5, _IS_SPLIT_5 = 0x1, 0x2, 0x18
_HAS_TIME_5, _HAS_CRC_5 = 0x2, 0x4


def rar4_checksums(descriptor: int) -> Iterator[tuple[int, int] | None]:
    """Yield the size and the CRC-32 of each file in the list, None where it has none of the whole.

    It ends where the list is not that of a RAR of version 4. The position of the descriptor stays.
    """
    at = _START_4
    while True:
        head = os.pread(descriptor, _HEAD, at).ljust(_HEAD, b"\0")
        kind, flags, length = _BLOCK_4.unpack_from(head)
        packed, size, crc = _FILE_4.unpack_from(head)
        if length < _BLOCK_4.size or kind == _IS_END_4:
            return
        is_file = kind in (_IS_FILE_4, _IS_SERVICE_4)
        if is_file and flags & _IS_LARGE_4:
            high_packed, high_size = _HIGH_4.unpack_from(head)
            packed, size = packed | high_packed << 32, size | high_size << 32
        if kind == _IS_FILE_4:
            yield None if flags & _IS_SPLIT_4 else (size, crc)
        at += length + (packed if is_file or flags & _HAS_DATA_4 else 0)


def rar5_checksums(descriptor: int) -> Iterator[tuple[int, int] | None]:
    """Yield the same for a RAR of version 5."""
    at = _START_5
    while True:
        # At the end of the file as well, zeros are a header without a length.
        numbers = _Numbers(os.pread(descriptor, _HEAD, at).ljust(_HEAD, b"\0"), _CRC)
        length = numbers.next()
        start = numbers.at
        kind, flags = numbers.next(), numbers.next()
        if not length or kind == _IS_END_5:
            return
        if flags & _HAS_EXTRA_5:
            numbers.next()
        packed = numbers.next() if flags & _HAS_DATA_5 else 0
        if kind == _IS_FILE_5:
            about, size, _ = numbers.next(), numbers.next(), numbers.next()
            crc_at = numbers.at + (_CRC if about & _HAS_TIME_5 else 0)
            is_known = about & _HAS_CRC_5 and not flags & _IS_SPLIT_5
            crc = int.from_bytes(numbers.data[crc_at : crc_at + _CRC], "little")
            yield (size, crc) if is_known else None
        at += start + length + packed


class _Numbers:
    """The numbers of a header, from `at` on."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def next(self) -> int:
        """Return the next number."""
        number = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > 63:  # noqa: PLR2004
                return number
