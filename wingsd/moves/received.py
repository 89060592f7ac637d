"""Which batches have arrived, and which may come: numbers, rounds, and the shape that data needs.

Pure. A batch counts as received when it is written; `durable` are those on stable storage.
"""

from __future__ import annotations

from wingsd.moves.batch import BatchKind, Index
from wingsd.moves.errors import BatchConflict, RoundIncomplete, ShapeMissing

__all__ = ["REMEMBERED", "WINDOW", "ReceivedBatches"]

WINDOW = 64
"""How far above the highest contiguous number a batch may be."""

REMEMBERED = 1024
"""Numbers below the highest contiguous one whose contents are compared when they come again."""


class ReceivedBatches:
    """The batches of one move, from 1, and its rounds, from 1."""

    def __init__(self) -> None:
        #: All up to this number were received, and these beyond it.
        self.upto = 0
        self.beyond: set[int] = set()
        #: The highest number that is in the ledger, of a batch that was lost, too.
        self.highest = 0
        #: The round that is open, and the last shape batch that was applied.
        self.round = 1
        self.shape = 0
        #: The last batch of closed rounds.
        self.closed = 0
        self._digests: dict[int, bytes] = {}

    def has(self, number: int) -> bool:
        """Return whether a batch was received."""
        return number <= self.upto or number in self.beyond

    def admit(self, index: Index) -> bool:
        """Return whether a batch is to be applied: False for a repetition.

        Raises BatchConflict, and ShapeMissing for one that may come again later.
        """
        number = index.number
        known = self._digests.get(number)
        if known is not None and known != index.digest:
            raise BatchConflict(f"batch {number} came before with other contents")
        if self.has(number):
            return False
        if index.round != self.round:
            raise BatchConflict(
                f"batch {number} is of round {index.round}, and round {self.round} is open"
            )
        if number > self.upto + WINDOW:
            raise ShapeMissing(
                f"batch {number} is more than {WINDOW} above {self.upto}; send those before it"
            )
        if index.kind is BatchKind.SHAPE and index.needs != self.shape:
            if index.needs < self.shape:
                raise BatchConflict(f"batch {number} is of a shape that another has changed")
            raise ShapeMissing(f"batch {number} needs shape {index.needs}; send that first")
        if index.needs > self.shape:
            raise ShapeMissing(f"batch {number} needs shape {index.needs}; send that first")
        return True

    def recorded(self, index: Index) -> None:
        """Remember the contents of a batch that is in the ledger."""
        self._digests[index.number] = index.digest
        self.highest = max(self.highest, index.number)
        if index.kind is BatchKind.SHAPE:
            self.shape = index.number

    def add(self, number: int) -> None:
        """Count a batch as received."""
        self.beyond.add(number)
        while self.upto + 1 in self.beyond:
            self.upto += 1
            self.beyond.remove(self.upto)
            self._digests.pop(self.upto - REMEMBERED, None)

    def discard(self, number: int) -> None:
        """Count a batch as not received."""
        if number <= self.upto:
            self.beyond |= set(range(number + 1, self.upto + 1))
            self.upto = number - 1
        self.beyond.discard(number)

    def forget(self, number: int) -> None:
        """Let a batch that was not received come with other contents."""
        self.discard(number)
        self._digests.pop(number, None)

    def check_round(self, in_round: int, last: int) -> bool:
        """Return whether a round can be closed after batch `last`: False if it is closed already.

        Raises RoundIncomplete where batches are missing, and BatchConflict.
        """
        if in_round == self.round - 1 and last == self.closed:
            return False
        highest = max(self.beyond, default=self.upto)
        if in_round != self.round or last < max(self.closed, highest):
            raise BatchConflict(
                f"round {in_round} with the last batch {last} is not what is open: round "
                f"{self.round}, and batches up to {highest}"
            )
        if last > self.upto:
            raise RoundIncomplete(
                f"of its batches up to {last} those up to {self.upto} are here, and "
                f"{len(self.beyond)} more; send the others"
            )
        return True

    def close(self, in_round: int, last: int) -> None:
        """Close a round."""
        self.round, self.closed = in_round + 1, last

    def restore(self, in_round: int, last: int, shape: int) -> None:
        """Go on from a snapshot, made after `in_round` had ended with the batch `last`."""
        self.upto, self.beyond, self.shape = last, set(), shape
        self.highest = last
        self.close(in_round, last)
        self._digests.clear()
