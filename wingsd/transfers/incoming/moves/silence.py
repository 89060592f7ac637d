"""How long nothing was heard of the source of a move."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["SilenceWatch"]

#: Seconds until it is looked again at a move that is being committed.
AGAIN = 60.0


class SilenceWatch:
    """Calls `on_silence` with the seconds, once, when nothing was heard for so long.

    Not as long as `is_excused`: after the commit only this node has something to say.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        is_excused: Callable[[], bool],
        on_silence: Callable[[float], object],
    ) -> None:
        self._reactor = reactor
        self._is_excused = is_excused
        self._on_silence = on_silence
        self._heard = reactor.seconds()
        self._timer: IDelayedCall | None = None

    def hear(self) -> None:
        """Note that something was heard."""
        self._heard = self._reactor.seconds()

    def start(self, limit: float) -> None:
        """Watch from now on."""
        self.stop()
        self.hear()
        self._timer = self._reactor.callLater(limit, self._look, limit)

    def stop(self) -> None:
        """Watch no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self, limit: float) -> None:
        self._timer = None
        left = limit - (self._reactor.seconds() - self._heard)
        if self._is_excused():
            self._timer = self._reactor.callLater(AGAIN, self._look, limit)
        elif left > 0:
            self._timer = self._reactor.callLater(left, self._look, limit)
        else:
            self._on_silence(limit)
