"""From the bytes of a tar to those of a gzip stream (RFC 1952)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Protocol, cast

from isal import isal_zlib

__all__ = ["OUTPUT", "SILENT_INPUT", "Compression", "gzipped"]

OUTPUT = 120 << 10
"""Exactly as many bytes come in one block; see `compression.STEP` for why not more. Blocks of many
sizes, made in one thread and freed in another, leave holes in the C library's heap, and that then
grew by 5 MiB for each GiB."""

SILENT_INPUT = 1 << 20
"""After so many bytes taken a block comes whatever its size, even an empty one."""

_GZIP = 16 + zlib.MAX_WBITS


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
    Compression.BEST_SPEED: lambda: cast(_Compressor, isal_zlib.compressobj(1, wbits=_GZIP)),
    Compression.BEST_COMPRESSION: lambda: zlib.compressobj(6, wbits=_GZIP),
}


def gzipped(blocks: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """Yield `blocks` as one gzip member, the same for the same bytes whenever it is made.

    Where the data compresses very well, blocks may be empty: they only tell that it goes on.
    """
    compressor = _COMPRESSORS[compression]()
    gathered: list[bytes] = []
    taken = size = 0
    for block in blocks:
        out = compressor.compress(block)
        gathered.append(out)
        taken += len(block)
        size += len(out)
        if size < OUTPUT and taken < SILENT_INPUT:
            continue
        data = b"".join(gathered)
        while len(data) >= OUTPUT:
            yield data[:OUTPUT]
            data = data[OUTPUT:]
        if taken >= SILENT_INPUT:
            yield data
            data = b""
        gathered = [data]
        taken, size = 0, len(data)
    gathered.append(compressor.flush())
    yield b"".join(gathered)
