"""Skippable frames, wherever they stand among those of zstd and lz4."""

from __future__ import annotations

import pytest

from tests.archive.decompression.formats import PACKERS, PLAIN, SIZES, unpacked
from wingsd.errors import ArchiveError

both = pytest.mark.parametrize("name", ["zstd", "lz4"])


def skippable(content: bytes, number: int = 3) -> bytes:
    magic = (0x184D2A50 + number).to_bytes(4, "little")
    return magic + len(content).to_bytes(4, "little") + content


@both
@pytest.mark.parametrize("size", SIZES)
def test_skippable_frames_are_skipped(name: str, size: int) -> None:
    one, two = (PACKERS[name](part) for part in (PLAIN[:70_000], PLAIN[70_000:]))
    extra = (
        skippable(b"hello")
        + skippable(b"", 15)
        + skippable(bytes(100_000 if size > 1000 else 5000), 0)
    )
    assert unpacked(extra + one + extra + two + extra, size) == PLAIN


@both
def test_a_truncated_skippable_frame_is_refused(name: str) -> None:
    for data in (skippable(b"hello")[:-1], skippable(b"hello")[:6], skippable(b"hello")):
        with pytest.raises(ArchiveError, match="ends in the middle"):
            unpacked(data)
    with pytest.raises(ArchiveError, match="ends in the middle"):
        unpacked(PACKERS[name](PLAIN) + skippable(b"hello")[:-1])


def test_an_unknown_format_after_skippable_frames_is_refused() -> None:
    for other in (PACKERS["gzip"](PLAIN), PLAIN, bytes(100)):
        with pytest.raises(ArchiveError, match="unknown kind"):
            unpacked(skippable(b"hello") + other)
