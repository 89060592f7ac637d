"""Blocking functions in threads, and what they return as Deferreds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

__all__ = ["Workers", "relayed"]

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads for one kind of blocking work."""

    def __init__(self, reactor: Any, name: str, threads: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, threads, name)
        # A thread that hangs (an engine or a disk that does not answer) must not keep the
        # process from ending.
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]

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
