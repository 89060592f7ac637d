from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.crash.clock import JumpingClock
from tests.support.reactor import reactor


class Daemon:
    """Daemons, as far as the clock sees them."""

    def __init__(self) -> None:
        self.is_busy = False
        self.count = 0
        self.clock = JumpingClock(lambda: self.is_busy, lambda: self.count)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    daemon.clock.start()
    yield daemon
    pytest_twisted.blockon(Deferred.fromCoroutine(daemon.clock.stop()))


async def test_time_jumps_to_each_call_that_is_due(daemon: Daemon) -> None:
    clock, calls = daemon.clock, list[tuple[str, int]]()

    def note(name: str) -> None:
        calls.append((name, round(clock.seconds() / 100)))

    clock.callLater(500, note, "later")
    clock.callLater(200, note, "soon")
    clock.callLater(100, note, "cancelled").cancel()
    clock.callLater(100, note, "delayed").delay(200)
    clock.callLater(900, note, "earlier").reset(400)
    begun = reactor.seconds()
    await clock.until(lambda: len(calls) == 4)
    assert calls == [("soon", 2), ("delayed", 3), ("earlier", 4), ("later", 5)]
    assert reactor.seconds() - begun < 60


async def test_time_passes_for_calls_that_wait_for_less_than_it_can_tell(daemon: Daemon) -> None:
    clock, end = daemon.clock, 1_000_000.1
    clock.pass_time(1_000_000)

    def look() -> None:
        if clock.seconds() < end:
            clock.callLater(1e-12, look)

    clock.callLater(math.nextafter(end, 0) - clock.seconds(), look)
    await clock.until(lambda: clock.seconds() >= end)


async def test_time_does_not_jump_while_threads_work(daemon: Daemon) -> None:
    daemon.is_busy = True
    daemon.clock.callLater(10_000, lambda: None)
    done: Deferred[None] = Deferred()
    reactor.callLater(0.05, done.callback, None)
    await done
    assert daemon.clock.seconds() < 1_000


async def test_a_condition_may_fail(daemon: Daemon) -> None:
    def holds() -> bool:
        raise ValueError("it is broken")

    with pytest.raises(ValueError, match="broken"):
        await daemon.clock.until(holds)
