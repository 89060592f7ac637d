"""Compresses archives: the formats, how hard each compresses, and by which library."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Protocol, cast

import lz4.frame
import zstandard
from isal import isal_zlib

__all__ = [
    "OUTPUT",
    "SILENT_INPUT",
    "ArchiveFormat",
    "Compression",
    "Compressor",
    "compressed",
    "compressor",
]


class ArchiveFormat(Enum):
    """The formats, by the names that Calagopus' Panel has for them."""

    TAR = "tar"
    TAR_GZ = "tar_gz"
    TAR_XZ = "tar_xz"
    TAR_BZ2 = "tar_bz2"
    TAR_LZ4 = "tar_lz4"
    TAR_ZSTD = "tar_zstd"

    @property
    def suffix(self) -> str:
        """How the name of a file in this format ends, such as "tar.gz"."""
        return "tar.zst" if self is ArchiveFormat.TAR_ZSTD else self.value.replace("_", ".")


class Compression(Enum):
    """How hard to compress: the values of `system.backups.compression_level`.

    Those of Wings, and the two between them that Calagopus has. No compression at all is the
    fastest one in formats that have none.
    """

    NONE = "none"
    BEST_SPEED = "best_speed"
    GOOD_SPEED = "good_speed"
    GOOD_COMPRESSION = "good_compression"
    BEST_COMPRESSION = "best_compression"


class Compressor(Protocol):
    """What the standard library's compressors have."""

    def compress(self, data: bytes, /) -> bytes:
        """Take data; return what there is of its compressed form."""

    def flush(self) -> bytes:
        """Return the rest, to the stream's end."""


class _Lz4:
    """lz4's, which begins its frame by a call of its own."""

    def __init__(self, level: int) -> None:
        self._compressor = lz4.frame.LZ4FrameCompressor(
            compression_level=level, content_checksum=True
        )
        self._head = bytes(self._compressor.begin())

    def compress(self, data: bytes, /) -> bytes:
        head, self._head = self._head, b""
        return head + bytes(self._compressor.compress(data))

    def flush(self) -> bytes:
        return self._head + bytes(self._compressor.flush())


_GZIP = 16 + zlib.MAX_WBITS

# How much isal gathers before it gives anything out. By default that is above 96 KiB, for which
# its buffer grows beyond 128 KiB, and those left such holes in the heap that a source grew, by
# 1.3 GiB of region files and logs, by 32 MiB above its imports' size. With this it is 8 MiB, for
# a tenth more of the compressor's time.
_SMALL_PORTIONS = 3


def _isal(level: int) -> Compressor:
    return cast(Compressor, isal_zlib.compressobj(level, wbits=_GZIP, memLevel=_SMALL_PORTIONS))


def _zlib(level: int) -> Compressor:
    return zlib.compressobj(level, wbits=_GZIP)


def _xz(level: int) -> Compressor:
    return lzma.LZMACompressor(preset=level)


def _zstd(level: int) -> Compressor:
    return zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()


_Levels = Mapping[Compression, Callable[[], Compressor]]


def _levels(make: Callable[[int], Compressor], *levels: int) -> _Levels:
    numbers = dict(zip(Compression, (levels[0], *levels), strict=True))
    return MappingProxyType({each: lambda n=n: make(n) for each, n in numbers.items()})


# Measured in MiB/s, and size in percent, for text, programs and data that does not compress:
#   zlib 0   2400 100%   2400 100%   2400 100%
#   isal 1    507  27%    519  34%    635 100%
#   isal 3    263  25%    275  33%    283 100%
#   zlib 6     33  22%     32  26%     45 100%
#   zlib 9      9  22%      6  25%     45 100%
# Who asks for the best compression has a line slower than zlib 6, to which isal 3 is no answer;
# zlib 9 would only keep the server offline for longer.
_GZIP_LEVELS: _Levels = MappingProxyType(
    {
        Compression.NONE: lambda: _zlib(0),
        Compression.BEST_SPEED: lambda: _isal(1),
        Compression.GOOD_SPEED: lambda: _isal(3),
        Compression.GOOD_COMPRESSION: lambda: _zlib(6),
        Compression.BEST_COMPRESSION: lambda: _zlib(6),
    }
)

# A compressor of xz takes the more memory the harder it works: 9 MiB at 1, 17 at 2, 48 at 4, 94 at
# 6, and 674 at 9, which a node of games does not have. One of zstd takes 60 MiB at 15, and from 20
# on more than this node would take for reading it.
_FORMATS: Mapping[ArchiveFormat, _Levels] = MappingProxyType(
    {
        ArchiveFormat.TAR_GZ: _GZIP_LEVELS,
        ArchiveFormat.TAR_XZ: _levels(_xz, 1, 2, 4, 6),
        ArchiveFormat.TAR_BZ2: _levels(bz2.BZ2Compressor, 1, 4, 6, 9),
        ArchiveFormat.TAR_LZ4: _levels(_Lz4, 0, 3, 6, 9),
        ArchiveFormat.TAR_ZSTD: _levels(_zstd, 1, 5, 9, 15),
    }
)


def compressor(form: ArchiveFormat, compression: Compression) -> Compressor | None:
    """Return what makes an archive of that format from a tar; None for the tar itself."""
    levels = _FORMATS.get(form)
    return levels[compression]() if levels is not None else None


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
