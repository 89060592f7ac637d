"""The formats of users' archives, by their first bytes and, for what has none, by their names."""

from __future__ import annotations

import re
from enum import Enum, IntFlag
from zlib import crc32

from wingsd.archive.decompress import BZIP2, GZIP, LZ4, XZ, ZSTD, StreamFormat
from wingsd.archive.tar_headers import BLOCK, is_header

__all__ = [
    "CONTAINERS",
    "TAIL",
    "Container",
    "NameHint",
    "container_of",
    "ends_as_rar5",
    "is_part_name",
    "is_tar",
    "name_hint",
    "single_name",
    "stream_of",
]


class Container(Enum):
    """A format with a list of its own, by the names of libarchive's readers."""

    ZIP = "zip"
    RAR = "rar"
    RAR5 = "rar5"
    SEVEN_ZIP = "7zip"


CONTAINERS: tuple[tuple[bytes, Container], ...] = (
    (b"PK\x03\x04", Container.ZIP),
    (b"PK\x05\x06", Container.ZIP),  # an empty one
    (b"PK00PK\x03\x04", Container.ZIP),  # one part alone of what was to have several
    (b"Rar!\x1a\x07\x00", Container.RAR),
    (b"Rar!\x1a\x07\x01\x00", Container.RAR5),
    (b"7z\xbc\xaf\x27\x1c", Container.SEVEN_ZIP),
)


class NameHint(IntFlag):
    """What the name of an archive says of its format."""

    NOTHING = 0
    TAR = 1
    BROTLI = 2
    ZIP = 4


_TAR = re.compile(rb"(?i)\.(tar(\.[a-z0-9]{1,4})?|tgz|tbz2?|txz|tzst|tlz|tbr|tsz)$")
_BROTLI = re.compile(rb"(?i)\.(br|tbr)$")
_ZIP = re.compile(rb"(?i)\.(zip|jar|mrpack|mcpack|mcworld|mcaddon)$")
#: Names of single compressed files, of which the last suffix is dropped.
_SINGLE = re.compile(rb"(?i)(.+)\.(gz|bz2|xz|zst|lz4|br|sz|lz)$")
#: The size and the type of a RAR's last block, which four bytes of checksum are before. It is at
#: the end, but for what others have appended.
_RAR5_END = b"\x03\x05"
_CRC = 4
TAIL = 4096
#: The names of the parts of an archive that was divided.
_PART = re.compile(rb"(?i)\.(part\d{1,5}\.rar|[a-z0-9]{1,5}\.\d{3}|[rz]\d{2})$")


def name_hint(name: bytes) -> NameHint:
    """Return what a name says of the format."""
    hint = NameHint.NOTHING
    for pattern, meaning in (
        (_TAR, NameHint.TAR),
        (_BROTLI, NameHint.BROTLI),
        (_ZIP, NameHint.ZIP),
    ):
        if pattern.search(name):
            hint |= meaning
    return hint


def single_name(name: bytes) -> bytes:
    """Return the name of the file that a single compressed file holds."""
    found = _SINGLE.fullmatch(name)
    return found[1] if found else name + b".out"


def is_part_name(name: bytes) -> bool:
    """Return whether a name is that of one part of a divided archive."""
    return _PART.search(name) is not None


def container_of(head: bytes, hint: NameHint) -> Container | None:
    """Return the format with a list that an archive is of; None for all others."""
    for magic, container in CONTAINERS:
        if head.startswith(magic):
            return container
    # Self-extracting, or something before it: a zip is read from its end.
    if hint & NameHint.ZIP and not is_tar(head, hint) and stream_of(head, hint) is None:
        return Container.ZIP
    return None


def ends_as_rar5(tail: bytes) -> bool:
    """Return whether the last bytes of a RAR of version 5, `TAIL` of them, have its end.

    libarchive takes the end of the file for it, so that files would be missing without an error.
    """
    at = tail.find(_RAR5_END)
    while at >= 0:
        if at >= _CRC and crc32(tail[at : at + 4]).to_bytes(4, "little") == tail[at - _CRC : at]:
            return True
        at = tail.find(_RAR5_END, at + 1)
    return False


def stream_of(head: bytes, hint: NameHint) -> StreamFormat | None:
    """Return the format of compressed data; None where it is not compressed, or unknown."""
    from wingsd.user_archives.streams import BROTLI, LZIP, SNAPPY  # noqa: PLC0415

    for known in (GZIP, BZIP2, XZ, ZSTD, LZ4, LZIP, SNAPPY):
        if head.startswith(known.magics):
            return known
    return BROTLI if hint & NameHint.BROTLI else None


def is_tar(head: bytes, hint: NameHint) -> bool:
    """Return whether these first bytes, 512 where there are as many, begin a tar."""
    block = head[:BLOCK]
    if not any(block):
        return bool(block) and bool(hint & NameHint.TAR)
    return is_header(block) or block[257:262] == b"ustar"
