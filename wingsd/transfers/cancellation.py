"""Cancelling a transfer wherever it waits, and the slots that transfers wait for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.task import deferLater

from wingsd.errors import DaemonStopping, WingsdError

__all__ = ["CancelScope", "fires_within", "slots_held", "when_fired"]

T = TypeVar("T")


class CancelScope:
    """What a chain waits by, so that `interrupt` ends it there, or at its next wait."""

    def __init__(self) -> None:
        self.reason: WingsdError | None = None
        #: Whether it waits for its turn, while others are at work.
        self.is_waiting = False
        self._waiting: Deferred[Any] | None = None

    def interrupt(self, reason: WingsdError) -> None:
        """Have `wait` and `check` raise `reason` from now on."""
        self.reason = reason
        if self._waiting is not None:
            self._waiting.cancel()

    def check(self) -> None:
        """Raise the reason, if there is one."""
        if self.reason is not None:
            raise self.reason

    async def wait(self, waiting: Deferred[T]) -> T:
        """Wait, but no longer than until the interruption; what is waited for is cancelled."""
        self._waiting = waiting
        if self.reason is not None:
            waiting.cancel()
        try:
            return await waiting
        except CancelledError:
            raise self.reason or DaemonStopping() from None
        finally:
            self._waiting = None


def when_fired(deferred: Deferred[T]) -> Deferred[None]:
    """Return a Deferred of its own that fires after `deferred` does, which keeps its result."""
    fired: Deferred[None] = Deferred()

    def tell(result: T) -> T:
        fired.callback(None)
        return result

    deferred.addCallback(tell)
    return fired


async def fires_within(waiting: Deferred[Any], seconds: float, reactor: Any) -> bool:
    """Return whether it fires so soon; it goes on in any case, and keeps its result."""
    limit: Deferred[None] = deferLater(reactor, seconds)
    fired = when_fired(waiting)
    await DeferredList([fired, limit], fireOnOneCallback=True, consumeErrors=True)
    limit.addErrback(lambda _: None)
    limit.cancel()
    return waiting.called


@asynccontextmanager
async def slots_held(
    slots: DeferredSemaphore, count: int, chain: CancelScope
) -> AsyncIterator[int]:
    """Hold `count` of the slots, or all there are; yield how many.

    They are asked for at once, and given in turn: of two transfers that need several never does
    each hold what the other waits for. Raises the reason when `chain` is interrupted meanwhile.
    """
    wanted = min(count, slots.limit)
    asked = [slots.acquire() for _ in range(wanted)]
    chain.is_waiting = True
    try:
        await chain.wait(DeferredList(asked, consumeErrors=True))
        chain.check()
        chain.is_waiting = False
        yield wanted
    finally:
        chain.is_waiting = False
        for each in asked:
            each.addCallback(_give_back)


def _give_back(slots: DeferredSemaphore | None) -> None:
    if slots is not None:  # It was cancelled before its turn.
        slots.release()
