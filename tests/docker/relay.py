"""A relay before the engine: to reach it in another way, and to cut its connections."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure


class _Far(Protocol):
    """The connection to the engine."""

    def __init__(self, near: _Near) -> None:
        self._near = near

    def dataReceived(self, data: bytes) -> None:
        self._near.send(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._near.hang_up()


class _Near(Protocol):
    """The connection of whoever wants the engine."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._far: Any = None
        self._early: list[bytes] = []
        self._gone = False

    def connectionMade(self) -> None:
        self._relay.connections.append(self)
        endpoint = UNIXClientEndpoint(self._relay.reactor, self._relay.target)
        connecting = endpoint.connect(Factory.forProtocol(lambda: _Far(self)))
        connecting.addCallbacks(self._connected, lambda _: self.hang_up())

    def _connected(self, far: Any) -> None:
        self._far = far.transport
        for data in self._early:
            self._far.write(data)
        if self._gone:
            self._far.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._relay.passed(data)
        if self._far is None:
            self._early.append(data)
        else:
            self._far.write(data)

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        self._relay.lost(self)
        if self._far is not None:
            self._far.loseConnection()


class Relay(Factory):
    """Passes everything on to the engine's socket at `target`."""

    noisy = False

    def __init__(self, reactor: Any, target: str) -> None:
        self.reactor = reactor
        self.target = target
        self.connections: list[_Near] = []
        self._port: IListeningPort | None = None
        self._idle: Deferred[None] = Deferred()
        self._attached: Deferred[None] = Deferred()

    async def listen(self, endpoint: IStreamServerEndpoint) -> Any:
        self._port = await endpoint.listen(self)
        return self._port.getHost()

    def buildProtocol(self, addr: object) -> _Near:
        return _Near(self)

    def idle(self) -> Deferred[None]:
        """Return a Deferred that fires when there are no connections left."""
        self._idle = Deferred()
        if not self.connections:
            self._idle.callback(None)
        return self._idle

    def attached(self) -> Deferred[None]:
        """Return a Deferred that fires when somebody attaches to an output from now on."""
        self._attached = Deferred()
        return self._attached

    def passed(self, data: bytes) -> None:
        if b"/attach?stream=1&stdout" in data and not self._attached.called:
            self._attached.callback(None)

    def lost(self, near: _Near) -> None:
        self.connections.remove(near)
        if not self.connections and not self._idle.called:
            self._idle.callback(None)

    def cut(self) -> None:
        for near in list(self.connections):
            near.hang_up()

    async def close(self) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        self.cut()
