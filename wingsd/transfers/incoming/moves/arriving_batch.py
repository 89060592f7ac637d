"""A batch of a move on its way from its request into the copy of the server's files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wingsd.moves.batch import BatchKind, BlockRun, Index
from wingsd.transfers.incoming.moves.errors import MoveRequestInvalid

if TYPE_CHECKING:
    from wingsd.transfers.incoming.moves.partial_copy import PartialCopy

__all__ = ["ArrivingBatch"]

#: Bytes and runs of blocks that are written together.
WRITTEN_TOGETHER = 256 << 10
RUNS_TOGETHER = 64


class ArrivingBatch:
    """One batch on its way into a copy."""

    def __init__(self, copy: PartialCopy, number: int, count: Callable[[int], object]) -> None:
        self._copy = copy
        self._number = number
        self._count = count
        #: The data batch that was begun, and by which opening of the ledger.
        self._begun: tuple[int, Index] | None = None
        #: Blocks that have arrived and are to be written together, and their bytes.
        self._runs: list[BlockRun] = []
        self._size = 0

    def take(self, event: Index | BlockRun) -> None:
        """Take what has arrived."""
        if isinstance(event, BlockRun):
            self._runs.append(event)
            self._size += len(event.data)
            if self._size >= WRITTEN_TOGETHER or len(self._runs) >= RUNS_TOGETHER:
                self.write()
            return
        if event.number != self._number:
            raise MoveRequestInvalid(
                f"the batch has the number {event.number}, the path has {self._number}"
            )
        # Of a shape batch nothing may be missing.
        if event.kind is BatchKind.DATA and (opened := self._copy.begin_batch(event)):
            self._begun = (opened, event)

    def write(self) -> None:
        """Write what was taken."""
        runs, self._runs = self._runs, []
        size, self._size = self._size, 0
        if runs and self._begun is not None:
            self._copy.write(*self._begun, runs)
            self._count(size)

    def end(self, index: Index) -> None:
        """Take the end."""
        if index.kind is BatchKind.SHAPE:
            self._copy.begin_batch(index)
        elif self._begun is not None:
            opened, begun = self._begun
            self._copy.end_batch(opened, begun)
            self._begun = None

    def abandon(self) -> None:
        """Give it up."""
        if self._begun is not None:
            self._copy.abandon(*self._begun)
