"""Whether a client is still there while nothing is read from it, and so nobody hears it go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from wingsd.tcpinfo import tcp_info

__all__ = ["Presence"]

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
