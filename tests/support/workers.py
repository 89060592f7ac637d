"""Pools for tests: without threads, with work that is held, and one that can be cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import attrs
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

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Do `work` in the other pool; return its result."""
        if self._is_cut_off:
            return Deferred()
        result: Deferred[T] = Deferred()
        working = self._workers.run(work, *args, **kwargs)
        working.addBoth(lambda value: None if self._is_cut_off else result.callback(value))
        return result


@attrs.define(eq=False)
class HeldWork:
    """Work that a pool was given: `do` does it, or a test gives its `result`."""

    args: tuple[Any, ...]
    do: Callable[[], object]
    result: Deferred[Any]


class HeldWorkers(SynchronousWorkers):
    """A pool whose work is done when the test says so."""

    def __init__(self) -> None:
        self.held: list[HeldWork] = []

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        result: Deferred[T] = Deferred()

        def do() -> None:
            execute(work, *args, **kwargs).chainDeferred(result)

        self.held.append(HeldWork(args, do, result))
        return result
