"""Headers of tar archives, parsed and written: POSIX ustar and pax, and GNU's extensions.

Functions of bytes; nothing here reads a stream. Sources: IEEE Std 1003.1 (pax, "Extended Header"
and "ustar Interchange Format"), and the GNU tar manual's chapters "Basic Tar Format", "GNU
Extensions" and "Storing Sparse Files". Damaged headers raise ValueError with what is wrong; the
reader adds where.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from struct import Struct
from zlib import adler32

from wingsd.filesystem.attributes import ACCESS, DEFAULT, acl_text, attribute_pairs, names_own
from wingsd.filesystem.new_file import Owner

BLOCK = 512
"""Bytes of a tar block; headers are one block, data is padded to whole ones."""

MAX_SEGMENTS = 1 << 18
"""The most data segments of one sparse file; their list is kept in memory, 16 bytes each."""

LATEST = ((1 << 63) - 1) // 1_000_000_000
"""The latest time read, in seconds since the epoch: the last that 64 bits of nanoseconds hold, in
the year 2262. The earliest is the negative of it."""

_FIELDS = Struct("100s8s16x12s12s8sc100s8s80x155s12x").unpack_from
_CHECKSUM = slice(148, 156)
_CHECKSUM_AS_SPACES = 8 * 0x20
_LARGEST = (1 << 63) - 1
_DECIMAL = re.compile(rb"[0-9]{1,19}").fullmatch
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?").fullmatch


class Member:
    """One member, from its header block; the reader adds the extended headers before it.

    `name` and `link` are raw bytes, `mtime` is in nanoseconds since the epoch, `size` in bytes
    on disk. `segments` is None, or for a sparse file the offsets and lengths of its data: in
    order, without overlap, within `size`, adding up to the data that is stored. `attributes` is as
    `filesystem.attributes` has it; `has_more` is whether there are others, which are left out.

    Raises ValueError where the block is not a header.
    """

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
        self.attributes = b""
        self.has_more = False


def verify_checksum(block: memoryview, field: bytes) -> None:
    """Verify the header's checksum: the unsigned sum of its bytes, or the signed one of old tars.

    Raises ValueError where it is neither.
    """
    # adler32's low half is one more than the sum of the bytes, and exact for 256 of them; it is
    # some twenty times faster than sum()
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    total += _CHECKSUM_AS_SPACES - sum(field)
    expected = number(field, "checksum")
    if expected != total:
        signed = block.cast("b")
        if expected != sum(signed) - sum(signed[_CHECKSUM]) + _CHECKSUM_AS_SPACES:
            raise ValueError("its header's checksum is wrong")


def is_header(block: bytes) -> bool:
    """Return whether `block` is a header or an end-of-archive block: the start of a tar."""
    if len(block) != BLOCK:
        return False
    try:
        verify_checksum(memoryview(block), block[_CHECKSUM])
    except ValueError:
        return not any(block)
    return True


def number(field: bytes, what: str) -> int:
    """Return a header's unsigned number: octal text, or GNU's base-256. Blank is 0.

    Raises ValueError, which names the field as `what`, for anything else, for negative numbers
    and for those above 63 bits.
    """
    text = field.strip(b" \0")
    if not text:
        return 0
    if field[0] & 0x80:
        value = _base256(field)
        if not 0 <= value <= _LARGEST:
            raise ValueError(f"its {what} is out of range")
        return value
    if not text.isdigit():  # some writers leave garbage behind the first NUL
        text = text.partition(b"\0")[0].rstrip(b" ")
    try:
        # int() takes more than octal digits: signs, underscores, "0o"
        return int(text if text.isdigit() else b"", 8)
    except ValueError:
        raise ValueError(f"its {what} is not a number") from None


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
    """Return a decimal number of a pax header or a sparse map; ValueError for others."""
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
    """Verify a sparse map against the file's size and the bytes stored for it.

    Raises ValueError unless the segments are in order, do not overlap, are within `size` and add
    up to `stored`.
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


FILE, HARD_LINK, SYMLINK, DIRECTORY = b"0", b"1", b"2", b"5"
"""The types of members written."""

END = bytes(2 * BLOCK)
"""The end of an archive."""

_PACK = Struct("100s8s8s8s12s12s8sc100s8s247x").pack
NO_OWNER = (0, 0)
"""The owner in headers: the destination sets its own."""

_MAGIC = b"ustar\x0000"
_FIELD = 100
_OCTAL_LIMIT = 8**11
_ID_LIMIT = 8**7
_EXTENDED = b"x"

