"""The time of daemons in this process: where nothing is under way it jumps to what is due next.

So a wait costs nothing, and on a machine under load no timeout is over too soon.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.support.reactor import reactor

__all__ = ["JumpingClock"]

#: In how many turns of the reactor in a row nothing has happened before time jumps.
QUIET_TURNS = 3
#: Seconds of a pause while threads work, or nothing is due for `SOON` seconds.
PAUSE, SOON = 0.002, 30.0
#: How many of the daemons' seconds one second is while something is under way.
SPEED = 5.0
#: After how many jumps is looked at what is waited for, though nothing has happened.
LOOK_EVERY = 50


class JumpingClock:
    """`is_busy` returns whether threads work, `count` how much has happened so far."""

    def __init__(self, is_busy: Callable[[], bool], count: Callable[[], int]) -> None:
        self._now = 0.0
        #: When calls are due, as far as is known: some may be later by now, or cancelled.
        self._due: list[tuple[float, int, DelayedCall]] = []
        self._numbers = itertools.count()
        self._is_busy = is_busy
        self._count = count
        self._last = reactor.seconds()
        self._waiting: list[tuple[Callable[[], object], Deferred[None]]] = []
        self._is_stopped = False
        self._running: Deferred[None] | None = None

    def seconds(self) -> float:
        return self._now

    def callLater(
        self, delay: float, function: Callable[..., object], *args: Any, **kw: Any
    ) -> Any:
        call = DelayedCall(
            self._now + delay, function, args, kw, lambda _: None, self._add, self.seconds
        )
        self._add(call)
        return call

    def _add(self, call: DelayedCall) -> None:
        heappush(self._due, (call.getTime(), next(self._numbers), call))

    def _next(self) -> float | None:
        """Return the time at which the next call is due; None if no call is waiting."""
        while self._due:
            due, _, call = self._due[0]
            if call.active() and call.getTime() <= due:
                return due
            heappop(self._due)
            if call.active():
                call.activate_delay()
                self._add(call)
        return None

    def _advance(self, seconds: float) -> None:
        """Make the calls that are due in so many seconds."""
        end = self._now + seconds
        while (due := self._next()) is not None and due <= end:
            # Each call takes some time, however short: one that asks for less than the clock can
            # tell, and looks whether that is over, would come again forever.
            self._now = max(math.nextafter(self._now, math.inf), due)
            _, _, call = heappop(self._due)
            call.called = 1
            call.func(*call.args, **call.kw)
        self._now = max(self._now, end)

    def start(self) -> None:
        """Have time pass."""
        self._last = reactor.seconds()
        self._running = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        self._is_stopped = True
        if self._running is not None:
            await self._running

    def until(self, holds: Callable[[], object]) -> Deferred[None]:
        """Return what fires when something holds, or fails with what it raises.

        That is looked at when nothing happens.
        """
        waiting: Deferred[None] = Deferred()
        self._waiting.append((holds, waiting))
        return waiting

    async def _run(self) -> None:
        looked, jumps = -1, 0
        while not self._is_stopped:
            await self._quiet()
            if self._count() != looked or jumps % LOOK_EVERY == 0:
                looked = self._count()
                if self._look():
                    jumps = 0
                    continue
            jumps += 1
            await self._jump()

    def _look(self) -> bool:
        """Return whether something held that was waited for."""
        held = False
        for each in [*self._waiting]:
            holds, waiting = each
            try:
                if not holds():
                    continue
            except BaseException:
                self._waiting.remove(each)
                waiting.errback()
            else:
                self._waiting.remove(each)
                waiting.callback(None)
            held = True
        return held

    async def _quiet(self) -> None:
        """Return when nothing is under way."""
        turns, count = 0, self._count()
        while turns < QUIET_TURNS and not self._is_stopped:
            is_busy = self._is_busy()
            await _pause(PAUSE if is_busy else 0)
            self._flow()
            before, count = count, self._count()
            turns = 0 if is_busy or count != before else turns + 1

    def _flow(self) -> None:
        now = reactor.seconds()
        passed, self._last = now - self._last, now
        self._advance(passed * SPEED)

    async def _jump(self) -> None:
        due = self._next()
        left = SOON if due is None else max(due - self._now, 0)
        if left >= SOON:  # what is not seen here may be under way
            await _pause(PAUSE)
        self._advance(min(left, SOON))


def _pause(seconds: float) -> Deferred[None]:
    pausing: Deferred[None] = deferLater(reactor, seconds)
    return pausing
