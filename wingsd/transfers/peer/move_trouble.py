"""What people are told of a destination of a move that takes nothing."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from wingsd.transfers.errors import DestinationError

__all__ = ["MoveTrouble"]


class MoveTrouble:
    """Tells people that a destination takes nothing, and when it goes on: not each attempt."""

    #: Seconds between two lines.
    EVERY = 300.0

    def __init__(
        self,
        clock: IReactorTime,
        say: Callable[[str], None],
        show: Callable[[str], None] = lambda cause: None,
    ) -> None:
        """`show` has the cause as long as this lasts, then an empty text."""
        self._clock = clock
        self._say = say
        self._show = show
        self._since: float | None = None
        self._next = 0.0

    def note(self, error: DestinationError) -> None:
        """A request has failed, and is sent again."""
        now: float = self._clock.seconds()
        if self._since is None:
            self._since = self._next = now
        if now >= self._next:
            self._next = now + self.EVERY
            self._say(f"waiting for the destination, asking it again: {error.cause}")
            self._show(error.cause)

    def end(self) -> None:
        """Say no more: the move has ended, and only its destination is to hear of that."""
        self._say = self._show = lambda text: None

    def over(self) -> None:
        """A request got through."""
        if self._since is not None:
            waited = self._clock.seconds() - self._since
            self._since = None
            self._show("")
            self._say(f"the move goes on, after {waited:.0f} s")
