"""The timer: one delayed call at a time."""

from __future__ import annotations

from twisted.internet.task import Clock

from wingsd.util.reactor import Timer


def test_a_timer_has_one_call_at_a_time_that_can_be_dropped_and_set_again() -> None:
    clock, called = Clock(), list[str]()
    timer = Timer(clock)
    timer.cancel()
    timer.start(1, called.append, "replaced")
    timer.start(2, called.append, "first")
    clock.advance(1)
    assert timer.is_running
    clock.advance(1)
    assert not timer.is_running
    timer.start(1, called.append, "dropped")
    timer.cancel()
    timer.cancel()
    clock.advance(1)
    timer.start(1, lambda: timer.start(1, called.append, "again"))
    clock.pump([1, 1])
    assert called == ["first", "again"]
    assert clock.getDelayedCalls() == []
