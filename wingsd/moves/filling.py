"""Fills batches with frames, up to a size. The numbers of batches count on through the move."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen

from wingsd.moves.batch import (
    MAX_DATA,
    MAX_FRAMES,
    MAX_INDEX,
    BatchKind,
    Index,
    encode_batch,
    make_index,
)
from wingsd.moves.contents import FramedData
from wingsd.moves.frames import Frame
from wingsd.moves.plan import Plan

__all__ = ["LEAST_SIZE", "Batch", "BatchFiller"]

LEAST_SIZE = 256 << 10
"""Bytes of the smallest limit of a batch: each frame with its bytes fits it."""

_HEADS = 128


@frozen(eq=False, repr=False)
class Batch:
    """A batch that is ready to be sent."""

    index: Index
    data: Sequence[bytes | memoryview]

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield its bytes."""
        return encode_batch(self.index, self.data)


class BatchFiller:
    """Makes the batches of a move: for each round `shapes`, then `data`.

    `size` is the most bytes of a batch, before it is compressed, and may be changed at any time.
    """

    def __init__(self, size: int, *, number: int = 0, in_round: int = 0, shape: int = 0) -> None:
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
            for portion in self._portions(frames):
                batch = self._batch(BatchKind.SHAPE, portion, ())
                self.shape = batch.index.number
                yield batch

    def data(self, contents: Iterable[FramedData]) -> Iterator[Batch]:
        """Yield batches of contents, which need the shape so far."""
        frames: list[Frame] = []
        data: list[bytes | memoryview] = []
        taken = index = 0
        for content in contents:
            encoded = len(content.frame.encode())
            size = encoded + len(content.data)
            if frames and self._is_full(len(frames), index + encoded, taken + size):
                yield self._batch(BatchKind.DATA, frames, data)
                frames, data, taken, index = [], [], 0, 0
            frames.append(content.frame)
            if content.data:
                data.append(content.data)
            taken += size
            index += encoded
        if frames:
            yield self._batch(BatchKind.DATA, frames, data)

    def _portions(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        portion: list[Frame] = []
        taken = 0
        for frame in frames:
            size = len(frame.encode())
            if portion and self._is_full(len(portion), taken + size, taken + size):
                yield portion
                portion, taken = [], 0
            portion.append(frame)
            taken += size
        if portion:
            yield portion

    def _is_full(self, frames: int, index: int, size: int) -> bool:
        return (
            frames >= MAX_FRAMES
            or index > MAX_INDEX - _HEADS
            or size > min(self.size, MAX_DATA) - _HEADS
        )

    def _batch(
        self, kind: BatchKind, frames: Sequence[Frame], data: Sequence[bytes | memoryview]
    ) -> Batch:
        self.number += 1
        return Batch(make_index(kind, self.number, self.round, self.shape, frames), data)
