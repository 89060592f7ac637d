"""Compressing: valid for every reader, in blocks that are not too large and not too rare."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.archives import in_blocks, run
from wingsd.archive.compression import decompressed
from wingsd.archive.deflate import OUTPUT, SILENT_INPUT, Compression, gzipped

RANDOM = random.Random("deflate")
TEXT = "".join(RANDOM.choices(["block ", "chunk ", "entity ", "42, "], k=80_000)).encode()
DATA = TEXT + RANDOM.randbytes(600_000) + bytes(3 << 20)


def packed(data: bytes, compression: Compression, size: int = 120 << 10) -> bytes:
    return b"".join(gzipped(in_blocks(data, size), compression))


@pytest.mark.parametrize("compression", Compression)
def test_every_reader_takes_it(compression: Compression) -> None:
    archive = packed(DATA, compression)
    assert gzip.decompress(archive) == DATA
    assert run("gzip", "-dc", data=archive) == DATA
    run("gzip", "-t", data=archive)
    tar = bytes(512) + DATA
    ours = b"".join(decompressed(in_blocks(packed(tar, compression))))
    assert ours == tar


@pytest.mark.parametrize("compression", Compression)
def test_nothing_is_a_valid_stream_too(compression: Compression) -> None:
    assert gzip.decompress(packed(b"", compression)) == b""


@pytest.mark.parametrize("compression", Compression)
def test_the_same_bytes_make_the_same_archive(compression: Compression) -> None:
    assert packed(DATA, compression) == packed(DATA, compression)


def test_the_levels_do_what_their_names_say() -> None:
    stored, fast, best = (len(packed(TEXT, compression)) for compression in Compression)
    assert len(TEXT) < stored < len(TEXT) * 1.001 + 100
    assert best < fast < stored / 2


def test_the_values_are_those_of_the_configuration() -> None:
    assert [Compression(word) for word in ("none", "best_speed", "best_compression")] == list(
        Compression
    )


@pytest.mark.parametrize("compression", Compression)
def test_blocks_are_neither_large_nor_rare(compression: Compression) -> None:
    taken = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for block in in_blocks(DATA + TEXT, 120 << 10):
            taken += len(block)
            yield block

    before = 0
    sizes = []
    for block in gzipped(counted(), compression):
        assert taken - before <= SILENT_INPUT + (120 << 10)
        before = taken
        sizes.append(len(block))
    assert max(sizes[:-1]) <= OUTPUT


def test_memory_is_bounded() -> None:
    tracemalloc.start()
    try:
        for block in gzipped((bytes(120 << 10) for _ in range(600)), Compression.BEST_SPEED):
            assert len(block) < OUTPUT
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
