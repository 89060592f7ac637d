"""Persistent connections, on which one request follows another: see `HttpExchange`.

A peer may close one that rests, or a proxy in between: the next request on it then fails without
an answer. So only requests that may be repeated are sent on these, and their bodies are in memory.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import h11
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.http_upload.exchange import CHECKS, Answer, HttpExchange, RequestBody, silence
from wingsd.threadio import Share, TokenBucket
from wingsd.util.net import tcp_info

__all__ = ["Block", "BlocksBody", "FlowWatchdog", "PersistentConnections", "PersistentExchange"]

#: Seconds that a connection rests before it is not used again. Servers close them after a minute.
REST = 20.0

Block = bytes | memoryview


@implementer(IPushProducer)
class BlocksBody:
    """A body in memory: sends `blocks` at the rate of `bucket`. For one request.

    `yields` is whether it leaves a part of the rate to others.
    """

    def __init__(
        self, blocks: Sequence[Block], bucket: TokenBucket | None = None, *, yields: bool = False
    ) -> None:
        self._blocks = iter(blocks)
        self._left = len(blocks)
        self._bucket = bucket
        self._yields = yields
        self._share: Share | None = None
        self._consumer: Callable[[bytes], None] | None = None
        self._finished: Callable[[], None] | None = None
        self._is_running = True

    def start(self, consumer: Callable[[bytes], None], finished: Callable[[], None]) -> None:
        """Deliver the blocks to `consumer`; right after the last one call `finished`."""
        self._consumer, self._finished = consumer, finished
        if self._bucket is not None:
            self._share = self._bucket.join(self._deliver, yields=self._yields)
        self._deliver()

    def pauseProducing(self) -> None:
        """Pause delivery."""
        self._is_running = False

    def resumeProducing(self) -> None:
        """Resume delivery."""
        self._is_running = True
        self._deliver()

    def stopProducing(self) -> None:
        """Deliver nothing more."""
        self.close()

    def close(self) -> None:
        """Deliver nothing more."""
        self._consumer = self._finished = None
        # The exchange that has this is in a cycle, and would keep the blocks until it is found.
        self._blocks, self._left = iter(()), 0
        if self._share is not None:
            self._share.leave()

    def _deliver(self) -> None:
        while self._consumer is not None and self._is_running:
            if self._share is not None and self._share.held:
                return
            finished = self._finished
            if self._left:
                self._left -= 1
                self._hand_over(bytes(next(self._blocks)))
            if not self._left and finished is not None and self._finished is not None:
                self.close()
                finished()

    def _hand_over(self, block: bytes) -> None:
        assert self._consumer is not None  # noqa: S101 - by `_deliver`
        if self._share is not None:
            self._share.take(len(block))
        self._consumer(block)


class FlowWatchdog:
    """Watches what the peer of a TCP connection takes, from now on; calls `on_halt` with why not.

    A process that hangs or was stopped takes nothing, and `AckWatchdog` never sees it as silent:
    its kernel acknowledges each window probe.

    `on_halt` is called when the peer has taken nothing for `limit` seconds, in all of which there
    was more than the connection took, as `is_full` tells; or when there was more in `most`
    seconds, in all.
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


@implementer(IHandshakeListener)
class _Connection(Protocol):
    """A connection, and the exchange that it is used by; None while it rests."""

    transport: Any

    def __init__(self, pool: PersistentConnections, exchange: PersistentExchange) -> None:
        self.exchange: PersistentExchange | None = exchange
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


class PersistentExchange(HttpExchange):
    """An exchange by `PersistentConnections.start`: its connection is used again, where it can be.

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
        self._pool: PersistentConnections | None = None

    def connect(
        self, pool: PersistentConnections, endpoint: IStreamClientEndpoint, timeout: float
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


class PersistentConnections:
    """The connections to one node that rest."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._resting: list[_Connection] = []
        self._is_closed = False

    def start(
        self, exchange: PersistentExchange, endpoint: IStreamClientEndpoint, timeout: float
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
