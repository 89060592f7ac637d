"""zstd for batches: one frame (RFC 8878) with a bounded window, inflated in bounded pieces.

Whether a batch is compressed is told beside it (`Content-Encoding`). The library is imported with
the first one that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from wingsd.archive.decompress import MAX_WINDOW
from wingsd.moves.digests import Bytes
from wingsd.moves.errors import invalid

__all__ = ["SAMPLE", "STEP", "Inflater", "deflated", "shrinks"]

STEP = 256 << 10
"""The most bytes of a piece of output."""

SAMPLE = 256 << 10
"""Bytes from the start of a batch by which it is decided whether it is compressed."""

_WORTH = 0.95
_MAGIC = b"\x28\xb5\x2f\xfd"


class Inflater:
    """Inflates a batch, however much its bytes would become: the caller decides when to stop."""

    def __init__(self) -> None:
        import pyzstd  # noqa: PLC0415 - a megabyte, for batches alone

        option: Any = {pyzstd.DParameter.windowLogMax: MAX_WINDOW.bit_length() - 1}
        self._decompressor = pyzstd.ZstdDecompressor(option=option)
        self._error = pyzstd.ZstdError
        self._begin = b""

    def feed(self, data: Bytes) -> Iterator[bytes]:
        """Yield the output for a piece of input, in pieces of at most `STEP` bytes.

        Raises BatchInvalid for what is not zstd, for a window above 8 MiB, for a skippable frame
        and for bytes after the frame's end.
        """
        if len(self._begin) < len(_MAGIC):
            self._begin += bytes(data[: len(_MAGIC) - len(self._begin)])
            if not _MAGIC.startswith(self._begin):
                raise invalid("it does not begin as zstd does")
        decompressor = self._decompressor
        rest: Bytes = data
        while rest or not decompressor.needs_input:
            if decompressor.eof:
                if not rest:
                    return
                raise invalid("it goes on after the end of its zstd frame")
            try:
                plain = decompressor.decompress(rest, STEP)
            except self._error as error:
                raise invalid(f"its zstd data is wrong ({error})") from error
            rest = b""
            if plain:
                yield plain
            if decompressor.eof:
                rest = decompressor.unused_data

    def finish(self) -> None:
        """Raise BatchInvalid where the frame has not ended."""
        if not self._decompressor.eof:
            raise invalid("it ends in the middle of its zstd frame")


def deflated(pieces: Iterable[Bytes], level: int = 1) -> Iterator[bytes]:
    """Yield pieces as one zstd frame; levels up to 3 keep the window below 8 MiB."""
    import pyzstd  # noqa: PLC0415

    option: Any = {
        pyzstd.CParameter.compressionLevel: level,
        pyzstd.CParameter.checksumFlag: 0,  # blocks and the index have digests
    }
    compressor = pyzstd.ZstdCompressor(option)
    for piece in pieces:
        if out := compressor.compress(piece):
            yield out
    yield compressor.flush()


def shrinks(sample: Bytes) -> bool:
    """Return whether a batch that begins with this is worth being compressed."""
    if not sample:
        return False
    import pyzstd  # noqa: PLC0415

    return len(pyzstd.compress(sample, 1)) < _WORTH * len(sample)
