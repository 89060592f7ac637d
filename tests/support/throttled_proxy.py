"""A TCP proxy on loopback that limits how fast clients send: slow transfers can be observed."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.portforward import ProxyFactory, ProxyServer
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
