"""Notices that a connected peer does not read what it is sent, or hardly anything of it.

A process that hangs or was stopped is such a peer: its kernel acknowledges each window probe, so
that `AckWatchdog` never sees it as silent.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wingsd.http_upload.exchange import CHECKS
from wingsd.util.net import tcp_info

__all__ = ["FlowWatchdog"]


class FlowWatchdog:
    """Watches what the peer of a TCP connection takes, from now on; calls `on_halt` with why not.

    That is when it has taken nothing for `limit` seconds, in all of which there was more than the
    connection took, as `is_full` tells; or when there was more in `most` seconds, in all.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        connection: socket.socket,
        limit: float,
        most: float,
        is_full: Callable[[], bool],
        on_halt: Callable[[TimeoutError], object],
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._limit = limit
        self._most = most
        self._is_full = is_full
        self._on_halt = on_halt
        self._taken = tcp_info(connection).acknowledged
        self._checked = self._since = reactor.seconds()
        #: The seconds in which there was more.
        self._full = 0.0
        self._next: IDelayedCall = self._schedule()

    def stop(self) -> None:
        """Stop watching."""
        if self._next.active():
            self._next.cancel()

    def _schedule(self) -> IDelayedCall:
        later: IDelayedCall = self._reactor.callLater(self._limit / CHECKS, self._check)
        return later

    def _check(self) -> None:
        now, taken, is_full = (
            self._reactor.seconds(),
            tcp_info(self._connection).acknowledged,
            self._is_full(),
        )
        if is_full:
            self._full += now - self._checked
        if not is_full or taken != self._taken:
            self._taken, self._since = taken, now
        self._checked = now
        if now - self._since >= self._limit:
            what = f"it took nothing of what it was sent for {self._limit:g} s"
            self._on_halt(TimeoutError(what))
        elif self._full >= self._most:
            what = f"it did not take what it was sent within {self._most:g} s"
            self._on_halt(TimeoutError(what))
        else:
            self._next = self._schedule()
