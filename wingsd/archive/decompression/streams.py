"""Formats of one or more complete streams in a row, read by decompressors like zlib's.

All are held to what gzip(1) does with its own: after the last stream only zeros may come, since
tapes and some tools fill up with them, and a stream that does not end was cut short.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Protocol

from attrs import frozen

from wingsd.errors import ArchiveError

__all__ = ["ENDS", "GARBAGE", "STEP", "Decompressor", "Streams", "only_padding"]

STEP = 480 << 10
"""The most bytes in one block that comes out of a compressed archive.

Measured in steps of 64 to 960 KiB, each kind of data inflates as fast in all of them; but every
block changes threads, which with many small files costs the one that writes them a seventh of its
time in steps of 120 KiB. It takes `heap.set_thresholds`: without, the C library gets each block
of 128 KiB and above by a system call."""

_INPUT = 64 << 10
"""The most compressed bytes given to a decompressor at a time. What finds no room in the output,
igzip_lib copies aside, in another size each time; out of whole blocks of 256 KiB these copies left
holes in the heap of the inflating thread. The process grew, by 3 GiB, from its imports' size by 39
to 42 MiB with whole blocks, by 8 to 11 with 32 KiB, by 9 to 10 with 64 KiB, which takes no
longer. The others copy as it does."""

GARBAGE = "the archive is damaged: its compressed data is followed by something else"
ENDS = "the archive ends in the middle; it was cut short, send it again"


class Decompressor(Protocol):
    """What the standard library's bz2 and lzma have, and others after them."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended, and was found whole."""

    @property
    def needs_input(self) -> bool:
        """Whether all of the input so far was used."""

    @property
    def unused_data(self) -> bytes | None:
        """What of the input follows the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return at most so many bytes of what `data`, after all before it, unpacks to."""


@frozen
class Streams:
    """One format: its `name` for people, how a stream begins, and what reads one.

    `make` is called for each stream. `errors` are what its `decompress` raises for wrong data;
    `advice` turns one of them into words that help, where it is something else than damage.
    Between two streams may be zeros in multiples of `padding` bytes, none where that is 0.
    """

    name: str
    magics: tuple[bytes, ...]
    make: Callable[[], Decompressor]
    errors: tuple[type[Exception], ...]
    advice: Callable[[Exception], str] = lambda error: ""
    padding: int = 0

    def plain(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield what the streams in `blocks` hold, to the very end.

        Raises ArchiveError as `decompressed` does.
        """
        begins = {magic[0] for magic in self.magics}
        pieces = _sliced(blocks)
        rest = next(pieces)
        while rest:
            rest = yield from self._stream(rest, pieces)
            rest = rest or next(pieces, b"")
            if not rest:
                return
            if rest[0] == 0:
                rest = self._behind_padding(rest, pieces)
                if not rest:
                    return
            if rest[0] not in begins:
                raise ArchiveError(GARBAGE)

    def _behind_padding(self, first: bytes, pieces: Iterator[bytes]) -> bytes:
        """Read over zeros; return what follows them. Raises ArchiveError where nothing may."""
        zeros = 0
        for piece in chain((first,), pieces):
            rest = piece.lstrip(b"\0")
            zeros += len(piece) - len(rest)
            if rest:
                if not self.padding or zeros % self.padding:
                    raise ArchiveError(GARBAGE)
                return rest
        return b""

    def _stream(self, first: bytes, pieces: Iterator[bytes]) -> Generator[bytes, None, bytes]:
        """Yield what one stream holds; return the bytes read beyond it."""
        decompressor = self.make()
        for piece in chain((first,), pieces):
            yield from self._unpacked(decompressor, piece)
            if decompressor.eof:
                return decompressor.unused_data or b""
        raise ArchiveError(ENDS)

    def _unpacked(self, decompressor: Decompressor, piece: bytes) -> Iterator[bytes]:
        while True:
            try:
                plain = decompressor.decompress(piece, STEP)
            except self.errors as error:
                raise ArchiveError(
                    self.advice(error)
                    or f"the archive is damaged: its {self.name} data is wrong ({error})"
                ) from error
            if plain:
                yield plain
            if decompressor.eof or decompressor.needs_input:
                return
            piece = b""


def _sliced(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        for at in range(0, len(block), _INPUT):
            yield block[at : at + _INPUT]


def only_padding(rest: Iterable[bytes | memoryview]) -> None:
    """Read to the end. Raises ArchiveError for anything but zeros."""
    for piece in rest:
        if bytes(piece).strip(b"\0"):
            raise ArchiveError(GARBAGE)
