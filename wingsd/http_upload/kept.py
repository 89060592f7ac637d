"""Connections on which one request follows another: see `HttpExchange`.

A peer may close one that rests, or a proxy in between: the next request on it then fails without
an answer. So only requests that may be repeated are sent on these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.http_upload.exchange import Answer, HttpExchange, RequestBody, silence
from wingsd.http_upload.flow import FlowWatchdog

__all__ = ["KeptConnections", "KeptExchange"]

#: Seconds that a connection rests before it is not used again. Servers close them after a minute.
REST = 20.0


@implementer(IHandshakeListener)
class _Connection(Protocol):
    """A connection, and the exchange that it is used by; None while it rests."""

    transport: Any

    def __init__(self, pool: KeptConnections, exchange: KeptExchange) -> None:
        self.exchange: KeptExchange | None = exchange
        self.rests_since = 0.0
        self._pool = pool

    def connectionMade(self) -> None:
        """Have the first exchange begin."""
        exchange: Any = self.exchange
        if exchange is not None:
            exchange.makeConnection(self.transport)

    def handshakeCompleted(self) -> None:
        """Have it verify the peer."""
        if self.exchange is not None:
            self.exchange.handshakeCompleted()

    def dataReceived(self, data: bytes) -> None:
        """Pass the answer on."""
        if self.exchange is not None:
            self.exchange.dataReceived(data)
        else:  # nothing was asked
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the exchange."""
        self._pool.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.connectionLost(reason)

    def rest(self) -> None:
        """The exchange is over, and another one may follow."""
        self.exchange = None
        self._pool.keep(self)


class KeptExchange(HttpExchange):
    """An exchange by `KeptConnections.start`: its connection is used again, where it can be.

    The answer to a request with a `body` begins at most `wait` seconds after the body's end. The
    others are as those of `HttpExchange`.

    With a `stall_timeout` the peer has to take something of a body in `taken_within` seconds, and
    all of it in `most_within`; those do not count in which it was not sent more than it took.
    """

    taken_within = 120.0
    most_within = 3600.0

    def __init__(
        self,
        reactor: IReactorTime,
        request: h11.Request,
        body: RequestBody | None = None,
        verify: Callable[[Any], None] | None = None,
        stall_timeout: float | None = None,
        content: bytes = b"",
        wait: float = 90.0,
    ) -> None:
        super().__init__(reactor, request, body, verify, stall_timeout, content)
        self._wait = wait
        self._is_full = False
        self._flow: FlowWatchdog | None = None
        self._used: _Connection | None = None
        self._pool: KeptConnections | None = None

    def connect(
        self, pool: KeptConnections, endpoint: IStreamClientEndpoint, timeout: float
    ) -> Deferred[Answer]:
        """Begin on a new connection."""
        self._pool = pool
        return self.start(endpoint, timeout)

    def use(self, connection: _Connection, timeout: float) -> Deferred[Answer]:
        """Begin on a connection that has rested."""
        self._used, connection.exchange = connection, self
        self._set_limit(timeout, lambda: self.abort(silence(timeout)))
        self.transport, self.connected = connection.transport, 1
        self._begin()
        return self._answer

    def _protocol(self) -> Protocol:
        assert self._pool is not None  # noqa: S101 - by `connect`
        self._used = _Connection(self._pool, self)
        return self._used

    def pauseProducing(self) -> None:
        """Pause sending the body: the connection takes no more of it now."""
        self._is_full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Resume sending the body."""
        self._is_full = False
        super().resumeProducing()

    def _watch(self) -> None:
        super()._watch()
        if self._stall_timeout is None:
            return
        self._flow = FlowWatchdog(
            self._reactor,
            self._socket(),
            self.taken_within,
            self.most_within,
            lambda: self._is_full,
            self.abort,
        )

    def _end(self) -> None:
        super()._end()
        if self._flow is not None:
            self._flow.stop()

    def _end_request(self) -> None:
        super()._end_request()
        if self._body is not None:
            self._set_limit(self._wait, lambda: self.abort(silence(self._wait)))

    def _close(self) -> None:
        used, http = self._used, self._http
        is_done = (http.our_state, http.their_state) == (h11.DONE, h11.DONE)
        if used is None or self._early or not is_done or http.trailing_data[0]:
            super()._close()
            return
        self.transport.unregisterProducer()
        self.connected = 0  # it is not to close what others use
        used.rest()


class KeptConnections:
    """The connections to one node that rest."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._resting: list[_Connection] = []
        self._is_closed = False

    def start(
        self, exchange: KeptExchange, endpoint: IStreamClientEndpoint, timeout: float
    ) -> Deferred[Answer]:
        """Begin an exchange, on a connection that rests or on a new one to `endpoint`.

        As `HttpExchange.start`; a request without a body is answered within `timeout` seconds.
        """
        while self._resting:
            connection = self._resting.pop()
            if self._reactor.seconds() - connection.rests_since < REST:
                return exchange.use(connection, timeout)
            connection.transport.abortConnection()
        return exchange.connect(self, endpoint, timeout)

    def keep(self, connection: _Connection) -> None:
        """Keep a connection that rests."""
        if self._is_closed:
            connection.transport.abortConnection()
            return
        connection.rests_since = self._reactor.seconds()
        self._resting.append(connection)

    def forget(self, connection: _Connection) -> None:
        """Forget one that is lost."""
        if connection in self._resting:
            self._resting.remove(connection)

    def close(self) -> None:
        """Close those that rest, and each of the others when its exchange is over."""
        self._is_closed = True
        for connection in tuple(self._resting):
            connection.transport.abortConnection()
        self._resting.clear()
