"""A daemon in this process that dies at any of its points, and its reactor, threads and engine.

A daemon's calls of the operating system, of its database, its engine and its connections are
points. At one of them it dies as by SIGKILL: that call is not made, and none after it is. Calls
are a daemon's by the context that `Life.run` sets; what it has begun in threads is, too. What a
dead daemon has begun comes to nothing: its timers, its threads' results and its requests to the
engine, and what it still writes to connections.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

import attrs
from twisted.internet._resolver import SimpleResolverComplexifier
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.interfaces import IResolverSimple
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from tests.crash.clock import JumpingClock
from tests.support.environment import FakeProcess
from tests.support.reactor import reactor
from wingsd.egg_files.rewriters import Rewriters
from wingsd.filesystem import syscalls
from wingsd.threadio import Workers

P = ParamSpec("P")
T = TypeVar("T")

#: Calls that change files.
CHANGES = (
    *("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link", "symlink"),
    *("truncate", "ftruncate", "write", "writev", "pwrite", "pwritev", "fsync", "fdatasync"),
    *("chmod", "fchmod", "chown", "fchown", "lchown", "utime", "posix_fallocate"),
    *("copy_file_range", "sendfile", "setxattr"),
)
#: Calls that read them: files are changed between these.
READS = ("open", "read", "pread", "readv", "preadv", "fstat", "stat", "lstat", "scandir")
#: Calls that Python has no function for.
SYSTEM_CALLS = {"renameat2": "change", "syncfs": "change", "openat2": "read"}
#: The kinds of points.
POINTS = ("change", "read", "database", "engine", "received", "sent", "thread")
#: How many points are remembered.
SHOWN = 12


class Died(BaseException):
    """The daemon that makes this call has died. Nothing may catch it."""


@attrs.frozen
class Death:
    """A daemon dies at the point of a `kind` with that number."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


_life: ContextVar[Life | None] = ContextVar("life", default=None)


def current_life() -> Life | None:
    """Return the life of the daemon that makes this call, if it is one's."""
    return _life.get()


@contextmanager
def _within(life: Life | None) -> Iterator[None]:
    before = _life.set(life)
    try:
        yield
    finally:
        _life.reset(before)


def outside() -> Any:
    """Return a context in which calls are no daemon's."""
    return _within(None)


class Life:
    """A daemon from its start to its death. `each` is called at each of its points.

    `died` is called when it dies, in any thread. `last` are the last points.
    """

    def __init__(
        self, name: str, died: Callable[[], object], each: Callable[[], object] = lambda: None
    ) -> None:
        self.name = name
        self.is_dead = False
        self.death: Death | None = None
        self.counts: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=SHOWN)
        #: How much it has given to threads that is not done.
        self.waiting = 0
        #: How often it was called.
        self.calls = 0
        self._died = died
        self._each = each
        #: The work that a dead daemon has begun, which must not be collected: what a coroutine
        #: does then would be another daemon's, by the context in which that happens.
        self._unfinished: list[object] = []
        self._lock = threading.Lock()

    def plan(self, death: Death | None) -> None:
        """Let it die at a point, counted from now on."""
        with self._lock:
            self.counts.clear()
            self.death = death

    def point(self, kind: str, what: str) -> None:
        """Come to a point. Raises `Died` where it dies there, or has died."""
        if not self.passes(kind, what):
            raise Died

    def passes(self, kind: str, what: str) -> bool:
        """Return whether it lives on at a point."""
        if self.is_dead:
            return False
        self.calls += 1
        self._each()
        with self._lock:
            if self.is_dead:
                return False
            self.counts[kind] += 1
            self.last.append(what)
            death = self.death
            if death is None or death.kind != kind or self.counts[kind] < death.number:
                return True
            self.is_dead = True
        self._died()
        return False

    def die(self) -> None:
        """Die now, at whatever point it is."""
        with self._lock:
            if self.is_dead:
                return
            self.is_dead = True
        self._died()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call a function of the daemon, unless it has died."""
        self.calls += 1
        if self.is_dead:
            self._unfinished.append((function, args, kwargs))
            return None
        return self.mourn(function, *args, **kwargs)

    def mourn(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call a function of the daemon, also when it has died: then it has no effect."""
        with _within(self):
            try:
                return function(*args, **kwargs)
            except Died:
                return None

    def never(self) -> Deferred[Any]:
        """Return a Deferred that a dead daemon waits for."""
        result: Deferred[Any] = Deferred()
        self._unfinished.append(result)
        return result

    def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the daemon in a thread. Raises `Died`."""
        name = getattr(function, "__qualname__", type(function).__name__)
        with _within(self):
            self.point("thread", f"begin {name}")
            result = function(*args, **kwargs)
            self.point("thread", f"end {name}")
            return result


@contextmanager
def points_of_the_system() -> Iterator[None]:
    """Make the calls of the operating system points, within the `with` statement."""
    places: list[tuple[Any, str, str]] = [(os, name, "change") for name in CHANGES]
    places += [(os, name, "read") for name in READS]
    # Modules have imported some functions by their names.
    places += [
        (module, name, kind)
        for key, module in [*sys.modules.items()]
        if key.startswith("wingsd.")
        for name, kind in SYSTEM_CALLS.items()
        if hasattr(module, name)
    ]
    assert any(place is syscalls for place, _, _ in places)
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    try:
        for place, name, kind in places:
            setattr(place, name, _counted(getattr(place, name), kind, name))
        yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)


def _counted(function: Callable[..., Any], kind: str, name: str) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        life = _life.get()
        if life is not None:
            life.point(kind, name)
        return function(*args, **kwargs)

    return counted


class MortalReactor:
    """The reactor, as a daemon sees it: its time is that of `clock`, and ends with its `life`."""

    def __init__(self, life: Life, clock: JumpingClock) -> None:
        self._life = life
        self._clock = clock
        self.ports: list[Any] = []
        self.connections: set[_Connection] = set()
        self.nameResolver = SimpleResolverComplexifier(_Resolver())
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def seconds(self) -> float:
        return self._clock.seconds()

    def callLater(
        self, delay: float, function: Callable[..., object], *args: Any, **kw: Any
    ) -> Any:
        return _Call(
            self._clock.callLater(delay, self._life.run, function, *args, **kw), self._life
        )

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
        """Close the connections that the daemon has open."""
        for connection in [*self.connections]:
            transport: Any = connection.transport
            transport.abortConnection()

    @property
    def is_quiet(self) -> bool:
        """True if nothing of the daemon is under way any more."""
        return not self.connections and not self._life.waiting


@implementer(IResolverSimple)
class _Resolver:
    """Resolves addresses, at once: threads that are no daemon's are not waited for."""

    def getHostByName(self, name: str, timeout: Sequence[int] = ()) -> Deferred[str]:
        return succeed(name)


