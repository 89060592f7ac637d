"""Cancelling a transfer wherever it waits, and the slots that transfers wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore

from wingsd.errors import DaemonStopping, WingsdError

T = TypeVar("T")


class CancelScope:
    """Cancels a coroutine where it waits, or at its next wait; see `trio.CancelScope`."""

    def __init__(self) -> None:
        self.reason: WingsdError | None = None
        #: Whether it waits for a slot.
        self.is_waiting = False
        #: The turns that are waited for, and its own.
        self.queue: Iterable[Deferred[Any]] = ()
        self.turn: Deferred[Any] | None = None
        self._waiting: Deferred[Any] | None = None

    @property
    def place(self) -> int:
        """Its place in the queue for a slot, from 1; 0 where it does not wait for one."""
        if not self.is_waiting:
            return 0
        return next((n for n, turn in enumerate(self.queue, 1) if turn is self.turn), 0)

    def cancel(self, reason: WingsdError) -> None:
        """Make `wait` and `check` raise `reason` from now on."""
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
    scope.is_waiting, scope.queue, scope.turn = True, slots.waiting, asked[0]
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


class SharedSlots:
    """Slots that servers share: one server has at most half of them.

    Of the servers that wait, the one that holds the fewest is next.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: How many one server may hold.
        self.most = -(-limit // 2)
        self._held: Counter[str] = Counter()
        #: The servers of the turns that are waited for.
        self.waiting: dict[Deferred[None], str] = {}

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self.limit - self._held.total()

    def acquire(self, server: str) -> Deferred[None]:
        """Return a Deferred that fires when `server` holds one more; it may be cancelled."""
        turn: Deferred[None] = Deferred(self.waiting.__delitem__)
        self.waiting[turn] = server
        self._give()
        return turn

    def release(self, server: str, count: int = 1) -> None:
        """Give back what `server` holds."""
        self._held[server] -= count
        self._held += Counter()  # without the servers that hold none
        self._give()

    @asynccontextmanager
    async def held(self, server: str, count: int, scope: CancelScope) -> AsyncIterator[int]:
        """Hold one, and of the free ones as many more, up to `count`; yield how many.

        For more than one nothing waits: two servers could each hold what the other waits for.
        Raises the reason when `scope` is cancelled meanwhile.
        """
        held = 0
        turn = self.acquire(server)
        scope.is_waiting, scope.queue, scope.turn = True, self.waiting, turn
        try:
            await scope.wait(turn)
            held = 1
            scope.check()
            scope.is_waiting = False
            held += min(count - 1, self.most - self._held[server], self.free)
            self._held[server] += held - 1
            yield held
        finally:
            scope.is_waiting = False
            if held:
                self.release(server, held)

    def _give(self) -> None:
        while self.free and (
            able := [
                turn for turn, server in self.waiting.items() if self._held[server] < self.most
            ]
        ):
            turn = min(able, key=lambda turn: self._held[self.waiting[turn]])
            server = self.waiting.pop(turn)
            self._held[server] += 1
            turn.callback(None)
