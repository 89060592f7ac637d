"""Watchdogs of an upload's client: its data rate, and its TCP connection while not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wingsd.util.net import tcp_info

__all__ = ["ConnectionWatchdog", "RateWatchdog"]


class RateWatchdog:
    """Calls `too_slow` once, with the reason, when a client sends too little.

    The minimum is `rate` bytes a second on average over each window of `window` seconds. Time in
    which the client is paused does not count.
    """

    def __init__(
        self, reactor: IReactorTime, rate: int, window: float, too_slow: Callable[[str], object]
    ) -> None:
        self._reactor = reactor
        self._minimum = rate * window
        self._window = window
        self._too_slow = too_slow
        self._received = 0
        self._left = window
        self._since = 0.0
        self._timer: IDelayedCall | None = None
        self.resume()

    def count(self, size: int) -> None:
        """Count received bytes."""
        self._received += size

    def pause(self) -> None:
        """Stop the clock: the client is not read from."""
        if self._timer is not None:
            self._left -= self._reactor.seconds() - self._since
            self._timer.cancel()
            self._timer = None

    def resume(self) -> None:
        """Start the clock: the client is read from."""
        if self._timer is None:
            self._since = self._reactor.seconds()
            self._timer = self._reactor.callLater(max(self._left, 0), self._check)

    def _check(self) -> None:
        self._timer = None
        received, self._received, self._left = self._received, 0, self._window
        if received < self._minimum:
            self._too_slow(
                f"{received} bytes were received in {self._window:g} s, the minimum is "
                f"{self._minimum:g}"
            )
        else:
            self.resume()


#: Seconds between two checks. A cancelled transfer should end within 2.
CHECK_INTERVAL = 1.0


class ConnectionWatchdog:
    """Calls `gone` when the peer of `transport`, TCP with or without TLS, has disconnected.

    For times in which the transport is paused: Twisted then does not notice it.
    """

    def __init__(self, reactor: IReactorTime, transport: Any, gone: Callable[[], object]) -> None:
        self._reactor = reactor
        self._transport = transport
        self._gone = gone
        self._timer: IDelayedCall | None = None

    def watch(self) -> None:
        """Check every second until `stop` is called."""
        if self._timer is None:
            self._timer = self._reactor.callLater(CHECK_INTERVAL, self._check)

    def stop(self) -> None:
        """Stop checking: the transport is read from."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        if self._is_connected():
            self.watch()
        else:
            self._gone()

    def _is_connected(self) -> bool:
        below_tls = getattr(self._transport, "transport", self._transport)
        try:
            return tcp_info(below_tls.getHandle()).established
        except OSError:
            return True  # A Unix socket has no such information.
