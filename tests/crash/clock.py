"""The time of daemons in this process: where nothing is under way it jumps to what is due next.

So a wait costs nothing, and on a machine under load no timeout is over too soon.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from tests.support.reactor import reactor

#: In how many turns of the reactor in a row nothing has happened before time jumps.
QUIET_TURNS = 3
#: Seconds of a pause while threads work, or nothing is due for `SOON` seconds.
PAUSE, SOON = 0.002, 30.0
#: How many of the daemons' seconds one second is while something is under way.
SPEED = 5.0
#: The number of jumps after which conditions are looked at, though nothing has happened.
LOOK_EVERY = 50


class JumpingClock(Clock):
    """`is_busy` returns whether threads work, `count` how much has happened so far."""

    def __init__(self, is_busy: Callable[[], bool], count: Callable[[], int]) -> None:
        super().__init__()
        self._is_busy = is_busy
        self._count = count
        self._last = reactor.seconds()
        self._waiting: list[tuple[Callable[[], object], Deferred[None]]] = []
        self._is_stopped = False
        self._running: Deferred[None] | None = None

    def _next(self) -> DelayedCall | None:
        """Return the call that is due first."""
        return min(self.calls, key=DelayedCall.getTime, default=None)

    def pass_time(self, seconds: float) -> None:
        """Make the calls that are due in so many seconds."""
        end = self.rightNow + seconds
        while (call := self._next()) is not None and call.getTime() <= end:
            # Each call takes some time, however short: one that asks for less than the clock can
            # tell, and looks whether that is over, would come again forever.
            self.rightNow = max(math.nextafter(self.rightNow, math.inf), call.getTime())
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
        self.rightNow = max(self.rightNow, end)

    def start(self) -> None:
        """Let time pass."""
        self._last = reactor.seconds()
        self._running = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        self._is_stopped = True
        if self._running is not None:
            await self._running

    def until(self, holds: Callable[[], object]) -> Deferred[None]:
        """Return a Deferred that fires when a condition holds, or fails with what it raises.

        The condition is looked at when nothing happens.
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
            call = self._next()
            left = SOON if call is None else max(call.getTime() - self.rightNow, 0)
            if left >= SOON:  # something that is not seen here may be under way
                await deferLater(reactor, PAUSE)
            self.pass_time(min(left, SOON))

    def _look(self) -> bool:
        """Return whether a condition held that was waited for."""
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
            await deferLater(reactor, PAUSE if is_busy else 0)
            now = reactor.seconds()
            passed, self._last = now - self._last, now
            self.pass_time(passed * SPEED)
            before, count = count, self._count()
            turns = 0 if is_busy or count != before else turns + 1
