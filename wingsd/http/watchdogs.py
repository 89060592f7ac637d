"""Watchdogs of a client: the rate of its uploads and downloads, and whether it is still there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wingsd.util.net import tcp_info


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


class DeliveryWatchdog:
    """Calls `too_slow` once, with the reason, when a client receives too little.

    The minimum is `rate` bytes a second, or a single byte for 0, on average over each window of
    `window` seconds. What counts is what the client has acknowledged, since the kernel buffers
    megabytes. `transport` is TCP with or without TLS; with anything else nobody is too slow.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        transport: Any,
        rate: int,
        window: float,
        too_slow: Callable[[str], object],
    ) -> None:
        self._reactor = reactor
        self._transport = transport
        self._minimum = max(rate * window, 1)
        self._window = window
        self._too_slow = too_slow
        self._acknowledged = 0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Begin a window."""
        self.stop()
        acknowledged = _acknowledged(self._transport)
        if acknowledged is not None:
            self._acknowledged = acknowledged
            self._timer = self._reactor.callLater(self._window, self._check)

    def stop(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def undelivered(self) -> int:
        """Return the bytes that the kernel has and the client has not acknowledged."""
        try:
            found = ioctl(_below_tls(self._transport).getHandle().fileno(), TIOCOUTQ, bytes(4))
        except (OSError, AttributeError):  # in memory
            return 0
        return int.from_bytes(found, sys.byteorder)

    def _check(self) -> None:
        self._timer = None
        received = (_acknowledged(self._transport) or 0) - self._acknowledged
        if received < self._minimum:
            self._too_slow(
                f"{received} bytes were received in {self._window:g} s, the minimum is "
                f"{self._minimum:g}"
            )
        else:
            self.start()


def _below_tls(transport: Any) -> Any:
    return getattr(transport, "transport", transport)


def _acknowledged(transport: Any) -> int | None:
    """Return the bytes that the client has acknowledged; None where it is not TCP."""
    try:
        return tcp_info(_below_tls(transport).getHandle()).acknowledged
    except OSError:
        return None


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
        try:
            return tcp_info(_below_tls(self._transport).getHandle()).established
        except OSError:
            return True  # A Unix socket has no such information.
