"""Ending a chain of steps from outside, wherever it waits."""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater

from wingsd.errors import DaemonStopping, WingsdError

__all__ = ["Interruptible", "fires_within", "when_fired"]

T = TypeVar("T")


class Interruptible:
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
