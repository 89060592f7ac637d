"""gzip's header and trailer."""

from __future__ import annotations

import gzip
import zlib

import pytest

from tests.archive.decompression.formats import PLAIN, unpacked
from wingsd.errors import ArchiveError

GZIP = gzip.compress(PLAIN, 1)


def test_a_header_with_everything() -> None:
    body = GZIP[10:]
    head = b"\x1f\x8b\x08\x1e" + GZIP[4:10] + b"\x03\0abc" + b"name\0" + b"comment\0"
    crc = (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    assert unpacked(head + crc + body, 7) == PLAIN


@pytest.mark.parametrize("at", [-1, -4, -5, -8], ids=["length", "length", "crc", "crc"])
@pytest.mark.parametrize("size", [1, 65536])
def test_crc_and_length_are_verified(at: int, size: int) -> None:
    data = bytearray(GZIP)
    data[at] ^= 1
    with pytest.raises(ArchiveError, match="gzip data is wrong"):
        unpacked(bytes(data), size)
