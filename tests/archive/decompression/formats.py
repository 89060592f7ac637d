"""One archive in every format that is taken, as the tools and libraries write it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from typing import Any

import lz4.frame
import pyzstd

from tests.support.archives import END, in_blocks, member
from wingsd.archive.decompress import decompressed

RANDOM = random.Random("compression")
PLAIN = member(b"f", RANDOM.randbytes(1 << 16) + b"text " * 100_000) + END
SMALL = member(b"f", RANDOM.randbytes(3000)) + END

CHECKSUM: Any = {pyzstd.CParameter.checksumFlag: 1}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": lambda data: pyzstd.compress(data, CHECKSUM),
    "xz": lambda data: lzma.compress(data, preset=1),
    "bzip2": bz2.compress,
    "lz4": lambda data: lz4.frame.compress(
        data, content_checksum=True, block_checksum=True, store_size=False
    ),
}
SIZES = (1, 7, 512, 65536)


def unpacked(data: bytes, size: int = 1 << 16) -> bytes:
    """Return what `data`, in blocks of so many bytes, decompresses to."""
    return b"".join(decompressed(in_blocks(data, size)))
