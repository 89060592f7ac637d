"""A wall clock that is set while the daemon runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.base import ReactorBase
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock, LoopingCall

from wingsd.app.process import Pools, use_monotonic_clock
from wingsd.config import Config, DockerConfig, TransfersConfig
from wingsd.tap import Options, makeService

pytestmark = pytest.mark.promise("clock-steps-do-no-harm")

HOUR = 3600.0


class Wall:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.set_by = 0.0

    def __call__(self) -> float:
        return time.time() + self.set_by


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    made = Wall()
    monkeypatch.setattr(ReactorBase, "seconds", staticmethod(made))
    return made


def nothing(_: object) -> None:
    pass


@pytest.mark.parametrize(("prepare", "early"), [(nothing, True), (use_monotonic_clock, False)])
def test_a_step_ends_no_wait(wall: Wall, prepare: Callable[[object], None], early: bool) -> None:
    reactor, fired = SelectReactor(), list[bool]()
    prepare(reactor)
    reactor.callLater(120, fired.append, True)
    wall.set_by = HOUR
    reactor.runUntilCurrent()
    assert bool(fired) is early


@pytest.mark.parametrize(("prepare", "late"), [(nothing, True), (use_monotonic_clock, False)])
def test_a_step_prolongs_none(wall: Wall, prepare: Callable[[object], None], late: bool) -> None:
    reactor, fired = SelectReactor(), list[bool]()
    prepare(reactor)
    reactor.callLater(0, fired.append, True)
    looping = LoopingCall(fired.append, True)
    looping.clock = reactor
    looping.start(0.001, now=False)
    wall.set_by = -HOUR
    end = time.monotonic() + 0.01
    while time.monotonic() < end or not (late or len(fired) > 1):
        reactor.runUntilCurrent()
    assert (len(fired) < 2) is late
    looping.stop()


def test_a_reactor_with_a_clock_of_its_own_keeps_it() -> None:
    clock = Clock()
    use_monotonic_clock(clock)
    clock.advance(5)
    assert clock.seconds() == 5


def test_the_daemon_has_such_a_clock() -> None:
    reactor = SelectReactor()
    options: Any = Options()
    remote = "https://panel.invalid"
    options.config = Config("x", "x", remote, docker=DockerConfig(enabled=False))
    options.unknown = []
    makeService(options, reactor)
    assert reactor.seconds is time.monotonic


class TrimmedPools(Pools):
    """Pools whose trims of the heap are noted, and not done."""

    def __init__(self) -> None:
        clock: Any = Clock()
        super().__init__(clock, TransfersConfig())
        self.clock = clock
        self.trims: list[float] = []
        disk: Any = self.disk
        disk.run = lambda trim: self.trims.append(self.clock.seconds())


def test_the_heap_is_trimmed_once_ten_seconds_after_the_last_archive() -> None:
    pools = TrimmedPools()
    pools.trim_later()
    pools.clock.advance(9)
    pools.trim_later()
    pools.clock.pump([9, 1, 60])
    assert pools.trims == [19]


def test_a_cancelled_trim_does_not_happen() -> None:
    pools = TrimmedPools()
    pools.start()
    pools.trim_later()
    pools.stop()
    pools.clock.advance(60)
    assert pools.trims == []
