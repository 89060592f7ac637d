"""The interface of metrics: events of the node's work, for an observer to count.

Names of directions, steps, operations and errors come from small sets, as labels of metrics must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

DIRECTIONS = ("in", "out")
#: The peers that the node calls.
PANEL = "panel"
ENGINE = "engine"


class Passage(Protocol):
    """A transfer under way."""

    @property
    def direction(self) -> str:
        """`in` to this node or `out` from it."""

    @property
    def step(self) -> str:
        """The name of the current step."""

    @property
    def step_seconds(self) -> float:
        """Seconds since the current step began."""

    @property
    def moved(self) -> int:
        """Bytes received or sent so far."""


class Observer:
    """Counts the bytes of transfers, and ignores all other events, which subclasses override.

    `called` and `distrusted` may come from any thread, all other events from the reactor. No
    method may raise.
    """

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
        """A transfer has begun; it ends with `transfer_over`."""
        self.under_way.add(transfer)

    def step_left(self, transfer: Passage) -> None:
        """A transfer leaves a step that this process saw begin."""

    def transfer_over(
        self, direction: str, error: Exception | None, transfer: Passage | None = None
    ) -> None:
        """A transfer has ended: with the server moved, or with an `error`.

        `transfer` is None for one that an earlier daemon began.
        """
        if transfer in self.under_way:
            self.under_way.remove(transfer)
            self._moved[direction] += transfer.moved

    def move_resumed(self) -> None:
        """A move from this node goes on after a break, from what the destination has reported."""

    def sent_again(self, size: int) -> None:
        """A move from this node is over, in which so many bytes were sent twice."""

    def round_sent(self, size: int, *, is_first: bool) -> None:
        """A round of a running server was sent, with so many bytes of its files."""

    def downtime_predicted(self, seconds: float) -> None:
        """A server that is followed would be down for so long if it were stopped now."""

    def downtime_measured(self, seconds: float) -> None:
        """Note the `seconds` from the stop of a followed server to its arrival."""

    def distrusted(self) -> None:
        """A file was changed without a change of its ctime. From any thread."""

    def called(self, peer: str, operation: str, seconds: float, error: Exception | None) -> None:
        """A call to `PANEL` or `ENGINE` took `seconds`; with `error` it failed."""

    def answered(self, error: Exception) -> None:
        """A request was answered with an error."""

    @contextmanager
    def timing(self, peer: str, operation: str, clock: Callable[[], float]) -> Iterator[None]:
        """Time the call in the context. `clock` gives seconds."""
        began = clock()
        try:
            yield
        except Exception as error:
            self.called(peer, operation, clock() - began, error)
            raise
        self.called(peer, operation, clock() - began, None)
