"""The fields of a tar archive's headers as values: POSIX ustar and pax, and GNU's extensions.

Functions of bytes; nothing here reads a stream. Sources of the rules: IEEE Std 1003.1 (pax), and
the GNU tar manual's chapters "Basic Tar Format", "GNU Extensions" and "Storing Sparse Files".
Damage is told by ValueError, whose text says what is wrong; the reader adds where.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from struct import Struct
from zlib import adler32

__all__ = [
    "BLOCK",
    "LATEST",
    "MAX_SEGMENTS",
    "Member",
    "is_header",
    "number",
    "old_sparse_pairs",
    "pax_records",
    "pax_time",
    "sparse_from_list",
    "sparse_number",
    "verify_segments",
]

BLOCK = 512
"""Bytes of a tar block; headers are one block, data is padded to whole ones."""

MAX_SEGMENTS = 1 << 18
"""The most data segments of one sparse file; their list is kept in memory, 16 bytes each."""

LATEST = ((1 << 63) - 1) // 1_000_000_000
"""The latest time that is read, in seconds since the epoch, for 64 bits of nanoseconds to hold it:
in the year 2262. The earliest lies as far before."""

_FIELDS = Struct("100s8s16x12s12s8sc100s8s80x155s12x").unpack_from
_CHECKSUM = slice(148, 156)
_CHECKSUM_AS_SPACES = 8 * 0x20
_LARGEST = (1 << 63) - 1
_DECIMAL = re.compile(rb"[0-9]{1,19}").fullmatch
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?").fullmatch


class Member:
    """One member as its header block has it; the reader completes it by what came before.

    `name` and `link` are raw bytes, `mtime` is in nanoseconds since the epoch, `size` in bytes
    as it is to be on disk. `segments` is None, or of a sparse file the offsets and lengths of its
    data, in order, without overlap, within `size`, adding up to the data that is stored.

    Raises ValueError where the block is not a header.
    """

    __slots__ = ("link", "mode", "mtime", "name", "segments", "size", "typeflag")

    def __init__(self, block: memoryview) -> None:
        name, mode, size, mtime, checksum, self.typeflag, link, magic, prefix = _FIELDS(block)
        verify_checksum(block, checksum)
        name = name.partition(b"\0")[0]
        # GNU's own format ("ustar  ") keeps times and sparse maps where POSIX has the prefix
        if prefix[0] and magic.startswith(b"ustar\0"):
            name = prefix.partition(b"\0")[0] + b"/" + name
        self.name: bytes = name
        self.link: bytes = link.partition(b"\0")[0]
        self.mode = number(mode, "mode") & 0o7777
        self.size = number(size, "size")
        self.mtime = _time_field(mtime) * 1_000_000_000
        self.segments: array[int] | None = None


def verify_checksum(block: memoryview, field: bytes) -> None:
    """Compare the header's sum of bytes with what it says: unsigned, or signed as some wrote it.

    Raises ValueError where neither holds.
    """
    # adler32's low half is one more than the sum of the bytes, and exact for 256 of them; it is
    # some twenty times faster than sum()
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    total += _CHECKSUM_AS_SPACES - sum(field)
    said = number(field, "checksum")
    if said != total and said != _signed_sum(block):
        raise ValueError("its header's checksum is wrong")


def _signed_sum(block: memoryview) -> int:
    signed = block.cast("b")
    return sum(signed) - sum(signed[_CHECKSUM]) + _CHECKSUM_AS_SPACES


def is_header(block: bytes) -> bool:
    """Tell whether `block` is a header or an end-of-archive block, as a tar begins with."""
    if len(block) != BLOCK:
        return False
    try:
        verify_checksum(memoryview(block), block[_CHECKSUM])
    except ValueError:
        return not any(block)
    return True


def number(field: bytes, what: str) -> int:
    """Return a header's unsigned number: octal text, or GNU's base-256. Blank is 0.

    Raises ValueError, which names the number as `what`, for anything else, for negative numbers
    and for those that do not fit 63 bits.
    """
    text = field.strip(b" \0")
    if not text:
        return 0
    if field[0] & 0x80:
        value = _base256(field)
        if not 0 <= value <= _LARGEST:
            raise ValueError(f"its {what} is out of range")
        return value
    try:
        # int() takes more than octal digits: signs, underscores, "0o"
        return int(text if text.isdigit() else _octal_digits(text), 8)
    except ValueError:
        raise ValueError(f"its {what} is not a number") from None


def _octal_digits(text: bytes) -> bytes:
    """Return what is before the first NUL, as some writers leave more behind it."""
    digits = text.partition(b"\0")[0].rstrip(b" ")
    return digits if digits.isdigit() else b""


def _base256(field: bytes) -> int:
    """Two's complement in all bits but the first, which marks the form (GNU tar manual)."""
    value = int.from_bytes(field, "big") - (1 << len(field) * 8 - 1)
    return value - (1 << len(field) * 8 - 1) if field[0] & 0x40 else value


