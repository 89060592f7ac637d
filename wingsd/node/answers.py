"""Answers that simultaneous requests share, so that each question is asked once at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from wingsd.threadio import Workers
from wingsd.util.deferreds import fires_within

T = TypeVar("T")


@attrs.define(eq=False, repr=False, slots=False)
class SharedAnswer(Generic[T]):
    """The answer or error of `ask`, shared by all calls while it runs.

    An answer, not an error, also serves those who ask within `keep` seconds.
    """

    _ask: Callable[[], Awaitable[T]]
    _reactor: IReactorTime
    _keep: float = attrs.field(default=0.0, kw_only=True)
    _waiting: list[Deferred[T]] | None = attrs.field(default=None, init=False)
    _kept: tuple[float, T] | None = attrs.field(default=None, init=False)

    def get(self) -> Deferred[T]:
        """Return the answer. Cancelling it leaves the question to the others."""
        result: Deferred[T] = Deferred()
        if self._kept is not None and self._reactor.seconds() - self._kept[0] < self._keep:
            result.callback(self._kept[1])
        elif self._waiting is not None:
            self._waiting.append(result)
        else:
            self._waiting = [result]
            Deferred.fromCoroutine(self._asked()).addBoth(self._answered)
        return result

    async def _asked(self) -> T:
        return await self._ask()

    def _answered(self, outcome: T | Failure) -> None:
        waiting, self._waiting = self._waiting or [], None
        if not isinstance(outcome, Failure):
            self._kept = (self._reactor.seconds(), outcome)
        for result in waiting:
            if result.called:
                continue
            if isinstance(outcome, Failure):
                result.errback(outcome)
            else:
                result.callback(outcome)


class LatestAnswer(Generic[T]):
    """The last result of a blocking function, which may hang now.

    It is called by one thread at a time: as long as one hangs, it is not called again.
    """

    def __init__(self, ask: Callable[[], T], workers: Workers, reactor: IReactorTime) -> None:
        self._ask = ask
        self._workers = workers
        self._reactor = reactor
        self._asking: Deferred[None] | None = None
        self.value: T | None = None

    async def get(self, patience: float) -> bool:
        """Call the function again; return whether `value` is fresh, `patience` seconds later.

        `value` is None when the function has never returned, or raised `OSError` the last time.
        """
        if self._asking is None:
            asking = self._workers.run(self._ask).addCallbacks(self._returned, self._failed)
            if asking.called:
                return True
            self._asking = asking
        return await fires_within(self._asking, patience, self._reactor)

    def _returned(self, value: T) -> None:
        self._asking = None
        self.value = value

    def _failed(self, failure: Failure) -> None:
        self._asking = None
        self.value = None
        failure.trap(OSError)
