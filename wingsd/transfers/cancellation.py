"""Cancelling a transfer wherever it waits, and the slots that transfers wait for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore

from wingsd.errors import DaemonStopping, WingsdError

__all__ = ["CancelScope", "slots_held"]

T = TypeVar("T")


class CancelScope:
    """Cancels a coroutine where it waits, or at its next wait; see `trio.CancelScope`."""

    def __init__(self) -> None:
        self.reason: WingsdError | None = None
        #: Whether it waits for a slot.
        self.is_waiting = False
        self._waiting: Deferred[Any] | None = None

    def cancel(self, reason: WingsdError) -> None:
        """Have `wait` and `check` raise `reason` from now on."""
        self.reason = reason
        if self._waiting is not None:
            self._waiting.cancel()

    def check(self) -> None:
        """Raise the reason, if there is one."""
        if self.reason is not None:
            raise self.reason

    async def wait(self, waiting: Deferred[T]) -> T:
        """Wait, but no longer than until `cancel`, which also cancels what is waited for."""
        self._waiting = waiting
        if self.reason is not None:
            waiting.cancel()
        try:
            return await waiting
        except CancelledError:
            raise self.reason or DaemonStopping() from None
        finally:
            self._waiting = None


@asynccontextmanager
async def slots_held(
    slots: DeferredSemaphore, count: int, scope: CancelScope
) -> AsyncIterator[int]:
    """Hold `count` of the slots, or all there are; yield how many.

    They are asked for at once, and given in turn, so that two transfers that need several cannot
    each hold what the other waits for. Raises the reason when `scope` is cancelled meanwhile.
    """
    wanted = min(count, slots.limit)
    asked = [slots.acquire() for _ in range(wanted)]
    scope.is_waiting = True
    try:
        await scope.wait(DeferredList(asked, consumeErrors=True))
        scope.check()
        scope.is_waiting = False
        yield wanted
    finally:
        scope.is_waiting = False
        for each in asked:
            each.addCallback(_release)


def _release(slots: DeferredSemaphore | None) -> None:
    if slots is not None:  # It was cancelled before its turn.
        slots.release()
