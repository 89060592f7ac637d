"""Pools for tests: one without threads, and a node's share of one, which can be cut off."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar, cast

from twisted.internet.defer import Deferred, execute

from wingsd.threadio import Workers

P = ParamSpec("P")
T = TypeVar("T")


class SynchronousWorkers:
    """What `wingsd.threadio.Workers` offers, done in the caller's thread."""

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return execute(work, *args, **kwargs)


class CutOffWorkers:
    """Another pool's threads, until `cut_off`: then no result comes back, as after a kill."""

    def __init__(self, workers: Workers | SynchronousWorkers) -> None:
        self._workers = workers
        self._is_cut_off = False

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def cut_off(self) -> None:
        """Do no more work, and give no more results."""
        self._is_cut_off = True

    def send(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do `work` in the other pool, for a thread."""
        if self._is_cut_off:
            raise RuntimeError("cut off")
        return cast("Workers", self._workers).send(work, *args, **kwargs)

    def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in the other pool, for a thread that waits for the result."""
        return self.send(work, *args, **kwargs).result()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Do `work` in the other pool; return its result."""
        if self._is_cut_off:
            return Deferred()
        result: Deferred[T] = Deferred()
        working = self._workers.run(work, *args, **kwargs)
        working.addBoth(lambda value: None if self._is_cut_off else result.callback(value))
        return result


class CopierWorkers(CutOffWorkers):
    """The one thread of a partial copy; it may be stopped twice."""

    _is_stopped = False

    def start(self) -> None:
        self._workers.start()

    def stop(self) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            self._workers.stop()