class _Call:
    """A call at a time of the daemon's."""

    def __init__(self, call: Any, life: Life) -> None:
        self._call = call
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def cancel(self) -> None:
        if self._call.active() or not self._life.is_dead:  # a dead one does not know of it
            self._call.cancel()


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
        # Also of a dead one, so that its threads do not wait for ever.
        self.factory.life.mourn(super().connectionLost, reason)


class _Factory(WrappingFactory):
    protocol = _Connection
    noisy = False

    def __init__(self, factory: Any, mortal: MortalReactor, life: Life) -> None:
        super().__init__(factory)
        self.reactor, self.life = mortal, life

    def registerProtocol(self, p: Any) -> None:
        """They are known by the reactor."""

    unregisterProtocol = registerProtocol

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.life.run(super().clientConnectionFailed, connector, reason)

    def buildProtocol(self, addr: Any) -> Any:
        return self.life.run(super().buildProtocol, addr)


class _MortalWorkers:
    """Threads that work for a daemon as long as it lives; others start and stop them."""

    def __init__(self, workers: Workers, life: Life) -> None:
        self._workers = workers
        self._life = life

    def start(self) -> None:
        """They have been started."""

    stop = start

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
    """Work with the state database, in the reactor's thread: a point before and after."""

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
        self.rewriters = Rewriters(self._shared, self._shared)
        self.database = _MortalDatabase(workers, life)

    def __getattr__(self, name: str) -> Workers:
        return self._shared

    def start(self) -> None:
        """They have been started."""

    stop = start


class _Heard:
    """A watcher of a program, for as long as its daemon lives."""

    def __init__(self, watcher: Any, life: Life) -> None:
        self._watcher = watcher
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return partial(self._life.run, getattr(self._watcher, name))


class MortalEngine:
    """A daemon's way to an engine, or to a program: requests are points before and after them."""

    def __init__(self, engine: Any, life: Life) -> None:
        self._engine = engine
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found, life = getattr(self._engine, name), self._life
        if name == "detach":
            return partial(life.run, found)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name in ("start", "adopt"):
                uuid, watcher = args
                args = uuid, _Heard(watcher, life)
            if not life.passes("engine", f"engine {name}"):
                await life.never()
            with outside():
                result = await found(*args, **kwargs)
            if not life.passes("engine", f"engine {name} done"):
                await life.never()
            return MortalEngine(result, life) if isinstance(result, FakeProcess) else result

        return call if callable(found) else found
