"""A peer that acknowledges nothing any more of what is sent to it.

TCP gives up on one only after a quarter of an hour. Its keepalive asks nothing while anything is
under way, and `TCP_USER_TIMEOUT` would also end a connection whose peer is there and only takes
nothing for now. Such a peer acknowledges each question whether it takes more; a dead one does not.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from wingsd.keepalive import PROBES
from wingsd.tcpinfo import tcp_info

__all__ = ["Silence"]

#: How often is looked in the time that a peer may be silent.
LOOKS = 8


class Silence:
    """Watches the peer of a TCP connection from now on; calls `tell` when it is silent.

    That is when it has acknowledged nothing for `limit` seconds, in all of which there was
    something to be acknowledged.
    """

    def __init__(
        self, reactor: Any, connection: socket.socket, limit: float, tell: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._limit = limit
        self._tell = tell
        #: Since when there is something to be acknowledged, as far as looks have shown.
        self._since = inf
        self._next: IDelayedCall = self._look_later()

    def stop(self) -> None:
        """Look no more."""
        if self._next.active():
            self._next.cancel()

    def _look_later(self) -> IDelayedCall:
        later: IDelayedCall = self._reactor.callLater(self._limit / LOOKS, self._look)
        return later

    def _look(self) -> None:
        now, info = self._reactor.seconds(), tcp_info(self._connection)
        owes = info.unacknowledged or info.probes
        self._since = min(self._since, now) if owes else inf
        # A peer that takes nothing is asked every two minutes in the end, and one question may be
        # lost on its way: it is given as many as keepalive gives.
        certain = info.unacknowledged or info.probes >= PROBES
        if certain and min(now - self._since, info.silence) >= self._limit:
            self._tell()
        else:
            self._next = self._look_later()