ATTRIBUTE = b"SCHILY.xattr."
"""The beginning of the keys of extended attributes: their names follow."""

ACL_KEYS = {b"SCHILY.acl.access": ACCESS, b"SCHILY.acl.default": DEFAULT}
"""The keys of ACLs."""

_ACLS = {name: key for key, name in ACL_KEYS.items()}
_EXTENDED_NAME = b"././@PaxHeader"
_SECOND = 1_000_000_000


def member_header(
    name: bytes,
    typeflag: bytes,
    mode: int,
    size: int,
    mtime: int,
    link: bytes = b"",
    records: bytes = b"",
    owner: Owner = NO_OWNER,
) -> bytes:
    """Return all header blocks of one member.

    `size` is in bytes, `mtime` in nanoseconds since the epoch, of any sign. `records` are further
    pax records. Names are written as
    the file system has them, in any encoding. tarfile's `TarInfo.tobuf` does the same, but takes
    35 microseconds for a name and a time with nanoseconds; this takes 5.
    """
    seconds, fraction = divmod(mtime, _SECOND)
    if fraction or not 0 <= seconds < _OCTAL_LIMIT:
        whole, rest = divmod(abs(mtime), _SECOND)
        sign = b"-" if mtime < 0 else b""
        records += pax_record(b"mtime", b"%b%d.%09d" % (sign, whole, rest))
        seconds = min(max(seconds, 0), _OCTAL_LIMIT - 1)
    if size >= _OCTAL_LIMIT:
        records += pax_record(b"size", b"%d" % size)
        field_size = 0
    else:
        field_size = size
    for key, number in ((b"uid", owner[0]), (b"gid", owner[1])):
        if number >= _ID_LIMIT:
            records += pax_record(key, b"%d" % number)
    texts = [
        pax_record(key, text)
        for key, text in ((b"path", name), (b"linkpath", link))
        if len(text) > _FIELD or not text.isascii()
    ]
    if texts:
        records = _charset(name + link) + records + b"".join(texts)
    numbers = (mode, field_size, seconds)
    block = _block(_truncated(name), typeflag, *numbers, _truncated(link), owner)
    if not records:
        return block
    head = _block(_EXTENDED_NAME, _EXTENDED, 0o644, len(records), 0, b"", NO_OWNER)
    return b"".join((head, records, padding(len(records)), block))


def padding(size: int) -> bytes:
    """Return the zeros that follow `size` bytes of data."""
    return bytes(-size % BLOCK)


def attribute_records(value: bytes, owner: Owner) -> tuple[bytes, Owner]:
    """Return the pax records of a file's attributes, and the owner that its header must have.

    They are those of star, which GNU tar and bsdtar write and restore as well. `owner` are the
    ids of the node's own user and group; they are only in headers of ACLs that name one of them.
    """
    records, has_own = [], False
    for name, text in attribute_pairs(value):
        if name in _ACLS:
            records.append(pax_record(_ACLS[name], acl_text(text, owner)))
            has_own = has_own or names_own(text)
        else:
            # as GNU tar does: the key of a record ends at the first =
            key = name.replace(b"%", b"%25").replace(b"=", b"%3D")
            records.append(pax_record(ATTRIBUTE + key, text))
    return b"".join(records), owner if has_own else NO_OWNER


def _block(
    name: bytes, typeflag: bytes, mode: int, size: int, seconds: int, link: bytes, owner: Owner
) -> bytes:
    user, group = (number if number < _ID_LIMIT else 0 for number in owner)
    block = _PACK(
        name,
        b"%07o\0" % mode,
        b"%07o\0" % user,
        b"%07o\0" % group,
        b"%011o\0" % size,
        b"%011o\0" % seconds,
        b"        ",
        typeflag,
        link,
        _MAGIC,
    )
    # adler32's low half is one more than the sum of the bytes, and exact for 256 of them
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    return b"".join((block[: _CHECKSUM.start], b"%06o\0 " % total, block[_CHECKSUM.stop :]))


def _truncated(text: bytes) -> bytes:
    """Cut to the field, without a slash at the end, which would make a file a directory."""
    return text if len(text) <= _FIELD else text[:_FIELD].rstrip(b"/")


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return one record of a pax header; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, key, value)


def _charset(texts: bytes) -> bytes:
    """Return the record for names that are not UTF-8, pax's default (POSIX, "hdrcharset")."""
    try:
        texts.decode()
    except UnicodeDecodeError:
        return pax_record(b"hdrcharset", b"BINARY")
    return b""
