"""Who is told how the node's work goes, and may count it.

The rooms of the node tell an `Observer`; what becomes of that, they do not know. Pure: clocks are
handed in. Names are those that are counted by, and come from small sets: of directions, of steps,
of operations, and of classes of errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["ENGINE", "PANEL", "Observer", "Passage"]

#: Those whom the node calls.
PANEL = "panel"
ENGINE = "engine"


class Passage(Protocol):
    """A transfer under way, to be looked at whenever somebody wants to know."""

    @property
    def direction(self) -> str:
        """`in` to this node, `out` from it."""

    @property
    def step(self) -> str:
        """The name of the step that it is in."""

    @property
    def step_seconds(self) -> float:
        """For how many seconds it has been in that."""

    @property
    def moved(self) -> int:
        """The bytes that have come, or gone, so far."""


class Observer:
    """Is told, and does nothing with it.

    `called` comes from any thread, all else from the reactor's. None of them may raise.
    """

    def transfer_begun(self, transfer: Passage) -> None:
        """A transfer is under way, until `transfer_over`."""

    def step_left(self, transfer: Passage) -> None:
        """It leaves a step that it has been in from its beginning."""

    def transfer_over(
        self, direction: str, error: Exception | None, transfer: Passage | None = None
    ) -> None:
        """A transfer has ended: the server has moved, or else there is an `error`.

        `transfer` is None for one that was never told to have begun, but by an earlier daemon.
        """

    def called(self, peer: str, operation: str, seconds: float, error: Exception | None) -> None:
        """A call to one of `PANEL` and `ENGINE` took so long; with `error` it has failed."""

    def answered(self, error: Exception) -> None:
        """Somebody's request was answered with an error."""

    @contextmanager
    def timing(self, peer: str, operation: str, clock: Callable[[], float]) -> Iterator[None]:
        """Tell of the call that is made meanwhile. `clock` gives seconds."""
        began = clock()
        try:
            yield
        except Exception as error:
            self.called(peer, operation, clock() - began, error)
            raise
        self.called(peer, operation, clock() - began, None)
