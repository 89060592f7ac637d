"""Compressing: valid for every reader, in blocks that are not too large and not too rare."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.archives import in_blocks, run
from tests.support.present import present
from wingsd.archive.compress import (
    OUTPUT,
    SILENT_INPUT,
    ArchiveFormat,
    Compression,
    compressed,
    compressor,
)
from wingsd.archive.decompress import decompressed

RANDOM = random.Random("deflate")
TEXT = "".join(RANDOM.choices(["block ", "chunk ", "entity ", "42, "], k=40_000)).encode()
DATA = TEXT + RANDOM.randbytes(600_000) + bytes(2 << 20)


#: What unpacks each format, and tells of damage.
TOOLS = {
    ArchiveFormat.TAR_GZ: "gzip",
    ArchiveFormat.TAR_XZ: "xz",
    ArchiveFormat.TAR_BZ2: "bzip2",
    ArchiveFormat.TAR_LZ4: "lz4",
    ArchiveFormat.TAR_ZSTD: "zstd",
}
each_form = pytest.mark.parametrize("form", TOOLS)
each_compression = pytest.mark.parametrize(
    "compression", [Compression.NONE, Compression.BEST_COMPRESSION]
)


def stream(form: ArchiveFormat, compression: Compression, blocks: Iterator[bytes]) -> Any:
    made = present(compressor(form, compression))
    return compressed(blocks, made)


def packed(data: bytes, form: ArchiveFormat, compression: Compression) -> bytes:
    return b"".join(stream(form, compression, in_blocks(data, 120 << 10)))


@each_form
@each_compression
def test_every_reader_takes_it(form: ArchiveFormat, compression: Compression) -> None:
    tar = bytes(512) + DATA[-(1 << 20) :] + TEXT
    archive = packed(tar, form, compression)
    assert run(TOOLS[form], "-dc", data=archive) == tar
    assert b"".join(decompressed(in_blocks(archive))) == tar


@each_form
def test_the_levels_do_what_their_names_say(form: ArchiveFormat) -> None:
    none, *sizes = (len(packed(TEXT, form, compression)) for compression in Compression)
    if form is ArchiveFormat.TAR_GZ:
        assert len(TEXT) < none < len(TEXT) * 1.001 + 100
        assert sizes[2] == sizes[3]
        del sizes[2]
    else:
        assert none == sizes[0]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] < len(TEXT) / 2


@each_form
def test_blocks_are_neither_large_nor_rare(form: ArchiveFormat) -> None:
    taken = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for block in in_blocks(DATA + TEXT, 120 << 10):
            taken += len(block)
            yield block

    before = 0
    sizes = []
    for block in stream(form, Compression.BEST_SPEED, counted()):
        assert taken - before <= SILENT_INPUT + (120 << 10)
        before = taken
        sizes.append(len(block))
    assert max(sizes[:-1]) <= OUTPUT


@each_form
def test_memory_is_bounded(form: ArchiveFormat) -> None:
    tracemalloc.start()
    try:
        zeros = (bytes(120 << 10) for _ in range(300))
        for block in stream(form, Compression.BEST_SPEED, zeros):
            assert len(block) < OUTPUT
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # xz's gets its memory by way of Python, and others do not.
    assert peak < (10 if form is ArchiveFormat.TAR_XZ else 4) << 20
