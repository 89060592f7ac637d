"""Threads for blocking functions, and what they return as Deferreds."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

__all__ = ["Thread", "Workers", "relayed"]

#: Where a thread writes its name for `top -H` and `ps -L`; the kernel keeps 15 bytes of it.
_COMM = Path("/proc/thread-self/comm")


class Thread(threading.Thread):
    """A daemon thread; the kernel knows it by its name and lets it run at the nice value `nice`.

    The threads that it starts inherit the nice value. It is never lowered, which an unprivileged
    process may not do: where the daemon has a higher one already, that stays.
    """

    def __init__(self, target: Callable[[], object], name: str, *, nice: int = 0) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._nice = nice

    def run(self) -> None:
        """Do what the thread is for."""
        # Neither is worth a failure where there is no /proc, or a sandbox forbids the call.
        with suppress(OSError):
            _show(self.name)
        with suppress(OSError):
            _yield_as(self._nice)
        super().run()


def _show(name: str) -> None:
    if sys.version_info < (3, 14):  # which does it by itself
        _COMM.write_text(name)


def _yield_as(nice: int) -> None:
    # On Linux each thread has a nice value of its own, setpriority(2).
    thread = threading.get_native_id()
    if nice > os.getpriority(os.PRIO_PROCESS, thread):
        os.setpriority(os.PRIO_PROCESS, thread, nice)


P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads for one kind of blocking work, all of them at the nice value `nice`.

    A thread stays in its pool, and so never does another's work as slowly. `when_idle` is called
    on the reactor when no work is left.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        name: str,
        threads: int,
        *,
        nice: int = 0,
        when_idle: Callable[[], object] | None = None,
    ) -> None:
        self._reactor = reactor
        self._when_idle = when_idle
        self._unfinished = 0
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
        self._unfinished += 1
        result = deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)
        return result.addBoth(self._finished)

    def _finished(self, result: T) -> T:
        self._unfinished -= 1
        if self._unfinished == 0 and self._when_idle is not None:
            self._when_idle()
        return result


def relayed(reactor: IReactorFromThreads, function: Callable[P, object]) -> Callable[P, None]:
    """Return what calls `function` on the reactor, from whichever thread it is called."""

    def relay(*args: P.args, **kwargs: P.kwargs) -> None:
        reactor.callFromThread(function, *args, **kwargs)

    return relay
