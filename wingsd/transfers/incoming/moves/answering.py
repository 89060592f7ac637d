"""Work that takes longer than proxies wait for an answer: it goes on, and is asked for again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from wingsd.transfers.incoming.moves.errors import MoveBusy
from wingsd.util.deferreds import fires_within, when_fired

__all__ = ["ANSWERED_WITHIN", "KeptWork", "bounded"]

T = TypeVar("T")

ANSWERED_WITHIN = 20.0
"""Seconds after which a request is answered that is still being worked for."""


async def bounded(work: Deferred[T], clock: IReactorTime) -> T:
    """Return what some work results in; raise `MoveBusy` where that takes too long: it goes on."""
    return (await _fired(_kept(work), clock))()


class KeptWork(Generic[T]):
    """One piece of work at a time, which several requests ask for one after the other."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._asked: object = None
        self._work: Deferred[Callable[[], T]] | None = None

    async def result(
        self, asked: object, begin: Callable[[], Coroutine[Deferred[Any], Any, T]]
    ) -> T:
        """Return what the work results in that was `asked` for; begin it if need be.

        Raises what it raises, and `MoveBusy` as `bounded`. The result is kept until `taken`.
        """
        work = self._work
        if work is None or self._asked != asked:
            self._asked = asked
            self._work = work = _kept(Deferred.fromCoroutine(begin()))
        result = await _fired(work, self._clock)
        try:
            return result()
        except Exception:
            self.taken()
            raise

    def taken(self) -> None:
        """Forget the result: the work is done anew when it is asked for."""
        self._work = self._asked = None

    async def ended(self) -> None:
        """Return when nothing is under way."""
        if self._work is not None:
            await when_fired(self._work)


def _kept(work: Deferred[T]) -> Deferred[Callable[[], T]]:
    """Have some work fire with a function that returns its result, or raises its error."""
    kept: Deferred[Any] = work
    kept.addCallbacks(lambda result: lambda: result, lambda failure: failure.raiseException)
    return kept


async def _fired(work: Deferred[T], clock: IReactorTime) -> T:
    if not await fires_within(work, ANSWERED_WITHIN, clock):
        raise MoveBusy(
            f"what was asked for is under way for {ANSWERED_WITHIN:g} s and goes on; ask again"
        )
    result: Any = work.result
    return result  # type: ignore[no-any-return]
