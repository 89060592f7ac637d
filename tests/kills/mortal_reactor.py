"""The reactor, the threads and the engine of a daemon in this process that can die at any point.

What a dead daemon has begun comes to nothing: its timers, its threads' results and its requests to
the engine, and what it still writes to connections.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

from twisted.internet._resolver import HostResolution
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IDelayedCall, IHostnameResolver
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from tests.kills.fault_points import Life, outside
from tests.kills.jumping_clock import JumpingClock
from tests.support.environment import FakeContainers, FakeProcess
from tests.support.reactor import reactor
from wingsd.docker.runtime import ContainerUsage, Watcher
from wingsd.egg_files.rewriters import Rewriters
from wingsd.threadio import Workers

__all__ = ["MortalEnvironment", "MortalPools", "MortalReactor"]

P = ParamSpec("P")
T = TypeVar("T")


class MortalReactor:
    """The reactor, as a daemon sees it: its time is that of `clock`, and ends with its `life`."""

    def __init__(self, life: Life, clock: JumpingClock) -> None:
        self._life = life
        self._clock = clock
        self.ports: list[Any] = []
        self.connections: set[_Connection] = set()
        self.nameResolver = _Resolver()
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def seconds(self) -> float:
        return self._clock.seconds()

    def callLater(
        self, delay: float, function: Callable[..., object], *args: Any, **kw: Any
    ) -> Any:
        call = self._clock.callLater(delay, self._life.run, function, *args, **kw)
        return _Call(call, self._life)

    def callFromThread(self, function: Callable[..., object], *args: Any, **kw: Any) -> None:
        with outside():
            reactor.callFromThread(self._life.run, function, *args, **kw)

    def listenTCP(self, port: int, factory: Any, *args: Any, **kw: Any) -> Any:
        mortal: Any = _Factory(factory, self, self._life)
        made = reactor.listenTCP(port, mortal, *args, **kw)
        self.ports.append(made)
        return made

    def connectTCP(self, host: str, port: int, factory: Any, *args: Any, **kw: Any) -> Any:
        return reactor.connectTCP(host, port, _Factory(factory, self, self._life), *args, **kw)

    def cut(self) -> None:
        """Close what the daemon has open."""
        for connection in [*self.connections]:
            transport: Any = connection.transport
            transport.abortConnection()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing of the daemon is under way any more."""
        return not self.connections and not self._life.working


