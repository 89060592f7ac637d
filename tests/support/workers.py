"""A pool without threads, for tests that want every step to happen at once and in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred, execute

__all__ = ["SynchronousWorkers"]

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
