"""The line between a node and the world: loopback is too fast for a transfer to be watched."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.portforward import ProxyFactory, ProxyServer
from twisted.python.failure import Failure

__all__ = ["SlowLine"]


class _SlowServer(ProxyServer):
    """After each piece of what a client sends, waits for as long as a slow line would take."""

    factory: Any
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.pauseProducing()
        seconds = len(data) / self.factory.bytes_per_second
        self.factory.reactor.callLater(seconds, self._go_on)

    def _go_on(self) -> None:
        if self.transport.connected:
            self.transport.resumeProducing()

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.factory.connections.discard(self)


class SlowLine(ProxyFactory):
    """Takes connections on loopback to a port there; what is sent to it comes so slowly."""

    protocol = _SlowServer
    noisy = False

    def __init__(self, reactor: Any, port: int, bytes_per_second: float) -> None:
        super().__init__("127.0.0.1", port)
        self.reactor = reactor
        self.bytes_per_second = bytes_per_second
        self.connections: set[Any] = set()
        self._listening = reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def entrance(self) -> int:
        """The port of its near end."""
        number: int = self._listening.getHost().port
        return number

    async def close(self) -> None:
        """Take no more connections, and cut those that are there."""
        await maybeDeferred(self._listening.stopListening)
        for connection in list(self.connections):
            connection.transport.abortConnection()
