"""From the bytes of a tar to those of a gzip stream (RFC 1952)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Protocol, cast

from isal import isal_zlib

__all__ = ["OUTPUT", "SILENT_INPUT", "Compression", "gzipped"]

OUTPUT = 240 << 10
"""Exactly as many bytes come in a block; not fewer, since each changes threads. Blocks of many
sizes, made in one thread and freed in another, leave holes in the C library's heap, and that then
grew by 5 MiB for each GiB."""

SILENT_INPUT = 1 << 20
"""After so many bytes taken a block comes whatever its size, even an empty one."""

_GZIP = 16 + zlib.MAX_WBITS

# How much isal gathers before it gives anything out. By default that is above 96 KiB, for which
# its buffer grows beyond 128 KiB, and those left such holes in the heap that a source grew, by
# 1.3 GiB of region files and logs, by 32 MiB above its imports' size. With this it is 8 MiB, for
# a tenth more of the compressor's time.
_SMALL_PORTIONS = 3


class Compression(Enum):
    """How hard to compress: the values of `system.backups.compression_level`."""

    NONE = "none"
    BEST_SPEED = "best_speed"
    BEST_COMPRESSION = "best_compression"


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


# Measured in MiB/s, and size in percent, for text, programs and data that does not compress:
#   zlib 0   2400 100%   2400 100%   2400 100%
#   isal 1    507  27%    519  34%    635 100%
#   isal 3    263  25%    275  33%    283 100%
#   zlib 6     33  22%     32  26%     45 100%
#   zlib 9      9  22%      6  25%     45 100%
# Who asks for the best compression has a line slower than zlib 6, to which isal 3 is no answer;
# zlib 9 would only keep the server offline for longer.
_COMPRESSORS: dict[Compression, Callable[[], _Compressor]] = {
    Compression.NONE: lambda: zlib.compressobj(0, wbits=_GZIP),
    Compression.BEST_SPEED: lambda: cast(
        _Compressor, isal_zlib.compressobj(1, wbits=_GZIP, memLevel=_SMALL_PORTIONS)
    ),
    Compression.BEST_COMPRESSION: lambda: zlib.compressobj(6, wbits=_GZIP),
}


def gzipped(blocks: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """Yield `blocks` as one gzip member, the same for the same bytes whenever it is made.

    Where the data compresses very well, blocks may be empty: they only tell that it goes on.
    """
    compressor = _COMPRESSORS[compression]()
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
