"""A process whose engine is away, comes back, or tells odd things; and its figures."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from docker.errors import NotFound
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.docker.watcher import Notes
from tests.support import SynchronousWorkers
from tests.support.logged_errors import Logged
from tests.support.present import present
from wingsd.docker import engine
from wingsd.docker.async_engine import AsyncEngine
from wingsd.docker.cgroups import INTERVAL, Readings
from wingsd.docker.process import (
    BACKOFF,
    MAX_SAMPLE,
    ContainerProcess,
    ContainerStreams,
    Samples,
    Stream,
    usage,
)
from wingsd.docker.runtime import ContainerRuntime, ContainerUsage, DiskIo, NetworkUsage
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Settings

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
    #: Where the kernel shows its control groups, if it does.
    machine: str = "/nowhere"
    has_machine_network: bool = False

    def inspect_container(self, name: str) -> dict[str, Any]:
        assert name == "0123"
        self.inspections += 1
        if isinstance(self.state, Exception):
            raise self.state
        mode = "host" if self.has_machine_network else "bridge"
        return {"Id": name, "State": self.state, "HostConfig": {"NetworkMode": mode}}

    def close(self) -> None:
        pass

    def process(self) -> ContainerProcess:
        workers: Any = SynchronousWorkers()
        calls = AsyncEngine(workers, "unix:///faked")
        readings = Readings(workers, self.clock, f"{self.machine}/cgroup", f"{self.machine}/proc")
        process = ContainerProcess(
            "uuid", "0123", self.notes, calls, self.streams, readings, self.clock
        )
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


@pytest.mark.parametrize(("status", "is_cause"), [(137, True), (0, False)])
def test_without_its_control_group_only_a_killed_program_ran_out_of_memory(
    harness: Harness, status: int, is_cause: bool
) -> None:
    harness.process()
    harness.state = ENDED | {"OOMKilled": True, "ExitCode": status}
    harness.streams.consoles[0].connectionLost()
    harness.pass_time(60)
    assert harness.notes.told == [(status, is_cause)]


def test_its_control_group_is_read_in_place_of_the_engines_statistics(
    harness: Harness, tmp_path: Path
) -> None:
    group = tmp_path / "cgroup" / "docker" / "0123"
    group.mkdir(parents=True)
    (group / "cpu.stat").write_text("usage_usec 5000000\n")
    (group / "memory.current").write_text("7\n")
    harness.machine, harness.state = str(tmp_path), RUNNING | {"Pid": 9}
    harness.has_machine_network = True
    harness.process()
    harness.pass_time(2 * INTERVAL + 0.2)
    assert [each.memory_bytes for each in harness.notes.usages] == [7, 7]
    # The kernel kills it, and its group is gone at once.
    (tmp_path / "cgroup" / "docker" / "memory.events").write_text("oom 0\noom_kill 1\n")
    (group / "cpu.stat").write_text("")
    harness.state = {"Running": False, "ExitCode": 137}
    harness.pass_time(2 * INTERVAL)
    harness.streams.consoles[0].connectionLost()
    assert harness.notes.ends == [(137, True)]
    assert harness.notes.of_node
    assert harness.streams.measurements == []
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

    def let_go(_: Notes, status: int | None, **why: bool) -> None:
        processes[0].detach()
        ended(status, **why)

    monkeypatch.setattr(Notes, "ended", let_go)
    processes.append(harness.process())
    harness.state = dict(ENDED)
    harness.streams.consoles[0].connectionLost()
    assert harness.notes.told == [(3, False)]


STARTED = datetime(2026, 11, 25, 9, 16, 0, tzinfo=UTC)
FIGURES: dict[str, Any] = json.loads(Path(__file__).with_name("stats.json").read_text())


def changed(section: str, **fields: Any) -> dict[str, Any]:
    sample = copy.deepcopy(FIGURES)
    sample[section] |= fields
    return sample


def used(sample: dict[str, Any]) -> ContainerUsage:
    return present(usage(sample, STARTED))


def test_the_figures_of_a_sample() -> None:
    assert usage(FIGURES, STARTED) == ContainerUsage(
        memory_bytes=42_000_000,
        memory_limit_bytes=73_600_000,
        cpu_absolute=50.0,
        network=NetworkUsage(rx_bytes=120, tx_bytes=12, rx_packets=0, tx_packets=0),
        disk_io=DiskIo(read_bytes=4097, write_bytes=514),
        uptime=29_764,
        cpu_seconds=FIGURES["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
    )


@pytest.mark.parametrize(
    ("details", "memory"),
    [
        ({"total_inactive_file": 1_000_000, "inactive_file": 8_000_000}, 49_000_000),
        ({"total_inactive_file": 60_000_000, "inactive_file": 8_000_000}, 42_000_000),
        ({"inactive_file": 50_000_000}, 50_000_000),
        ({}, 50_000_000),
        (None, 50_000_000),
    ],
)
def test_memory_is_counted_without_page_cache(details: Any, memory: int) -> None:
    assert used(changed("memory_stats", stats=details)).memory_bytes == memory


@pytest.mark.parametrize(
    ("now", "percent"),
    [
        ({"online_cpus": 1}, 12.5),
        ({"online_cpus": 0, "cpu_usage": {"total_usage": 1_523_456_789}}, 12.5),
        (
            {
                "online_cpus": 0,
                "cpu_usage": {"total_usage": 1_523_456_789, "percpu_usage": [1, 1]},
            },
            25.0,
        ),
        ({"cpu_usage": {"total_usage": 1_023_456_789 + 1_234_567}}, 0.123),
        ({"cpu_usage": {"total_usage": 5}}, 0.0),
        ({"system_cpu_usage": 8_000_000_000}, 0.0),
        ({"system_cpu_usage": None}, 0.0),
    ],
)
def test_cpu_is_in_percent_of_one_core(now: dict[str, Any], percent: float) -> None:
    assert used(changed("cpu_stats", **now)).cpu_absolute == percent


def test_uptime_is_by_the_engines_clock() -> None:
    later = datetime(2026, 11, 25, 9, 17, tzinfo=UTC)
    before_its_start, unknown = usage(FIGURES, later), usage(FIGURES, None)
    assert before_its_start is not None
    assert unknown is not None
    assert (before_its_start.uptime, unknown.uptime) == (0, 0)


def test_a_container_that_does_not_run_uses_nothing() -> None:
    assert usage({"read": "0001-01-01T00:00:00Z", "memory_stats": {}}, STARTED) is None
    assert usage({}, STARTED) is None


@pytest.mark.parametrize(
    "section", ["cpu_stats", "precpu_stats", "memory_stats", "networks", "blkio_stats"]
)
def test_what_the_engine_leaves_out_is_nought(section: str) -> None:
    assert usage(FIGURES | {section: {}}, STARTED) is not None
    assert usage(FIGURES | {section: None}, STARTED) is not None
    # cgroup v2 without an `io` controller.
    assert (
        usage(FIGURES | {"blkio_stats": {"io_service_bytes_recursive": None}}, STARTED) is not None
    )
    assert usage({"read": FIGURES["read"]}, STARTED) == ContainerUsage(uptime=29_764)


@given(st.lists(st.dictionaries(st.text(), st.integers())), st.integers(1, 50))
def test_samples_are_joined_from_any_pieces(samples: list[dict[str, int]], size: int) -> None:
    data = b"".join(json.dumps(sample).encode() + b"\r\n" for sample in samples)
    reader = Samples()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [sample for piece in pieces for sample in reader.feed(piece)] == samples


def test_lines_that_are_no_samples_are_passed_over() -> None:
    reader = Samples()
    assert list(reader.feed(b'nonsense\n[1]\n\xff\n{"a": 1}\n')) == [{"a": 1}]
    assert list(reader.feed(b"x" * (MAX_SAMPLE + 1))) == []
    assert list(reader.feed(b'{"b": 2}\n')) == [{"b": 2}]


async def test_a_node_of_files_only_makes_and_runs_nothing() -> None:
    environment = ContainerRuntime()
    notes = Notes()
    assert not await environment.create(Settings("uuid"))
    await environment.recreate(Settings("uuid"))
    await environment.remove("uuid")
    assert await environment.name_conflict("uuid") == ""
    assert await environment.adopt("uuid", notes) is None
    assert await environment.logs("uuid", 10) == []
    with pytest.raises(EnvironmentFailed, match="Docker is disabled"):
        await environment.start("uuid", notes)
    assert not environment.enabled
    with pytest.raises(EnvironmentFailed, match="Docker is disabled"):
        await environment.start_installer("uuid", notes)
    await environment.remove_installer("uuid")
    assert await environment.find_installer("uuid") is None
    assert await environment.adopt_installer("uuid", notes) is None
    assert await environment.installers() == []
    assert notes.told == []
