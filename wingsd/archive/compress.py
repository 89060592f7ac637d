"""Compresses archives: the formats, their levels and libraries."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Any, Protocol, cast

import pyzstd
from isal import isal_zlib


class ArchiveFormat(Enum):
    """The formats, by their names in the Panel of Calagopus."""

    TAR = "tar"
    TAR_GZ = "tar_gz"
    TAR_XZ = "tar_xz"
    TAR_BZ2 = "tar_bz2"
    TAR_LZ4 = "tar_lz4"
    TAR_ZSTD = "tar_zstd"

    @property
    def suffix(self) -> str:
        """The suffix of file names, such as "tar.gz"."""
        return "tar.zst" if self is ArchiveFormat.TAR_ZSTD else self.value.replace("_", ".")


class Compression(Enum):
    """The values of `system.backups.compression_level`: those of Wings, and two of Calagopus.

    In formats that always compress, `NONE` is the fastest level.
    """

    NONE = "none"
    BEST_SPEED = "best_speed"
    GOOD_SPEED = "good_speed"
    GOOD_COMPRESSION = "good_compression"
    BEST_COMPRESSION = "best_compression"


class Compressor(Protocol):
    """The interface of the standard library's compressors."""

    def compress(self, data: bytes, /) -> bytes:
        """Add data; return the output so far."""

    def flush(self) -> bytes:
        """Return the rest of the stream."""


class _Lz4:
    """lz4's compressor, with the start of its frame, which is a call of its own there."""

    def __init__(self, level: int) -> None:
        import lz4.frame  # noqa: PLC0415

        self._frame = lz4.frame.LZ4FrameCompressor(compression_level=level, content_checksum=True)

    def compress(self, data: bytes, /) -> bytes:
        return self._head() + cast(bytes, self._frame.compress(data))

    def flush(self) -> bytes:
        return self._head() + cast(bytes, self._frame.flush())

    def _head(self) -> bytes:
        return b"" if self._frame.started() else cast(bytes, self._frame.begin())


_GZIP = 16 + zlib.MAX_WBITS

# How much isal buffers before it returns output. By default above 96 KiB, for which its buffer
# grows beyond 128 KiB; these fragmented the heap, and a source that sent 1.3 GiB of region files
# and logs grew by 32 MiB. With this it grows by 8 MiB, for a tenth more of the compressor's time.
_SMALL_BUFFERS = 3


def _isal(level: int) -> Compressor:
    return cast(Compressor, isal_zlib.compressobj(level, wbits=_GZIP, memLevel=_SMALL_BUFFERS))


def _zlib(level: int) -> Compressor:
    return zlib.compressobj(level, wbits=_GZIP)


def _zstd(level: int) -> Compressor:
    parameters = pyzstd.CParameter
    option: Any = {parameters.compressionLevel: level, parameters.checksumFlag: 1}
    return cast(Compressor, pyzstd.ZstdCompressor(option))


_Levels = Mapping[Compression, Callable[[], Compressor]]


def _levels(make: Callable[[int], Compressor], *levels: int) -> _Levels:
    numbers = zip(Compression, (levels[0], *levels), strict=True)
    return {each: partial(make, number) for each, number in numbers}


# Measured in MiB/s, and size in percent, for text, programs and data that does not compress:
#   zlib 0   2400 100%   2400 100%   2400 100%
#   isal 1    507  27%    519  34%    635 100%
#   isal 3    263  25%    275  33%    283 100%
#   zlib 6     33  22%     32  26%     45 100%
#   zlib 9      9  22%      6  25%     45 100%
# The best compression is for links slower than zlib 6, for which isal 3 compresses too little;
# zlib 9 would only keep the server offline for longer.
_GZIP_LEVELS: _Levels = {
    Compression.NONE: partial(_zlib, 0),
    Compression.BEST_SPEED: partial(_isal, 1),
    Compression.GOOD_SPEED: partial(_isal, 3),
    Compression.GOOD_COMPRESSION: partial(_zlib, 6),
    Compression.BEST_COMPRESSION: partial(_zlib, 6),
}

# xz takes more memory at higher levels: 9 MiB at 1, 17 at 2, 48 at 4, 94 at 6, and 674 at 9, too
# much for a node. zstd takes 60 MiB at 15, and from 20 on a window above `decompress.MAX_WINDOW`.
_FORMATS: Mapping[ArchiveFormat, _Levels] = {
    ArchiveFormat.TAR_GZ: _GZIP_LEVELS,
    ArchiveFormat.TAR_XZ: _levels(lambda level: lzma.LZMACompressor(preset=level), 1, 2, 4, 6),
    ArchiveFormat.TAR_BZ2: _levels(bz2.BZ2Compressor, 1, 4, 6, 9),
    ArchiveFormat.TAR_LZ4: _levels(_Lz4, 0, 3, 6, 9),
    ArchiveFormat.TAR_ZSTD: _levels(_zstd, 1, 5, 9, 15),
}


def compressor(form: ArchiveFormat, compression: Compression) -> Compressor | None:
    """Return the compressor of a format; None for the plain tar."""
    return None if form is ArchiveFormat.TAR else _FORMATS[form][compression]()


OUTPUT = 240 << 10
"""Bytes of every block of output. Fewer would cost more changes of threads; blocks of many sizes,
made in one thread and freed in another, fragment the C library's heap, which then grew by 5 MiB
for each GiB."""

SILENT_INPUT = 1 << 20
"""After so many bytes of input a block is returned whatever its size, even an empty one."""


def compressed(blocks: Iterator[bytes], compressor: Compressor) -> Iterator[bytes]:
    """Yield `blocks` compressed to one stream, the same for the same input.

    Where the data compresses very well, blocks may be empty: they only show progress.
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
