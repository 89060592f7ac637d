"""The transfers under way and the bytes moved, for every node: those with metrics count more."""

from __future__ import annotations

from wingsd.util.observer import Observer, Passage

__all__ = ["DIRECTIONS", "MovedBytes"]

DIRECTIONS = ("in", "out")


class MovedBytes(Observer):
    """Counts the bytes of transfers since the daemon's start."""

    def __init__(self) -> None:
        #: The transfers in progress.
        self.under_way: set[Passage] = set()
        self._moved = dict.fromkeys(DIRECTIONS, 0)

    def moved(self, direction: str) -> int:
        """Return the bytes of all transfers of a direction, those under way included."""
        return self._moved[direction] + self.moving(direction)

    def moving(self, direction: str) -> int:
        """Return the bytes so far of the transfers of a direction that are under way."""
        return sum(each.moved for each in self.under_way if each.direction == direction)

    def transfer_begun(self, transfer: Passage) -> None:
        """A transfer is under way."""
        self.under_way.add(transfer)

    def transfer_over(
        self, direction: str, error: Exception | None, transfer: Passage | None = None
    ) -> None:
        """A transfer has ended, well or not."""
        if transfer in self.under_way:
            self.under_way.remove(transfer)
            self._moved[direction] += transfer.moved
