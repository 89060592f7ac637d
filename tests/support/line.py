"""The line to a node: it counts what clients send, and can be slow, cut, stall, and lose answers.

It may also be slow to answer: what is sent, either way, arrives after a delay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.portforward import (
    ProxyClient,
    ProxyClientFactory,
    ProxyFactory,
    ProxyServer,
)
from twisted.python.failure import Failure


class ThrottledConnection(ProxyServer):
    """A connection that pauses after each piece that the client sends."""

    factory: Any
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.pauseProducing()
        seconds = len(data) / self.factory.bytes_per_second
        self.factory.reactor.callLater(seconds, self._resume)

    def _resume(self) -> None:
        if self.transport.connected:
            self.transport.resumeProducing()

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.factory.connections.discard(self)


class ThrottledProxy(ProxyFactory):
    """Forwards connections to a port of loopback, each at `bytes_per_second` towards it."""

    protocol = ThrottledConnection
    noisy = False

    def __init__(self, reactor: Any, port: int, bytes_per_second: float) -> None:
        super().__init__("127.0.0.1", port)
        self.reactor = reactor
        self.bytes_per_second = bytes_per_second
        self.connections: set[Any] = set()
        self._listening = reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def listening_port(self) -> int:
        number: int = self._listening.getHost().port
        return number

    async def close(self) -> None:
        await maybeDeferred(self._listening.stopListening)
        for connection in list(self.connections):
            connection.transport.abortConnection()


# The line to a node: it counts what clients send, and can be cut, stall, and lose answers


#: Seconds from when answers are lost until the connections are.
LOST_WITHIN = 0.3


class _FromNode(ProxyClient):
    peer: Any

    def dataReceived(self, data: bytes) -> None:
        if self.peer.loses_answers:
            return
        if not self.peer.factory.hold(self, data):
            self.peer.factory.later(super().dataReceived, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.peer is not None:
            self.peer.factory.later(super().connectionLost, reason)


class _ToNode(ProxyClientFactory):
    protocol = _FromNode
    noisy = False


class _Connection(ThrottledConnection):
    clientProtocolFactory = _ToNode
    loses_answers = False

    def dataReceived(self, data: bytes) -> None:
        if self.factory.hold(self, data):
            return
        self.factory.later(super().dataReceived, data)
        self.factory.count(len(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.later(super().connectionLost, reason)


class Line(ThrottledProxy):
    """Forwards connections to a node, which keeps its address here when it is started again."""

    protocol = _Connection

    def __init__(self, reactor: Any, port: int, bytes_per_second: float) -> None:
        super().__init__(reactor, port, bytes_per_second)
        #: Bytes that clients have sent to the node, those of TLS included.
        self.sent = 0
        #: Seconds that all takes on its way.
        self.delay = 0.0
        self._events: list[tuple[int, Callable[[], object]]] = []
        self._is_stalled = False
        self._held: list[tuple[Any, bytes]] = []

    def after(self, count: int, event: Callable[[], object]) -> None:
        """Have `event` called when `count` more bytes have been sent."""
        self._events.append((self.sent + count, event))

    def calm(self) -> None:
        """Forget what was to happen."""
        self._events.clear()

    def cut(self) -> None:
        """End all connections."""
        self._end(set(self.connections))

    def lose_answers(self) -> None:
        """Have the node's answers on the present connections lost, then the connections."""
        now = set(self.connections)
        for connection in now:
            connection.loses_answers = True
        self.reactor.callLater(LOST_WITHIN, self._end, now)

    def stall(self, seconds: float) -> None:
        """Forward nothing for some time."""
        self._is_stalled = True
        self.reactor.callLater(seconds, self._go_on)

    def _end(self, connections: set[Any]) -> None:
        for connection in connections & self.connections:
            connection.transport.abortConnection()

    def _go_on(self) -> None:
        self._is_stalled = False
        held, self._held = self._held, []
        for end, data in held:
            if end.peer is not None:
                end.dataReceived(data)

    def later(self, work: Callable[[Any], object], what: Any) -> None:
        """Do some work after the delay."""
        if self.delay:
            self.reactor.callLater(self.delay, work, what)
        else:
            work(what)

    def hold(self, end: Any, data: bytes) -> bool:
        """Return whether what has arrived at one end of a connection waits."""
        if self._is_stalled:
            self._held.append((end, data))
        return self._is_stalled

    def count(self, size: int) -> None:
        """Count what was sent."""
        self.sent += size
        due = [event for at, event in self._events if at <= self.sent]
        self._events = [each for each in self._events if each[0] > self.sent]
        for event in due:
            event()
