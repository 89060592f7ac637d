"""Calls to the engine from the reactor: each in a thread, and those about one server in order.

A call that runs in a thread cannot be interrupted, though its caller may be cancelled. So the next
call in order waits until the thread has ended, and sees the result.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, Concatenate, ParamSpec, TypeVar

from docker.errors import APIError
from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore

from wingsd.docker import engine
from wingsd.errors import EnvironmentFailed
from wingsd.threadio import Workers
from wingsd.util.observer import ENGINE, Observer

P = ParamSpec("P")
T = TypeVar("T")

#: Lines that are written to consoles at a time: fewer than there are threads, since a server that
#: does not read blocks one for seconds.
CONSOLE_WRITERS = 4


class EngineSession:
    """A sequence of calls to the engine, one after the other, over a client of its own.

    Clients are not shared: a pull may keep one busy for long, a requests session must not be used
    by several threads, and a restarted or upgraded engine needs a new one. The cost is one small
    request.
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
            # Timed in the thread: waiting for a free one is not the engine's time.
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

    async def call(
        self,
        work: Callable[Concatenate[engine.DockerClient, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return what `work` returns from a thread, its failures as `EnvironmentFailed`."""
        try:
            return await self.run(work, *args, **kwargs)
        except APIError as error:
            raise EnvironmentFailed(
                f"Docker refuses: {engine.explain(error)}", is_final=engine.is_final(error)
            ) from error
        except engine.FAILURES as error:
            raise EnvironmentFailed(
                f"the Docker engine at {self._address} does not answer: {engine.explain(error)}; "
                "start it, or correct docker.socket in the configuration",
                is_silent=True,
            ) from error

    def close(self, then: Callable[[], None]) -> None:
        """Close the client, then call `then`, as soon as no thread uses it."""

        def closed(_: object) -> None:
            if self._client is not None:
                self._client.close()
            then()

        if self._working is None:
            closed(None)
        else:
            self._working.addBoth(closed)


class AsyncEngine:
    """The Docker engine at `address`, called in the threads of `workers`.

    `observer` gets the duration of each call, by the name of the function.
    """

    def __init__(self, workers: Workers, address: str, observer: Observer | None = None) -> None:
        self.address = address
        self._workers = workers
        self._observer = observer or Observer()
        self._locks: dict[str, DeferredLock] = {}
        self.console_writers = DeferredSemaphore(CONSOLE_WRITERS)

    @asynccontextmanager
    async def session(
        self, then: Callable[[], None] = lambda: None
    ) -> AsyncIterator[EngineSession]:
        """Open a session beside any others; call `then` when it is closed."""
        session = EngineSession(self._workers, self.address, self._observer)
        try:
            yield session
        finally:
            session.close(then)

    @asynccontextmanager
    async def exclusive_session(self, name: str) -> AsyncIterator[EngineSession]:
        """Open a session when all earlier ones under that name are closed."""
        lock = self._locks.setdefault(name, DeferredLock())
        await lock.acquire()
        async with self.session(partial(self._release, name, lock)) as session:
            yield session

    def _release(self, name: str, lock: DeferredLock) -> None:
        lock.release()
        if not lock.locked and self._locks.get(name) is lock:
            del self._locks[name]
