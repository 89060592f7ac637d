"""The headers of a tar as it is written here: POSIX ustar, with pax records where it needs them.

Functions of bytes, the counterpart of `headers`. Source of the rules: IEEE Std 1003.1 (pax,
"Extended Header" and "ustar Interchange Format").

The standard library's `TarInfo.tobuf` writes the same, but takes 35 microseconds for a name and a
time with nanoseconds; to open, read and close a small file takes 7, and this here 5.
"""

from __future__ import annotations

from struct import Struct
from zlib import adler32

from wingsd.archive.headers import BLOCK

__all__ = ["DIRECTORY", "END", "FILE", "HARD_LINK", "SYMLINK", "member_header", "padding"]

FILE, HARD_LINK, SYMLINK, DIRECTORY = b"0", b"1", b"2", b"5"
"""The types of members that are written."""

END = bytes(2 * BLOCK)
"""What ends an archive."""

_PACK = Struct("100s8s8s8s12s12s8sc100s8s247x").pack
_NOBODY = b"0000000\0"  # whose the files are is for the destination to decide
_MAGIC = b"ustar\x0000"
_CHECKSUM = 148
_FIELD = 100
_LIMIT = 8**11
_EXTENDED = b"x"
_EXTENDED_NAME = b"././@PaxHeader"
_SECOND = 1_000_000_000


def member_header(
    name: bytes, typeflag: bytes, mode: int, size: int, mtime: int, link: bytes = b""
) -> bytes:
    """Return all blocks of header of one member.

    `size` is in bytes, `mtime` in nanoseconds since the epoch, of any sign. Nothing is judged or
    changed: names are those of the file system, in whatever encoding.
    """
    records = b""
    seconds, fraction = divmod(mtime, _SECOND)
    if fraction or not 0 <= seconds < _LIMIT:
        records += _record(b"mtime", _time(mtime))
        seconds = min(max(seconds, 0), _LIMIT - 1)
    if size >= _LIMIT:
        records += _record(b"size", b"%d" % size)
        field_size = 0
    else:
        field_size = size
    texts = [
        _record(key, text)
        for key, text in ((b"path", name), (b"linkpath", link))
        if len(text) > _FIELD or not text.isascii()
    ]
    if texts:
        records = _charset(name + link) + records + b"".join(texts)
    block = _block(_fitting(name), typeflag, mode, field_size, seconds, _fitting(link))
    if not records:
        return block
    head = _block(_EXTENDED_NAME, _EXTENDED, 0o644, len(records), 0, b"")
    return b"".join((head, records, padding(len(records)), block))


def padding(size: int) -> bytes:
    """Return the zeros that follow `size` bytes of data."""
    return bytes(-size % BLOCK)


def _block(name: bytes, typeflag: bytes, mode: int, size: int, seconds: int, link: bytes) -> bytes:
    block = _PACK(
        name,
        b"%07o\0" % mode,
        _NOBODY,
        _NOBODY,
        b"%011o\0" % size,
        b"%011o\0" % seconds,
        b"        ",
        typeflag,
        link,
        _MAGIC,
    )
    # adler32's low half is one more than the sum of the bytes, and exact for 256 of them
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    return b"".join((block[:_CHECKSUM], b"%06o\0 " % total, block[_CHECKSUM + 8 :]))


def _fitting(text: bytes) -> bytes:
    """Cut to the field; without a slash at its end, which would make a file a directory."""
    return text if len(text) <= _FIELD else text[:_FIELD].rstrip(b"/")


def _record(key: bytes, value: bytes) -> bytes:
    """Return one record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, key, value)


def _time(mtime: int) -> bytes:
    seconds, fraction = divmod(abs(mtime), _SECOND)
    return b"%b%d.%09d" % (b"-" if mtime < 0 else b"", seconds, fraction)


def _charset(texts: bytes) -> bytes:
    """Say so where names are not UTF-8, as pax takes them to be (POSIX pax, "hdrcharset")."""
    try:
        texts.decode()
    except UnicodeDecodeError:
        return _record(b"hdrcharset", b"BINARY")
    return b""
