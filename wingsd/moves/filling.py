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
        """Return the bytes, and begin anew."""
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
                batch = self._batch(BatchKind.SHAPE, portion)
                self.shape = batch.index.number
                yield batch

    def data(self, contents: Iterable[FramedData]) -> Iterator[Batch]:
        """Yield batches of contents, which need the shape so far."""
        filling = _Filling()
        for content in contents:
            encoded = content.frame.encode()
            if filling.frames and self._is_full(filling, len(encoded), len(content.data)):
                yield self._batch(BatchKind.DATA, filling)
            filling.add(content.frame, encoded, content.data)
        if filling.frames:
            yield self._batch(BatchKind.DATA, filling)

    def _portions(self, frames: Iterable[Frame]) -> Iterator[_Filling]:
        """Yield fillings, which are empty when the next one is asked for."""
        filling = _Filling()
        for frame in frames:
            encoded = frame.encode()
            if filling.frames and self._is_full(filling, len(encoded), 0):
                yield filling
            filling.add(frame, encoded, b"")
        if filling.frames:
            yield filling

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
