"""Calls to the engine from the reactor: each in a thread, and those about one server in order.

A call that has begun cannot be taken back, though whoever waits for it may be cancelled. So the
next one in turn waits until it has really ended, and finds what it left behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Concatenate, ParamSpec, TypeVar

from docker.errors import APIError
from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore

from wingsd.docker import engine
from wingsd.errors import EnvironmentFailed
from wingsd.threadio import Workers
from wingsd.util.observer import ENGINE, Observer

__all__ = ["Engine", "Talk"]

P = ParamSpec("P")
T = TypeVar("T")

#: Lines typed at a time, in all consoles: less than there are threads, since a server that does
#: not read holds one for seconds.
TYPISTS = 4


class Talk:
    """One conversation with the engine: one call after another, over a client of its own.

    A pull may keep a client busy for long while other servers come and go, a requests session is
    not made for several threads, and an engine that was restarted or upgraded is met afresh. The
    price is one small request.
    """

    def __init__(self, workers: Workers, address: str, observer: Observer) -> None:
        self._workers = workers
        self._address = address
        self._observer = observer
        self._client: engine.DockerClient | None = None
        self._working: Deferred[Any] | None = None

    def run(
        self,
        work: Callable[Concatenate[engine.DockerClient, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Deferred[T]:
        """Return what `work` returns from a thread, given the client; or one of its `FAILURES`.

        Cancelling it leaves the thread to its work.
        """
        name = getattr(work, "__name__", "other")

        def with_client() -> T:
            # In the thread: what it has to wait for one is not the engine's.
            with self._observer.timing(ENGINE, name, monotonic):
                if self._client is None:
                    self._client = engine.DockerClient(self._address)
                return work(self._client, *args, **kwargs)

        def finished(outcome: Any) -> Any:
            self._working = None
            return outcome

        self._working = working = self._workers.run(with_client)
        result: Deferred[T] = Deferred()
        working.addBoth(finished).chainDeferred(result)
        return result

    async def ask(
        self,
        work: Callable[Concatenate[engine.DockerClient, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return what `work` returns from a thread, its failures as `EnvironmentFailed`."""
        try:
            return await self.run(work, *args, **kwargs)
        except APIError as error:
            raise EnvironmentFailed(f"Docker refuses: {engine.explain(error)}") from error
        except engine.FAILURES as error:
            raise EnvironmentFailed(
                f"the Docker engine at {self._address} does not answer: {engine.explain(error)}; "
                "start it, or correct docker.socket in the configuration"
            ) from error

    def end(self, then: Callable[[], None]) -> None:
        """Hang up, and call `then`, as soon as no thread works for it any more."""

        def close(_: object) -> None:
            if self._client is not None:
                self._client.close()
            then()

        if self._working is None:
            close(None)
        else:
            self._working.addBoth(close)


class Engine:
    """The Docker engine at `address`, spoken to in the threads of `workers`.

    `observer` is told how long each call takes.
    """

    def __init__(self, workers: Workers, address: str, observer: Observer | None = None) -> None:
        self.address = address
        self._workers = workers
        self._observer = observer or Observer()
        self._turns: dict[str, DeferredLock] = {}
        self.typing = DeferredSemaphore(TYPISTS)

    @asynccontextmanager
    async def talk(self) -> AsyncIterator[Talk]:
        """Talk to the engine, whoever else does."""
        talk = Talk(self._workers, self.address, self._observer)
        try:
            yield talk
        finally:
            talk.end(lambda: None)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[Talk]:
        """Talk to the engine when everybody who came before under that name has finished."""
        lock = self._turns.setdefault(name, DeferredLock())
        await lock.acquire()
        talk = Talk(self._workers, self.address, self._observer)
        try:
            yield talk
        finally:
            talk.end(lambda: self._release(name, lock))

    def _release(self, name: str, lock: DeferredLock) -> None:
        lock.release()
        if not lock.locked and self._turns.get(name) is lock:
            del self._turns[name]
