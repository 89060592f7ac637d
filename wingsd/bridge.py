"""The one place where the reactor and threads meet.

`Workers` runs blocking functions in threads and gives their results back as Deferreds. `Feed`
carries a stream of bytes from the reactor into a thread, never holding more than it should.
Nothing else in wingsd starts a reactor-side thread or calls into the reactor from one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

__all__ = ["Workers"]

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads for one kind of blocking work."""

    def __init__(self, reactor: Any, name: str, threads: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, threads, name)

    def start(self) -> None:
        """Accept work."""
        self._pool.start()

    def stop(self) -> None:
        """Wait for the work under way and end the threads."""
        self._pool.stop()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Return what `work` returns or raises, from a thread of this pool."""
        return deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)
