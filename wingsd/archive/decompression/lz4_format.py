"""lz4's frames in a row, skippable ones among them. Their checksums, where sent, are verified."""

from __future__ import annotations

import lz4.frame

from wingsd.archive.decompression import skippable
from wingsd.archive.decompression.streams import Streams

__all__ = ["LZ4"]

LZ4 = Streams(
    name="lz4",
    magics=(b"\x04\x22\x4d\x18", *skippable.MAGICS),
    make=lz4.frame.LZ4FrameDecompressor,
    errors=(RuntimeError,),
)
"""A block is 4 MiB at most, and its decompressor takes some 9 MiB."""