@implementer(IHostnameResolver)
class _Resolver:
    """Resolves addresses, at once: what threads do that are no daemon's is not waited for."""

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        resolution = HostResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        resolutionReceiver.addressResolved(IPv4Address("TCP", hostName, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IDelayedCall)
class _Call:
    """A call at a time of the daemon's."""

    def __init__(self, call: Any, life: Life) -> None:
        self._call = call
        self._life = life

    def getTime(self) -> float:
        return float(self._call.getTime())

    def cancel(self) -> None:
        if self._call.active() or not self._life.is_dead:  # of which it was not told
            self._call.cancel()

    def delay(self, seconds: float) -> None:
        self._call.delay(seconds)

    def reset(self, seconds: float) -> None:
        self._call.reset(seconds)

    def active(self) -> bool:
        return bool(self._call.active())


class _Connection(ProtocolWrapper):
    """A connection: each piece that is received or sent is a point."""

    factory: _Factory

    def makeConnection(self, transport: Any) -> None:
        self.factory.reactor.connections.add(self)
        if self.factory.life.is_dead:
            transport.abortConnection()
        self.factory.life.run(super().makeConnection, transport)

    def dataReceived(self, data: bytes) -> None:
        life = self.factory.life
        if life.passes("received", f"received {data[:30]!r}"):
            life.run(super().dataReceived, data)

    def write(self, data: bytes) -> None:
        if self.factory.life.passes("sent", f"sent {data[:30]!r}"):
            with outside():
                super().write(data)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.reactor.connections.discard(self)
        # Also of a dead one, so that its threads do not wait for ever: what they do then is
        # without effect.
        self.factory.life.mourn(super().connectionLost, reason)


class _Factory(WrappingFactory):
    protocol = _Connection
    noisy = False

    def __init__(self, factory: Any, mortal: MortalReactor, life: Life) -> None:
        super().__init__(factory)
        self.reactor, self.life = mortal, life

    def registerProtocol(self, p: Any) -> None:
        """They are known by the reactor."""

    def unregisterProtocol(self, p: Any) -> None:
        """As above."""

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.life.run(super().clientConnectionFailed, connector, reason)

    def buildProtocol(self, addr: Any) -> Any:
        return self.life.run(super().buildProtocol, addr)


class _MortalWorkers:
    """Threads that work for a daemon as long as it lives."""

    def __init__(self, workers: Workers, life: Life) -> None:
        self._workers = workers
        self._life = life

    def start(self) -> None:
        """They have been started."""

    def stop(self) -> None:
        """Whoever started them stops them."""

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if self._life.is_dead:
            return self._life.never()
        result: Deferred[T] = Deferred()
        self._life.waiting += 1
        with outside():
            mortal: Callable[[], T] = partial(self._life.work, work, *args, **kwargs)
            working = self._workers.run(mortal)
        working.addBoth(self._done, result)
        return result

    def _done(self, value: object, result: Deferred[Any]) -> None:
        self._life.waiting -= 1
        self._life.run(result.callback, value)


class _MortalDatabase(_MortalWorkers):
    """What is done with the state database, in the reactor's thread: a point before and after."""

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        name = f"database {getattr(work, '__name__', work)}"
        if not self._life.passes("database", name):
            return self._life.never()
        with outside():
            result = execute(work, *args, **kwargs)
        if not self._life.passes("database", f"{name} done"):
            result.addErrback(lambda _: None)
            return self._life.never()
        return result


class MortalPools:
    """A daemon's threads, which all are of one pool."""

    def __init__(self, workers: Workers, life: Life) -> None:
        self._shared = cast("Workers", _MortalWorkers(workers, life))
        self.disk = self.long = self.extractors = self.packers = self.engine = self._shared
        self.restorers = self.uploads = self.rereaders = self._shared
        self.figures = self.filesystems = self.files = self.searches = self._shared
        self.reads = self.changes = self.renames = self.archivers = self.backups = self._shared
        self.downloads = self.followers = self.lookups = self.listings = self._shared
        self.rewriters = Rewriters(self._shared, self._shared)
        self.database = _MortalDatabase(workers, life)

    def start(self) -> None:
        """They have been started."""

    def stop(self) -> None:
        """Whoever started them stops them."""


class _MortalWatcher:
    """What a daemon hears of a program."""

    def __init__(self, watcher: Watcher, life: Life) -> None:
        self._watcher = watcher
        self._life = life

    def output(self, data: bytes) -> None:
        self._life.run(self._watcher.output, data)

    def usage(self, usage: ContainerUsage) -> None:
        self._life.run(self._watcher.usage, usage)

    def ended(self, status: int | None, *, out_of_memory: bool) -> None:
        self._life.run(self._watcher.ended, status, out_of_memory=out_of_memory)


class MortalEnvironment:
    """A daemon's way to an engine: each request is a point before it and after it."""

    def __init__(self, environment: FakeContainers, life: Life) -> None:
        self._environment = environment
        self._life = life

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._environment, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._reached(name, method, *args, **kwargs)

        return call

    async def start(self, uuid: str, watcher: Watcher) -> Any:
        method = self._environment.start
        heard = _MortalWatcher(watcher, self._life)
        return _MortalProcess(await self._reached("start", method, uuid, heard), self)

    async def adopt(self, uuid: str, watcher: Watcher) -> Any:
        heard = _MortalWatcher(watcher, self._life)
        found = await self._reached("adopt", self._environment.adopt, uuid, heard)
        return None if found is None else _MortalProcess(found, self)

    async def _reached(self, name: str, method: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._life.passes("engine", f"engine {name}"):
            await self._life.never()
        with outside():
            found = await method(*args, **kwargs)
        if not self._life.passes("engine", f"engine {name} done"):
            await self._life.never()
        return found


class _MortalProcess:
    """A daemon's way to a program that runs."""

    def __init__(self, process: FakeProcess, environment: MortalEnvironment) -> None:
        self._process = process
        self._reached = environment._reached
        self._life = environment._life

    async def command(self, line: str) -> None:
        await self._reached("command", self._process.command, line)

    async def signal(self, name: str) -> None:
        await self._reached("signal", self._process.signal, name)

    async def stop(self) -> None:
        await self._reached("stop", self._process.stop)

    async def kill(self) -> None:
        await self._reached("kill", self._process.kill)

    def detach(self) -> None:
        self._life.run(self._process.detach)
