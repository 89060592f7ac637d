"""Compressed archives: whole, damaged, cut short, and made to burst."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib

import pytest
import zstandard

from tests.archives import END, in_blocks, member, run
from wingsd.archive.compression import STEP, decompressed
from wingsd.errors import ArchiveError

RANDOM = random.Random("compression")
PLAIN = member(b"f", RANDOM.randbytes(1 << 16) + b"text " * 100_000) + END
SIZES = (1, 7, 512, 65536)


def unpacked(data: bytes, size: int = 1 << 16) -> bytes:
    return b"".join(decompressed(in_blocks(data, size)))


def packed(kind: str) -> bytes:
    if kind == "plain":
        return PLAIN
    if kind == "gzip":
        return gzip.compress(PLAIN, 1)
    return zstandard.ZstdCompressor(write_checksum=True).compress(PLAIN)


GZIP = packed("gzip")
ZSTD = packed("zstd")
SMALL = member(b"f", RANDOM.randbytes(3000)) + END


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("size", SIZES)
def test_every_kind_in_blocks_of_any_size(kind: str, size: int) -> None:
    assert unpacked(packed(kind), size) == PLAIN


@pytest.mark.parametrize("tool", ["gzip -1", "gzip -9", "pigz -1 -p 4", "pigz -11"])
def test_what_gzip_tools_write(tool: str) -> None:
    assert unpacked(run(*tool.split(), "-c", data=SMALL)) == SMALL


@pytest.mark.parametrize(
    "tool", ["zstd -1", "zstd -19", "zstd -3 -T2", "zstd --no-check", "zstd --fast=5"]
)
def test_what_zstd_writes(tool: str) -> None:
    assert unpacked(run(*tool.split(), "-c", data=PLAIN)) == PLAIN


def test_zstd_with_its_size_told_and_in_skippable_frames() -> None:
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"
    one, two = PLAIN[:70_000], PLAIN[70_000:]
    frames = [zstandard.ZstdCompressor().compress(part) for part in (one, two)]
    assert unpacked(skippable + frames[0] + skippable + frames[1]) == PLAIN


def test_a_zstd_window_beyond_the_bound_is_refused_with_advice() -> None:
    huge = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=huge).compressobj()
    data = compressor.compress(PLAIN) + compressor.flush()
    with pytest.raises(ArchiveError, match=r"window is larger than 8 MiB.*--long"):
        unpacked(data)


@pytest.mark.parametrize("size", SIZES)
def test_gzip_members_in_a_row_and_padding(size: int) -> None:
    data = b"".join(
        gzip.compress(PLAIN[at : at + 200_000]) for at in range(0, len(PLAIN), 200_000)
    )
    assert unpacked(data, size) == PLAIN
    assert unpacked(data + bytes(1000), size) == PLAIN


def test_a_gzip_header_with_everything() -> None:
    body = GZIP[10:]
    head = b"\x1f\x8b\x08\x1e" + GZIP[4:10] + b"\x03\0abc" + b"name\0" + b"comment\0"
    crc = (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    assert unpacked(head + crc + body, 7) == PLAIN


@pytest.mark.parametrize("whole", [GZIP, ZSTD], ids=["gzip", "zstd"])
@pytest.mark.parametrize("garbage", [b"x", b"\x1e", b"garbage", bytes(9) + b"x"])
@pytest.mark.parametrize("size", [1, 65536])
def test_garbage_after_the_end(whole: bytes, garbage: bytes, size: int) -> None:
    with pytest.raises(ArchiveError, match=r"followed by something else|ends in the middle"):
        unpacked(whole + garbage, size)


@pytest.mark.parametrize("whole", [gzip.compress(SMALL), zstandard.compress(SMALL)])
def test_every_cut_is_seen(whole: bytes) -> None:
    for end in (
        *range(1, 40),
        *range(40, len(whole) - 20, 97),
        *range(len(whole) - 20, len(whole)),
    ):
        with pytest.raises(ArchiveError, match=r"ends in the middle|unknown kind"):
            unpacked(whole[:end])


def test_zstd_checksums_are_verified() -> None:
    with pytest.raises(ArchiveError, match="zstd data is wrong"):
        unpacked(ZSTD[:-1] + bytes([ZSTD[-1] ^ 1]))


@pytest.mark.parametrize("at", [-1, -4, -5, -8], ids=["length", "length", "crc", "crc"])
@pytest.mark.parametrize("size", [1, 65536])
def test_gzip_crc_and_length_are_verified(at: int, size: int) -> None:
    data = bytearray(GZIP)
    data[at] ^= 1
    with pytest.raises(ArchiveError, match="gzip data is wrong"):
        unpacked(bytes(data), size)


@pytest.mark.parametrize("whole", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_damage_anywhere_is_an_archive_error(whole: bytes) -> None:
    for _ in range(50):
        data = bytearray(whole)
        data[RANDOM.randrange(20, len(data))] ^= 1 << RANDOM.randrange(8)
        with pytest.raises(ArchiveError):
            unpacked(bytes(data))


def test_an_empty_stream() -> None:
    for blocks in ([], [b"", b""]):
        with pytest.raises(ArchiveError, match="empty"):
            b"".join(decompressed(iter(blocks)))


@pytest.mark.parametrize(
    "data", [b"x", b"\x1f", b"PK\3\4" + bytes(600), b"\xfd7zXZ\0" * 99, b"BZh9" * 200]
)
def test_unknown_kinds_are_refused_by_naming_the_known(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="gzip, zstd and uncompressed tar"):
        unpacked(data)


def test_a_tar_from_before_ustar_and_an_empty_one_are_tars() -> None:
    old = member(b"f", b"x", b"\0", magic=bytes(8)) + END
    assert unpacked(old) == old
    assert unpacked(END) == END


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_comes_in_bounded_blocks(kind: str) -> None:
    zeros = bytes(64 << 20)
    bomb = gzip.compress(zeros, 9) if kind == "gzip" else zstandard.compress(zeros, 19)
    del zeros
    total = 0
    tracemalloc.start()
    try:
        for block in decompressed(iter([bomb])):
            assert len(block) <= max(STEP, 128 << 10)
            total += len(block)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 64 << 20
    assert peak < 4 << 20
