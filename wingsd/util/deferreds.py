"""Waiting for a Deferred that others wait for as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

__all__ = ["beside", "fires_within", "when_fired"]

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
    limit: Deferred[None] = deferLater(reactor, seconds)
    fired = when_fired(waiting)
    done = await DeferredList([fired, limit], fireOnOneCallback=True, consumeErrors=True)
    limit.addErrback(lambda _: None)
    limit.cancel()
    if isinstance(done, list):  # both were cancelled with this
        raise CancelledError
    return waiting.called


@asynccontextmanager
async def beside(work: Coroutine[Deferred[Any], Any, T]) -> AsyncIterator[Deferred[T]]:
    """Have some work done at the same time as what follows; yield its result, to be waited for.

    Where what follows fails, it is cancelled, and its own failure dropped.
    """
    doing = Deferred.fromCoroutine(work)
    try:
        yield doing
    except BaseException:
        doing.addErrback(lambda _: None)
        doing.cancel()
        raise
