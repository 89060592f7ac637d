"""From the bytes of an archive, however it is compressed, to the bytes of a plain tar.

The kind is told by the first bytes, never by a name. What comes out comes in bounded blocks
whatever the ratio, so an archive made to burst has nothing to burst; and what each format keeps
in memory, its window or dictionary, has a bound that is told beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from wingsd.archive.decompression.bzip2_format import BZIP2
from wingsd.archive.decompression.gzip_format import GZIP
from wingsd.archive.decompression.lz4_format import LZ4
from wingsd.archive.decompression.skippable import is_skippable, passed_over
from wingsd.archive.decompression.streams import STEP
from wingsd.archive.decompression.xz_format import XZ
from wingsd.archive.decompression.zstd_format import MAGIC as ZSTD_MAGIC
from wingsd.archive.decompression.zstd_format import unzstd
from wingsd.archive.headers import BLOCK, is_header
from wingsd.errors import ArchiveError

__all__ = ["STEP", "decompressed"]

_ACCEPTED = "gzip, zstd, xz, bzip2, lz4 and uncompressed tar archives are accepted"

_Kind = tuple[tuple[bytes, ...], Callable[[Iterator[bytes]], Iterator[bytes]]]

# How each kind begins, and what reads it. Skippable frames may come before two of them.
_FRAMED: tuple[_Kind, ...] = ((LZ4.magics, LZ4.plain), ((ZSTD_MAGIC,), unzstd))
_KINDS: tuple[_Kind, ...] = (
    *((each.magics, each.plain) for each in (GZIP, XZ, BZIP2)),
    *_FRAMED,
)


def decompressed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the plain tar inside `blocks`, to the very end of the compressed stream.

    Raises ArchiveError for an empty stream, an unknown kind, damage (checksums and lengths are
    verified), a window or dictionary beyond its bound, a stream cut short, and anything but zero
    padding after its end.
    """
    head = _head(blocks)
    if not head:
        raise ArchiveError("the archive is empty: not one byte of it was received")
    whole: Iterator[bytes] = chain([head], blocks)
    kinds = _KINDS
    if is_skippable(head[:4]):
        head, whole = passed_over(whole)
        kinds = _FRAMED
    for magics, plain in kinds:
        if head.startswith(magics):
            return plain(whole)
    if is_header(head[:BLOCK]) or head[257:262] == b"ustar":
        return whole
    raise ArchiveError(f"the archive is of an unknown kind; {_ACCEPTED}")


def _head(blocks: Iterator[bytes]) -> bytes:
    head = b""
    for block in blocks:
        head = head + block if head else block
        if len(head) >= BLOCK:
            break
    return head
