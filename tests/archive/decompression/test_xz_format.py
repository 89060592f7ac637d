"""xz's dictionaries and its index."""

from __future__ import annotations

import zlib

import pytest

from tests.archive.decompression.formats import PACKERS, SIZES, SMALL, unpacked
from wingsd.errors import ArchiveError

#: Where the first block's header has the size of its dictionary, and where its CRC-32 is.
DICTIONARY = 16
HEADER, CRC = slice(12, 20), slice(20, 24)


def with_dictionary(code: int) -> bytes:
    """Return a stream that says it needs a dictionary of that code (the xz format, 5.3.1)."""
    data = bytearray(PACKERS["xz"](SMALL))
    data[DICTIONARY] = code
    data[CRC] = zlib.crc32(data[HEADER]).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("code", [18, 26, 28], ids=["2 MiB", "32 MiB", "64 MiB"])
def test_a_dictionary_up_to_the_bound_is_taken(code: int) -> None:
    assert unpacked(with_dictionary(code)) == SMALL


@pytest.mark.parametrize("code", [29, 30, 40], ids=["96 MiB", "128 MiB", "4 GiB"])
def test_a_dictionary_beyond_the_bound_is_refused_with_advice(code: int) -> None:
    with pytest.raises(ArchiveError, match=r"dictionary is larger than 64 MiB.*presets -0 to -9"):
        unpacked(with_dictionary(code))


@pytest.mark.parametrize("back", range(1, 40))
def test_check_index_and_footer_are_verified(back: int) -> None:
    data = bytearray(PACKERS["xz"](SMALL))
    data[-back] ^= 1
    with pytest.raises(ArchiveError, match=r"xz data is wrong|ends in the middle"):
        unpacked(bytes(data))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", [4, 512, 1 << 17])
def test_padding_between_streams_is_accepted(padding: int, size: int) -> None:
    data = bytes(padding).join(PACKERS["xz"](half) for half in (SMALL[:1000], SMALL[1000:]))
    assert unpacked(data, size) == SMALL


@pytest.mark.parametrize("padding", [1, 3, 6, (1 << 17) + 2])
def test_padding_that_is_not_a_multiple_of_four_is_refused(padding: int) -> None:
    with pytest.raises(ArchiveError, match="followed by something else"):
        unpacked(bytes(padding).join([PACKERS["xz"](SMALL)] * 2))


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lz4"])
def test_padding_between_streams_of_other_formats_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError, match="followed by something else"):
        unpacked(bytes(4).join([PACKERS[name](SMALL)] * 2))
