"""Frames that hold nothing of what is compressed: zstd and lz4 have them in common.

They may stand before, between and after the frames that do (RFC 8878, 3.1.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from wingsd.archive.blocks import Blocks
from wingsd.archive.decompression.streams import ENDS
from wingsd.errors import ArchiveError

__all__ = ["MAGICS", "is_skippable", "passed_over"]

MAGICS = tuple(number.to_bytes(4, "little") for number in range(0x184D2A50, 0x184D2A60))


def is_skippable(magic: bytes) -> bool:
    """Tell whether these four bytes begin such a frame."""
    return magic in MAGICS


def passed_over(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Leave out the skippable frames that `blocks` begins with.

    Return the four bytes after them, and the rest with these in front. Raises ArchiveError where
    nothing follows.
    """
    source = Blocks(blocks)
    try:
        while is_skippable(magic := bytes(source.take(4))):
            source.skip(int.from_bytes(source.take(4), "little"))
    except EOFError:
        raise ArchiveError(ENDS) from None
    return magic, chain([magic], (bytes(piece) for piece in source.rest()))
