"""From the bytes of a tar to those of an archive, in blocks of one size."""

from __future__ import annotations

from collections.abc import Iterator

from wingsd.archive.compressors import Compressor

__all__ = ["OUTPUT", "SILENT_INPUT", "compressed"]

OUTPUT = 240 << 10
"""Exactly as many bytes come in a block; not fewer, since each changes threads. Blocks of many
sizes, made in one thread and freed in another, leave holes in the C library's heap, and that then
grew by 5 MiB for each GiB."""

SILENT_INPUT = 1 << 20
"""After so many bytes taken a block comes whatever its size, even an empty one."""


def compressed(blocks: Iterator[bytes], compressor: Compressor) -> Iterator[bytes]:
    """Yield `blocks` as one stream, the same for the same bytes whenever it is made.

    Where the data compresses very well, blocks may be empty: they only tell that it goes on.
    """
    block = memoryview(bytearray(OUTPUT))
    filled = taken = 0
    for data in blocks:
        taken += len(data)
        out = memoryview(compressor.compress(data))
        while filled + len(out) >= OUTPUT:
            cut = OUTPUT - filled
            block[filled:] = out[:cut]
            yield bytes(block)
            out = out[cut:]
            filled = taken = 0
        block[filled : filled + len(out)] = out
        filled += len(out)
        if taken >= SILENT_INPUT:
            yield bytes(block[:filled])
            filled = taken = 0
    yield bytes(block[:filled]) + compressor.flush()