def _time_field(field: bytes) -> int:
    seconds = _base256(field) if field[0] & 0x80 else number(field, "time")
    if abs(seconds) > LATEST:
        raise ValueError("its time is out of range")
    return seconds


def pax_time(text: bytes) -> int:
    """Return a pax time ("1700000000.123456789") in nanoseconds, exact, rounded down.

    Raises ValueError for anything else and for times beyond 64 bits of nanoseconds.
    """
    match = _TIME(text)
    if match is None:
        raise ValueError("its time is not a number")
    sign, seconds, fraction = match[1], int(match[2]), match[3] or b""
    if seconds > LATEST:
        raise ValueError("its time is out of range")
    nanoseconds = seconds * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    if not sign:
        return nanoseconds
    return -nanoseconds - bool(fraction[9:].strip(b"0"))


def pax_records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records ("LENGTH KEY=VALUE", newline) of a pax extended header, in order.

    Raises ValueError where a record is not of this form.
    """
    at = 0
    while at < len(payload):
        space = payload.find(b" ", at, at + 20)
        length = payload[at:space] if space > at else b""
        end = at + int(length) if _DECIMAL(length) else 0
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        if (
            not space < end <= len(payload)
            or payload[end - 1 : end] != b"\n"
            or not equals
            or not key
        ):
            raise ValueError("its pax header is malformed")
        yield key, value
        at = end


def sparse_number(text: bytes) -> int:
    """Return a decimal number of a pax header or a sparse map; ValueError for anything else."""
    if not _DECIMAL(text) or int(text) > _LARGEST:
        raise ValueError("a number in its pax header is wrong")
    return int(text)


def sparse_from_list(text: bytes) -> array[int]:
    """Return the segments of `GNU.sparse.map` (format 0.1): "offset,length,offset,length"."""
    return array("q", map(sparse_number, text.split(b","))) if text else array("q")


def old_sparse_pairs(fields: memoryview) -> Iterator[int]:
    """Yield offsets and lengths of GNU's old sparse format, up to the first unused entry."""
    for at in range(0, len(fields), 24):
        if not fields[at + 12]:
            return
        yield number(bytes(fields[at : at + 12]), "sparse map")
        yield number(bytes(fields[at + 12 : at + 24]), "sparse map")


def verify_segments(segments: array[int], size: int, stored: int) -> None:
    """Hold a sparse map against the file's size and the bytes stored for it.

    Raises ValueError unless the segments are in order, apart, within `size` and `stored` long.
    """
    if len(segments) % 2:
        raise ValueError("its sparse map has an offset without a length")
    end = total = 0
    for offset, length in zip(segments[::2], segments[1::2], strict=True):
        if offset < end:
            raise ValueError("its sparse map overlaps or is out of order")
        end = offset + length
        total += length
    if end > size or total != stored:
        raise ValueError("its sparse map does not fit its size")
