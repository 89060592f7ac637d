"""Headers of tar archives as they are written: POSIX ustar and pax, and GNU's sparse files.

Functions of bytes. Sources: IEEE Std 1003.1 (pax, "Extended Header" and "ustar Interchange
Format"), and the GNU tar manual's chapters "Basic Tar Format" and "Storing Sparse Files".

A sparse file has the form of GNU tar for pax archives, version 1.0: the member's data begins with
a map of decimal numbers, one a line, and only the data between the holes follows it. GNU tar,
bsdtar, Python's tarfile and Go's archive/tar read it.
"""

from __future__ import annotations

from struct import Struct
from zlib import adler32

from wingsd.filesystem.attributes import ACCESS, DEFAULT, acl_text, attribute_pairs, names_own
from wingsd.filesystem.new_file import Owner

BLOCK = 512
"""Bytes of a tar block; headers are one block, data is padded to whole ones."""


LATEST = ((1 << 63) - 1) // 1_000_000_000
"""The latest time read, in seconds since the epoch: the last that 64 bits of nanoseconds hold, in
the year 2262. The earliest is the negative of it."""

CHECKSUM = slice(148, 156)


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

Segments = tuple[tuple[int, int], ...]
"""The offset and the length of each piece of data, in order."""

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
        try:
            (name + link).decode()
        except UnicodeDecodeError:  # UTF-8 is pax's default (POSIX, "hdrcharset")
            records = pax_record(b"hdrcharset", b"BINARY") + records
        records += b"".join(texts)
    numbers = (mode, field_size, seconds)
    block = _block(_truncated(name), typeflag, *numbers, _truncated(link), owner)
    if not records:
        return block
    head = _block(_EXTENDED_NAME, _EXTENDED, 0o644, len(records), 0, b"", NO_OWNER)
    return b"".join((head, records, padding(len(records)), block))


def sparse_header(
    name: bytes,
    mode: int,
    size: int,
    mtime: int,
    segments: Segments,
    records: bytes = b"",
    owner: Owner = NO_OWNER,
) -> bytes:
    """Return all header blocks of a sparse file of `size` bytes, and the map of its data.

    `records` and `owner` are as for `member_header`.
    """
    # An empty piece at the end tells the size to readers that know the map alone.
    entries = segments if segments and sum(segments[-1]) == size else (*segments, (size, 0))
    lines = [len(entries), *(number for entry in entries for number in entry)]
    shown = b"".join(b"%d\n" % line for line in lines)
    shown += padding(len(shown))
    stored = len(shown) + sum(length for _, length in segments)
    records += b"".join(
        (
            pax_record(b"GNU.sparse.major", b"1"),
            pax_record(b"GNU.sparse.minor", b"0"),
            pax_record(b"GNU.sparse.name", name),
            pax_record(b"GNU.sparse.realsize", b"%d" % size),
        )
    )
    return member_header(name, FILE, mode, stored, mtime, b"", records, owner) + shown


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
    return b"".join((block[: CHECKSUM.start], b"%06o\0 " % total, block[CHECKSUM.stop :]))


def _truncated(text: bytes) -> bytes:
    """Cut to the field, without a slash at the end, which would make a file a directory."""
    return text if len(text) <= _FIELD else text[:_FIELD].rstrip(b"/")


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return one record of a pax header; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, key, value)
