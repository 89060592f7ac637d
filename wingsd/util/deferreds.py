"""Waiting for a Deferred that others wait for as well, and logging its failure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")


def when_fired(deferred: Deferred[T]) -> Deferred[None]:
    """Return a Deferred of its own that fires after `deferred` does.

    That one keeps its result, or its failure, which is still to be handled: by a callback and not
    by `await`, since who waits here goes on before it is set.
    """
    fired: Deferred[None] = Deferred()

    def fire(result: T) -> T:
        fired.callback(None)
        return result

    deferred.addBoth(fire)
    return fired


async def fires_within(waiting: Deferred[Any], seconds: float, reactor: IReactorTime) -> bool:
    """Return whether it fires so soon; it continues in any case, and keeps its result."""
    with suppress(DeferredTimeout):
        await when_fired(waiting).addTimeout(seconds, reactor)
    return waiting.called


def failure_logger(log: Logger, text: str, **values: Any) -> Callable[[Failure], None]:
    """Return an errback that logs a failure, unless it is that of a cancel."""

    def failed(failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure(text, failure, **values)

    return failed


class Changes:
    """The changes of a state, each of which is waited for by any number of requests."""

    def __init__(self) -> None:
        self._waiting: set[Deferred[None]] = set()

    def next(self) -> Deferred[None]:
        """Return what fires with the next change, unless it is cancelled."""
        waiting: Deferred[None] = Deferred(self._waiting.discard)
        self._waiting.add(waiting)
        return waiting

    def changed(self) -> None:
        """Note that the state has changed."""
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            each.callback(None)


@asynccontextmanager
async def beside(work: Coroutine[Deferred[Any], Any, T]) -> AsyncIterator[Deferred[T]]:
    """Do some work at the same time as what follows; yield its result, to be waited for.

    Where what follows fails, it is cancelled, and its own failure dropped.
    """
    doing = Deferred.fromCoroutine(work)
    try:
        yield doing
    except BaseException:
        doing.addErrback(lambda _: None)
        doing.cancel()
        raise
