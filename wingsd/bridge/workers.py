"""Blocking functions in threads, and what they return as Deferreds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from wingsd.threads import Thread

__all__ = ["Workers", "relayed"]

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads for one kind of blocking work, all of them at the nice value `nice`.

    A thread stays in its pool, and so never does another's work as slowly.
    """

    def __init__(self, reactor: Any, name: str, threads: int, *, nice: int = 0) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, threads, name)

        def thread(*, target: Callable[[], object], name: str) -> Thread:
            # A thread that hangs (an engine or a disk that does not answer) must not keep the
            # process from ending: a daemon thread does not. Twisted's own name for it is longer
            # than what the kernel keeps.
            return Thread(target, f"wingsd-{self._pool.name}", nice=nice)

        self._pool.threadFactory = thread  # type: ignore[assignment]

    def start(self) -> None:
        """Accept work."""
        self._pool.start()

    def stop(self) -> None:
        """End the threads, without waiting for one that still works."""
        if not self._pool.working:
            self._pool.stop()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Return what `work` returns or raises, from a thread of this pool."""
        return deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)


def relayed(reactor: Any, function: Callable[P, object]) -> Callable[P, None]:
    """Return what calls `function` on the reactor, from whichever thread it is called."""

    def relay(*args: P.args, **kwargs: P.kwargs) -> None:
        reactor.callFromThread(function, *args, **kwargs)

    return relay
