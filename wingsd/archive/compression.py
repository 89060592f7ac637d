"""From the bytes of an archive, however it is compressed, to the bytes of a plain tar.

The kind is told by the first bytes, never by a name. What comes out comes in bounded blocks
whatever the ratio, so an archive made to burst has nothing to burst.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import chain
from typing import cast

import zstandard
from isal import igzip_lib

from wingsd.archive.blocks import Blocks
from wingsd.archive.headers import BLOCK, is_header
from wingsd.errors import ArchiveError

__all__ = ["MAX_ZSTD_WINDOW", "STEP", "decompressed"]

STEP = 480 << 10
"""The most bytes in one block that comes out of a compressed archive.

Measured in steps of 64 to 960 KiB, each kind of data inflates as fast in all of them; but every
block changes threads, which with many small files costs the one that writes them a seventh of its
time in steps of 120 KiB. It takes `heap.set_thresholds`: without, the C library gets each block
of 128 KiB and above by a system call."""

_INPUT = 64 << 10
"""The most compressed bytes given to igzip_lib at a time. What finds no room in the output it
copies aside, in another size each time; out of whole blocks of 256 KiB these copies left holes in
the heap of the inflating thread. The process grew, by 3 GiB, from its imports' size by 39 to
42 MiB with whole blocks, by 8 to 11 with 32 KiB, by 9 to 10 with 64 KiB, which takes no longer."""

MAX_ZSTD_WINDOW = 8 << 20
"""The largest window of zstd taken, in bytes. It is kept in memory, and 8 MiB is what `zstd -19`
needs and what RFC 8878 tells every decoder to have. `--long` and `--ultra` ask for up to 2 GiB."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ACCEPTED = "gzip, zstd and uncompressed tar archives are accepted"
_GZIP_ERROR = cast(type[Exception], igzip_lib.error)
_ZSTD_RLE = 1
_ZSTD_BLOCK = 128 << 10
_GARBAGE = "the archive is damaged: its compressed data is followed by something else"
_ENDS = "the archive ends in the middle; it was cut short, send it again"


def decompressed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the plain tar inside `blocks`, to the very end of the compressed stream.

    Raises ArchiveError for an empty stream, an unknown kind, damage (checksums and lengths are
    verified), a stream cut short, and anything but zero padding after its end.
    """
    head = _head(blocks)
    if not head:
        raise ArchiveError("the archive is empty: not one byte of it was received")
    whole = chain([head], blocks)
    if head.startswith(_GZIP):
        return _gunzipped(_sliced(whole))
    if head.startswith(_ZSTD) or _is_skippable(head[:4]):
        return _unzstd(Blocks(whole))
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


def _sliced(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        for at in range(0, len(block), _INPUT):
            yield block[at : at + _INPUT]


def _gunzipped(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 1952: one or more members in a row; as gzip(1) has it, zero padding after the last."""
    rest = next(blocks)
    while rest:
        rest = yield from _gzip_member(rest, blocks)
        rest = rest or next(blocks, b"")
        if not rest:
            return
        if rest[0] == 0:
            _only_padding(rest, blocks)
            return
        if rest[0] != _GZIP[0]:
            raise ArchiveError(_GARBAGE)


def _gzip_member(first: bytes, blocks: Iterator[bytes]) -> Generator[bytes, None, bytes]:
    """Yield what one member holds; return the bytes read beyond it."""
    inflate = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
    try:
        for block in chain((first,), blocks):
            yield from _inflated(inflate, block)
            if inflate.eof:
                return inflate.unused_data
    except _GZIP_ERROR as error:
        raise ArchiveError(f"the archive is damaged: its gzip data is wrong ({error})") from error
    raise ArchiveError(_ENDS)


def _inflated(inflate: igzip_lib.IgzipDecompressor, block: bytes) -> Iterator[bytes]:
    while True:
        plain = inflate.decompress(block, STEP)
        if plain:
            yield plain
        if inflate.needs_input or inflate.eof:
            return
        block = b""


def _only_padding(rest: bytes, blocks: Iterator[bytes]) -> None:
    for block in chain((rest,), blocks):
        if block.strip(b"\0"):
            raise ArchiveError(_GARBAGE)


def _unzstd(source: Blocks) -> Iterator[bytes]:
    """RFC 8878: zstd frames and skippable frames in a row."""
    try:
        while not source.at_end():
            magic = bytes(source.take(4))
            if magic == _ZSTD:
                yield from _zstd_frame(source)
            elif _is_skippable(magic):
                source.skip(int.from_bytes(source.take(4), "little"))
            else:
                raise ArchiveError(_GARBAGE)
    except EOFError:
        raise ArchiveError(_ENDS) from None
    except zstandard.ZstdError as error:
        raise ArchiveError(_zstd_fault(error)) from error


def _zstd_frame(source: Blocks) -> Iterator[bytes]:
    """Feed one frame block by block: each gives 128 KiB at most, and its end is seen exactly.

    The library's readers cannot tell a frame's end from the stream's, and its `decompressobj`
    gives all that its input unpacks to at once: one block is as much as may be fed to it.
    """
    unpack = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW).decompressobj()
    descriptor = bytes(source.take(1))
    unpack.decompress(_ZSTD + descriptor + source.take(_rest_of_frame_header(descriptor[0])))
    last = False
    while not last:
        head = bytes(source.take(3))
        word = int.from_bytes(head, "little")
        last, kind, size = bool(word & 1), word >> 1 & 3, word >> 3
        if size > _ZSTD_BLOCK:
            raise ArchiveError("the archive is damaged: a block of its zstd data is too large")
        plain = unpack.decompress(head + source.take(1 if kind == _ZSTD_RLE else size))
        if plain:
            yield plain
    if descriptor[0] & 4:
        unpack.decompress(bytes(source.take(4)))
    if not unpack.eof:
        raise ArchiveError("the archive is damaged: a frame of its zstd data does not end")


def _rest_of_frame_header(descriptor: int) -> int:
    """Return the bytes of a frame header after its descriptor (RFC 8878, 3.1.1.1)."""
    single_segment = descriptor >> 5 & 1
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    return 1 - single_segment + dictionary + content_size


def _is_skippable(magic: bytes) -> bool:
    return magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5  # noqa: PLR2004


def _zstd_fault(error: Exception) -> str:
    if "memory" in str(error):
        return (
            f"the archive's zstd window is larger than {MAX_ZSTD_WINDOW >> 20} MiB; "
            "compress it without --long or --ultra"
        )
    return f"the archive is damaged: its zstd data is wrong ({error})"
