"""Formats of one or more complete streams in a row, read by decompressors like zlib's.

All are held to what gzip(1) does with its own: after the last stream only zeros may come, since
tapes and some tools fill up with them, and a stream that does not end was cut short.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Protocol, TypeAlias

from attrs import frozen

from wingsd.errors import ArchiveError

__all__ = ["ENDS", "GARBAGE", "STEP", "Decompressor", "Piece", "Streams", "only_padding"]

STEP = 480 << 10
"""The most bytes in one block that comes out of a compressed archive.

Measured in steps of 64 to 960 KiB, each kind of data inflates as fast in all of them; but every
block changes threads, which with many small files costs the one that writes them a seventh of its
time in steps of 120 KiB. It takes `heap.set_thresholds`: without, the C library gets each block
of 128 KiB and above by a system call."""

_LEAST_INPUT = 64 << 10
_MOST_INPUT = 256 << 10
"""Bytes given to a decompressor at a time: so many that what they unpack to just fits one block.

Every block changes threads, so that few large ones are better: what does not compress takes an
eighth more time to receive when only 64 KiB of it are given. But what finds no room in the output,
igzip_lib copies aside, in another size each time; out of blocks of 256 KiB, whatever they unpacked
to, these copies left holes in the heap of the inflating thread. The process grew, by 3 GiB, from
the size of its imports by 39 to 42 MiB with that, by 8 to 11 with 32 KiB, by 9 to 10 with 64 KiB.
The others copy as it does."""

GARBAGE = "the archive is damaged: its compressed data is followed by something else"
ENDS = "the archive ends in the middle; it was cut short, send it again"


Piece: TypeAlias = bytes | memoryview
"""Compressed bytes."""


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

    def decompress(self, data: Piece, max_length: int) -> bytes:
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
        pieces = _Input(blocks)
        rest: Piece = next(pieces)
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

    def _behind_padding(self, first: Piece, pieces: Iterator[Piece]) -> bytes:
        """Read over zeros; return what follows them. Raises ArchiveError where nothing may."""
        zeros = 0
        for piece in chain((first,), pieces):
            rest = bytes(piece).lstrip(b"\0")
            zeros += len(piece) - len(rest)
            if rest:
                if not self.padding or zeros % self.padding:
                    raise ArchiveError(GARBAGE)
                return rest
        return b""

    def _stream(self, first: Piece, pieces: _Input) -> Generator[bytes, None, bytes]:
        """Yield what one stream holds; return the bytes read beyond it."""
        decompressor = self.make()
        for piece in chain((first,), pieces):
            unpacked = yield from self._unpacked(decompressor, piece)
            if decompressor.eof:
                # each of many short streams copies what follows it
                pieces.size = _LEAST_INPUT
                return decompressor.unused_data or b""
            pieces.fit(len(piece), unpacked)
        raise ArchiveError(ENDS)

    def _unpacked(self, decompressor: Decompressor, piece: Piece) -> Generator[bytes, None, int]:
        """Yield what a piece unpacks to; return how many bytes that is."""
        size = 0
        while True:
            try:
                plain = decompressor.decompress(piece, STEP)
            except self.errors as error:
                raise ArchiveError(
                    self.advice(error)
                    or f"the archive is damaged: its {self.name} data is wrong ({error})"
                ) from error
            if plain:
                size += len(plain)
                yield plain
            if decompressor.eof or decompressor.needs_input:
                return size
            piece = b""


class _Input:
    """Compressed bytes, in views of about `size` bytes."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._pieces: Iterator[memoryview] = iter(())
        self.size = _LEAST_INPUT

    def __iter__(self) -> _Input:
        return self

    def __next__(self) -> memoryview:
        while (piece := next(self._pieces, None)) is None:
            self._pieces = _divided(next(self._blocks), self.size)
        return piece

    def fit(self, packed: int, unpacked: int) -> None:
        """Learn from so many bytes, and what they unpacked to, how many fill most of a block."""
        fitting = STEP * 7 // 8 * packed // max(unpacked, 1)
        self.size = min(max(fitting, _LEAST_INPUT), _MOST_INPUT)


def _divided(block: bytes, most: int) -> Iterator[memoryview]:
    """Yield a block in equal parts: a short one at its end would be a short block behind it."""
    view = memoryview(block)
    size = -(-len(block) // -(-len(block) // most)) if block else 1
    for at in range(0, len(block), size):
        yield view[at : at + size]


def only_padding(rest: Iterable[Piece]) -> None:
    """Read to the end. Raises ArchiveError for anything but zeros."""
    for piece in rest:
        if bytes(piece).strip(b"\0"):
            raise ArchiveError(GARBAGE)
