"""Batches to be sent: filled with frames up to a size, and packed as the bodies of requests.

The numbers of batches count on through the move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyzstd
from attrs import frozen

from wingsd.moves.batch import (
    MAX_DATA,
    MAX_FRAMES,
    MAX_INDEX,
    BatchKind,
    Frame,
    Index,
    encode_batch,
    make_index,
)
from wingsd.moves.contents import FramedData
from wingsd.moves.digests import Bytes
from wingsd.moves.plan import Plan

LEAST_SIZE = 256 << 10
"""Bytes of the smallest limit of a batch: each frame with its bytes fits it."""

_HEADS = 128
#: Bytes of the smallest and the largest block of a body.
_SMALL, _LARGE = 64 << 10, 256 << 10
#: Bytes from the start of a batch by which it is decided whether it is compressed, and how much
#: they must shrink.
_SAMPLE, _WORTH = 256 << 10, 0.95


@frozen(eq=False, repr=False)
class Batch:
    """A batch that is ready to be sent."""

    index: Index
    data: Sequence[bytes]

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes."""
        return encode_batch(self.index, self.data)


class BatchFiller:
    """Makes the batches of a move: for each round `shapes`, then `data`.

    `size` is the most bytes of a batch, before it is compressed, and may be changed at any time.
    """

    def __init__(self, size: int, number: int = 0, in_round: int = 0, shape: int = 0) -> None:
        self.size = size
        #: The number of the last batch, the present round, and the last shape batch.
        self.number = number
        self.round = in_round
        self.shape = shape

    def shapes(self, plan: Plan) -> Iterator[Batch]:
        """Begin a round; yield its shape batches. Each needs the one before it."""
        self.round += 1
        each: tuple[Iterable[Frame], ...] = (plan.removals, plan.creations)
        for frames in each:
            for batch in self._filled(BatchKind.SHAPE, ((frame, b"") for frame in frames)):
                self.shape = batch.index.number
                yield batch

    def data(self, contents: Iterable[FramedData]) -> Iterator[Batch]:
        """Yield batches of contents, which need the shape so far."""
        return self._filled(BatchKind.DATA, contents)

    def _filled(self, kind: BatchKind, framed: Iterable[tuple[Frame, bytes]]) -> Iterator[Batch]:
        frames, encoded, contents = list[Frame](), list[bytes](), list[bytes]()
        index = size = 0  # bytes of the encoded frames, and with those of their contents
        for frame, data in framed:
            raw = frame.encode()
            index += len(raw)
            size += len(raw) + len(data)
            if frames and (
                len(frames) >= MAX_FRAMES
                or index > MAX_INDEX - _HEADS
                or size > min(self.size, MAX_DATA) - _HEADS
            ):
                yield self._batch(kind, frames, encoded, contents)
                index, size = len(raw), len(raw) + len(data)
            frames.append(frame)
            encoded.append(raw)
            if data:
                contents.append(data)
        if frames:
            yield self._batch(kind, frames, encoded, contents)

    def _batch(
        self, kind: BatchKind, frames: list[Frame], encoded: list[bytes], contents: list[bytes]
    ) -> Batch:
        """Make a batch, and empty the lists: its bytes are not to be held twice."""
        self.number += 1
        numbers = (self.number, self.round, self.shape)
        batch = Batch(make_index(kind, *numbers, frames, encoded), tuple(contents))
        for each in (frames, encoded, contents):
            each.clear()
        return batch


@frozen(eq=False, repr=False)
class BatchBody:
    """The body of a request with a batch; `data` are its bytes of files."""

    number: int
    data: int
    blocks: list[bytes | memoryview]
    zstd: bool

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(len(block) for block in self.blocks)


def batch_body(batch: Batch, *, zstd: bool, level: int = 1) -> BatchBody:
    """Return the body of a batch; with `zstd` it is compressed if its beginning shrinks."""
    pieces: Iterator[Bytes] = batch.pieces()
    if zstd:
        sample, taken = bytearray(), []
        for piece in pieces:
            taken.append(piece)
            sample += piece[: _SAMPLE - len(sample)]
            if len(sample) == _SAMPLE:
                break
        zstd = shrinks(sample)
        pieces = chain(taken, pieces)
    size = sum(len(piece) for piece in batch.data)
    blocks = list(_blocks(deflated(pieces, level) if zstd else pieces))
    return BatchBody(batch.index.number, size, blocks, zstd)


def _blocks(pieces: Iterable[Bytes]) -> Iterator[bytes | memoryview]:
    """Join small pieces, so that each costs less, and cut large ones; others are not copied."""
    joined = bytearray()
    for piece in pieces:
        is_small = len(piece) < _SMALL
        if is_small:
            joined += piece
        if joined and not (is_small and len(joined) < _SMALL):
            yield bytes(joined)
            joined.clear()
        if not is_small:
            view = memoryview(piece)
            for at in range(0, len(view), _LARGE):
                yield view[at : at + _LARGE]
    if joined:
        yield bytes(joined)


def deflated(pieces: Iterable[Bytes], level: int = 1) -> Iterator[bytes]:
    """Yield pieces as one zstd frame; levels up to 3 keep the window below 8 MiB."""
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
    return len(pyzstd.compress(sample, 1)) < _WORTH * len(sample)
