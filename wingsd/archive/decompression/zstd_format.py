"""RFC 8878: zstd frames and skippable frames in a row."""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from wingsd.archive.blocks import Blocks
from wingsd.archive.decompression.skippable import is_skippable
from wingsd.archive.decompression.streams import ENDS, GARBAGE, only_padding
from wingsd.errors import ArchiveError

__all__ = ["MAGIC", "MAX_WINDOW", "unzstd"]

MAGIC = b"\x28\xb5\x2f\xfd"

MAX_WINDOW = 8 << 20
"""The largest window taken, in bytes. It is kept in memory, and 8 MiB is what `zstd -19` needs
and what RFC 8878 tells every decoder to have. `--long` and `--ultra` ask for up to 2 GiB."""

_RLE = 1
_BLOCK = 128 << 10


def unzstd(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what the frames hold, to the very end. Raises ArchiveError as `decompressed`."""
    source = Blocks(blocks)
    try:
        while not source.at_end():
            first = bytes(source.take(1))
            if first == b"\0":
                only_padding(source.rest())
                return
            magic = first + source.take(3)
            if magic == MAGIC:
                yield from _frame(source)
            elif is_skippable(magic):
                source.skip(int.from_bytes(source.take(4), "little"))
            else:
                raise ArchiveError(GARBAGE)
    except EOFError:
        raise ArchiveError(ENDS) from None
    except zstandard.ZstdError as error:
        raise ArchiveError(_fault(error)) from error


def _frame(source: Blocks) -> Iterator[bytes]:
    """Feed one frame block by block: each gives 128 KiB at most, and its end is seen exactly.

    The library's readers cannot tell a frame's end from the stream's, and its `decompressobj`
    gives all that its input unpacks to at once: one block is as much as may be fed to it.
    """
    unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    descriptor = bytes(source.take(1))
    unpack.decompress(MAGIC + descriptor + source.take(_rest_of_header(descriptor[0])))
    last = False
    while not last:
        head = bytes(source.take(3))
        word = int.from_bytes(head, "little")
        last, kind, size = bool(word & 1), word >> 1 & 3, word >> 3
        if size > _BLOCK:
            raise ArchiveError("the archive is damaged: a block of its zstd data is too large")
        plain = unpack.decompress(head + source.take(1 if kind == _RLE else size))
        if plain:
            yield plain
    if descriptor[0] & 4:
        unpack.decompress(bytes(source.take(4)))
    if not unpack.eof:
        raise ArchiveError("the archive is damaged: a frame of its zstd data does not end")


def _rest_of_header(descriptor: int) -> int:
    """Return the bytes of a frame header after its descriptor (RFC 8878, 3.1.1.1)."""
    single_segment = descriptor >> 5 & 1
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    return 1 - single_segment + dictionary + content_size


def _fault(error: Exception) -> str:
    if "memory" in str(error):
        return (
            f"the archive's zstd window is larger than {MAX_WINDOW >> 20} MiB; "
            "compress it without --long or --ultra"
        )
    return f"the archive is damaged: its zstd data is wrong ({error})"
