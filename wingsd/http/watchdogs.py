"""Watches the client of an upload: whether it sends enough, and whether it is still there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from wingsd.util.net import tcp_info

__all__ = ["Pace", "Presence"]


class Pace:
    """Watches what comes, from one stretch of time to the next; the client may send from now on.

    At least `rate` bytes a second must come on average over each stretch of `window` seconds, in
    which only the time counts that the client may send in. Where they do not, `too_slow` is called
    once, with the reason, and that is the end of it.
    """

    def __init__(
        self, reactor: Any, rate: int, window: float, too_slow: Callable[[str], object]
    ) -> None:
        self._reactor = reactor
        self._least = rate * window
        self._window = window
        self._too_slow = too_slow
        self._came = 0
        self._left = window
        self._since = 0.0
        self._ending: IDelayedCall | None = None
        self.go_on()

    def note(self, size: int) -> None:
        """Something came, `size` bytes of it."""
        self._came += size

    def rest(self) -> None:
        """The client must wait, until `go_on` is called: it is no fault of its own."""
        if self._ending is not None:
            self._left -= self._reactor.seconds() - self._since
            self._ending.cancel()
            self._ending = None

    def go_on(self) -> None:
        """The client may send."""
        if self._ending is None:
            self._since = self._reactor.seconds()
            self._ending = self._reactor.callLater(max(self._left, 0), self._look)

    def _look(self) -> None:
        self._ending = None
        came, self._came, self._left = self._came, 0, self._window
        if came < self._least:
            self._too_slow(
                f"only {came} bytes were received in {self._window:g} s of waiting for them, "
                f"where {self._least:g} are the least"
            )
        else:
            self.go_on()


#: Seconds between two looks; a cancelled transfer is to be over within 2.
LOOK_EVERY = 1.0


class Presence:
    """Watches the peer of `transport`, TCP with or without TLS; calls `gone` when it has gone."""

    def __init__(self, reactor: Any, transport: Any, gone: Callable[[], object]) -> None:
        self._reactor = reactor
        self._transport = transport
        self._gone = gone
        self._next: IDelayedCall | None = None

    def watch(self) -> None:
        """Look now and then, until `rest` is called."""
        if self._next is None:
            self._next = self._reactor.callLater(LOOK_EVERY, self._look)

    def rest(self) -> None:
        """Look no more: it is read from."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        self._next = None
        if self._is_there():
            self.watch()
        else:
            self._gone()

    def _is_there(self) -> bool:
        below_tls = getattr(self._transport, "transport", self._transport)
        try:
            return tcp_info(below_tls.getHandle()).established
        except OSError:
            return True  # A UNIX socket does not tell.
