"""A process whose engine is away, comes back, or tells odd things: with a clock of the test's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from docker.errors import NotFound
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.docker.watcher import Notes
from tests.support import SynchronousWorkers
from tests.support.logged_errors import Logged
from wingsd.docker import engine
from wingsd.docker.async_engine import AsyncEngine
from wingsd.docker.process import BACKOFF, ContainerProcess, ContainerStreams, Stream
from wingsd.docker.runtime import ContainerUsage
from wingsd.errors import EnvironmentFailed

RUNNING = {"Running": True, "StartedAt": "2026-01-01T00:00:00Z"}
ENDED = {"Running": False, "ExitCode": 3}
SAMPLE = b'{"read": "2026-01-01T00:00:01Z", "memory_stats": {"usage": 7, "limit": 9}}\n'


class FakeStreams(ContainerStreams):
    """Streams that the test feeds and ends; `down` refuses new ones."""

    def __init__(self) -> None:
        self.consoles: list[Stream] = []
        self.measurements: list[Stream] = []
        self.down = False

    async def console(self, container: str, take: Callable[[bytes], object]) -> Stream:
        return self._add(self.consoles, take)

    async def stats(self, container: str, take: Callable[[bytes], object]) -> Stream:
        return self._add(self.measurements, take)

    def _add(self, streams: list[Stream], take: Callable[[bytes], object]) -> Stream:
        if self.down:
            raise EnvironmentFailed("the engine is away")
        streams.append(Stream(take))
        return streams[-1]


@attrs.define(eq=False)
class Harness:
    """One process, the engine it is on, and who watches it."""

    clock: Clock = attrs.field(factory=Clock)
    streams: FakeStreams = attrs.field(factory=FakeStreams)
    notes: Notes = attrs.field(factory=Notes)
    #: What an inspection tells: a state, or an error.
    state: dict[str, Any] | Exception = attrs.field(factory=lambda: dict(RUNNING))
    inspections: int = 0

    def inspect_container(self, name: str) -> dict[str, Any]:
        assert name == "0123"
        self.inspections += 1
        if isinstance(self.state, Exception):
            raise self.state
        return {"Id": name, "State": self.state}

    def close(self) -> None:
        pass

    def process(self) -> ContainerProcess:
        calls = AsyncEngine(SynchronousWorkers(), "unix:///faked")  # type: ignore[arg-type]
        process = ContainerProcess("uuid", "0123", self.notes, calls, self.streams, self.clock)
        Deferred.fromCoroutine(process.attach())
        process.follow()
        return process

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds / 0.05))


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    harness = Harness()
    monkeypatch.setattr(engine, "DockerClient", lambda address: harness)
    return harness


def test_the_end_is_reported_once_and_last(harness: Harness) -> None:
    harness.process()
    harness.streams.consoles[0].dataReceived(b"bye")
    harness.state = dict(ENDED)
    harness.streams.measurements[0].dataReceived(SAMPLE)
    harness.streams.consoles[0].connectionLost()
    harness.streams.measurements[0].dataReceived(SAMPLE)
    harness.pass_time(60)
    assert harness.notes.told == [b"bye", ContainerUsage(7, 9, uptime=1000), (3, False)]
    assert len(harness.streams.measurements) == 1
    assert not harness.clock.getDelayedCalls()


def test_a_container_that_is_gone_has_ended(harness: Harness) -> None:
    harness.process()
    harness.state = NotFound("no such container")
    harness.streams.consoles[0].connectionLost()
    assert harness.notes.told == [(None, False)]


def test_the_engine_may_report_the_end_later(harness: Harness) -> None:
    harness.process()
    harness.streams.consoles[0].connectionLost()
    harness.state = dict(ENDED)
    assert harness.notes.told == []
    harness.pass_time(0.15)
    assert harness.notes.told == [(3, False)]
    # It was attached once more meanwhile, which is of no use any more.
    assert len(harness.streams.consoles) == 2
    harness.streams.consoles[1].dataReceived(b"late")
    assert harness.notes.told == [(3, False)]


def test_an_engine_that_is_away_is_waited_for(harness: Harness, logged: Logged) -> None:
    harness.process()
    harness.state, harness.streams.down = OSError(111, "Connection refused"), True
    harness.streams.consoles[0].connectionLost()
    harness.streams.measurements[0].connectionLost()
    harness.pass_time(600)
    assert harness.notes.told == []
    # Two ask in turn, ever more rarely; and one line says so.
    assert harness.inspections < 2 * (600 / BACKOFF.longest + 10)
    assert sum("its console is disconnected" in line for line in logged.lines) == 1

    harness.state, harness.streams.down = dict(RUNNING), False
    harness.pass_time(BACKOFF.longest + 0.2)
    harness.streams.consoles[1].dataReceived(b"still here")
    harness.streams.measurements[1].dataReceived(SAMPLE)
    assert harness.notes.told == [b"still here", ContainerUsage(7, 9, uptime=1000)]

    harness.state = dict(ENDED)
    harness.streams.consoles[1].connectionLost()
    assert harness.notes.ends == [(3, False)]


def test_consoles_that_end_at_once_are_tried_ever_more_rarely(harness: Harness) -> None:
    harness.process()
    for _ in range(600):
        last = harness.streams.consoles[-1]
        if not last.over.called:
            last.connectionLost()
        harness.pass_time(1)
    assert 10 < len(harness.streams.consoles) < 600 / BACKOFF.longest + 20
    assert harness.notes.told == []


def test_a_detached_watcher_gets_no_events(harness: Harness) -> None:
    process = harness.process()
    process.detach()
    harness.state = dict(ENDED)
    for stream in (harness.streams.consoles[0], harness.streams.measurements[0]):
        stream.dataReceived(SAMPLE)
        stream.connectionLost()
    harness.pass_time(60)
    assert harness.notes.told == []
    assert not harness.clock.getDelayedCalls()


def test_detaching_while_the_engine_is_away_ends_the_tries(harness: Harness) -> None:
    process = harness.process()
    harness.state = OSError(111, "Connection refused")
    harness.streams.consoles[0].connectionLost()
    harness.pass_time(5)
    process.detach()
    tries = harness.inspections
    harness.pass_time(60)
    assert (harness.inspections, harness.notes.told) == (tries, [])
    assert not harness.clock.getDelayedCalls()


def test_a_watcher_that_fails_hears_the_rest(
    harness: Harness, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = harness.notes.output

    def picky(data: bytes) -> None:
        if data == b"bad":
            raise ValueError(data)
        output(data)

    monkeypatch.setattr(Notes, "output", lambda _, data: picky(data))
    harness.process()
    harness.streams.consoles[0].dataReceived(b"bad")
    harness.streams.consoles[0].dataReceived(b"good")
    assert harness.notes.told == [b"good"]
    assert len(logged.take(ValueError)) == 1


def test_a_watcher_may_detach_during_the_end(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = harness.notes.ended
    processes: list[ContainerProcess] = []

    def let_go(_: Notes, status: int | None, *, out_of_memory: bool) -> None:
        processes[0].detach()
        ended(status, out_of_memory=out_of_memory)

    monkeypatch.setattr(Notes, "ended", let_go)
    processes.append(harness.process())
    harness.state = dict(ENDED)
    harness.streams.consoles[0].connectionLost()
    assert harness.notes.told == [(3, False)]
