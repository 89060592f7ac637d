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


class _Filling:
    """Frames of a batch, their encodings and bytes; and how many bytes these have."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.encoded: list[bytes] = []
        self.data: list[bytes] = []
        self.index = self.bytes = 0

    def emptied(self) -> list[bytes]:
        """Return the bytes, and forget everything."""
        data, self.data = self.data, []
        self.frames, self.encoded = [], []
        self.index = self.bytes = 0
        return data

    def add(self, frame: Frame, encoded: bytes, data: bytes) -> None:
        """Add a frame."""
        self.frames.append(frame)
        self.encoded.append(encoded)
        self.index += len(encoded)
        if data:
            self.data.append(data)
            self.bytes += len(data)


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
        filling = _Filling()
        for frame, data in framed:
            encoded = frame.encode()
            if filling.frames and self._is_full(filling, len(encoded), len(data)):
                yield self._batch(kind, filling)
            filling.add(frame, encoded, data)
        if filling.frames:
            yield self._batch(kind, filling)

    def _is_full(self, filling: _Filling, index: int, data: int) -> bool:
        index += filling.index
        return (
            len(filling.frames) >= MAX_FRAMES
            or index > MAX_INDEX - _HEADS
            or index + filling.bytes + data > min(self.size, MAX_DATA) - _HEADS
        )

    def _batch(self, kind: BatchKind, filling: _Filling) -> Batch:
        """Make a batch, and empty the filling: its bytes are not to be held twice."""
        self.number += 1
        numbers = (self.number, self.round, self.shape)
        index = make_index(kind, *numbers, filling.frames, filling.encoded)
        return Batch(index, filling.emptied())


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
