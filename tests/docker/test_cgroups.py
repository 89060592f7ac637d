"""Figures of containers from the files of their control groups, whole, wrong, missing or gone."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from tests.support import SynchronousWorkers
from tests.support.present import present
from wingsd.docker import cgroups
from wingsd.docker.cgroups import (
    KILLED,
    Meter,
    Readings,
    find_meter,
    machine_memory,
    pressures,
    read_file,
)
from wingsd.docker.runtime import (
    ContainerState,
    ContainerUsage,
    DiskIo,
    NetworkUsage,
    Pressure,
)

ID = "c0ffee" * 10 + "1234"
SCOPE = f"system.slice/docker-{ID}.scope"
FILES = {
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\nnr_periods 40\n"
    "nr_throttled 12\nthrottled_usec 900000\n",
    "memory.current": "104857600\n",
    "memory.stat": "anon 5\ninactive_anon 7\ninactive_file 4857600\n",
    "memory.max": "209715200\n",
    "memory.peak": "150000000\n",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\noom_group_kill 0\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.10 avg300=0.00 total=3000000\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    "full avg10=9.00 avg60=9.00 avg300=9.00 total=9\n",
    "io.pressure": "some avg10=99.99 avg60=0.00 avg300=0.00 total=500000\n",
    "io.stat": "8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\n"
    "253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    "pids.current": "23\n",
}
NETWORK = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:  777777      77    0    0    0     0          0         0   777777      77    0    0    0
  eth0:    1200      12    0    0    0     0          0         0      340       3    0    0    0
  eth1: 5 1 0 0 0 0 0 0 6 1 0 0 0
"""


@attrs.define
class Machine:
    """What the kernel shows of one container, in directories of the test's."""

    directory: Path

    def __attrs_post_init__(self) -> None:
        for name, content in FILES.items():
            self.write(name, content)
        self.write_above(oom=3, kills=4)
        network = self.proc / "7" / "net"
        network.mkdir(parents=True)
        (network / "dev").write_text(NETWORK)
        (self.proc / "7" / "cgroup").write_text(f"0::/{SCOPE}\n")

    @property
    def root(self) -> Path:
        return self.directory / "cgroup"

    @property
    def proc(self) -> Path:
        return self.directory / "proc"

    def write(self, name: str, content: str, group: str = SCOPE) -> None:
        (self.root / group).mkdir(parents=True, exist_ok=True)
        (self.root / group / name).write_text(content)

    def remove(self, name: str) -> None:
        # One that is open has no content any more.
        self.write(name, "")
        (self.root / SCOPE / name).unlink()

    def write_above(self, oom: int, kills: int) -> None:
        self.write("memory.events", f"oom {oom}\noom_kill {kills}\n", "system.slice")

    def find(
        self,
        pid: int = 7,
        *,
        has_machine_network: bool = False,
        started: datetime | None = None,
    ) -> Meter | None:
        state = ContainerState(
            ID, pid=pid, has_machine_network=has_machine_network, started=started
        )
        return find_meter(state, str(self.root), str(self.proc))

    def read(self) -> ContainerUsage:
        return present(present(self.find()).read())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_figures_are_those_of_the_files(machine: Machine) -> None:
    assert machine.read() == ContainerUsage(
        memory_bytes=100_000_000,
        memory_limit_bytes=209_715_200,
        network=NetworkUsage(rx_bytes=1205, tx_bytes=346, rx_packets=13, tx_packets=4),
        disk_io=DiskIo(read_bytes=4097, write_bytes=514),
        cpu_seconds=2.5,
        throttled_seconds=0.9,
        memory_peak_bytes=150_000_000,
        pressure={
            "cpu": Pressure(1.5, 3.0),
            "memory": Pressure(0.0, 0.0),
            "io": Pressure(99.99, 0.5),
        },
        oom_kills=0,
        disk_operations=(5, 5),
        processes=23,
    )


@pytest.mark.parametrize("content", [None, "", "nonsense\n", "-1\n", "9" * 5000, "\0\xff"])
def test_what_is_missing_or_wrong_is_left_out(machine: Machine, content: str | None) -> None:
    if content is not None:
        meter = present(machine.find())
    for name in FILES:
        if name not in ("cpu.stat", "memory.current"):
            if content is None:
                machine.remove(name)
            else:
                machine.write(name, content)
    if content is None:
        meter = present(machine.find())
    found = present(meter.read())
    assert (found.memory_bytes, found.cpu_seconds) == (104_857_600, 2.5)
    assert found.memory_limit_bytes <= machine_memory()
    assert found.pressure == {}
    assert (found.disk_io is None) == (content is None)


def test_without_a_limit_of_its_own_it_has_the_memory_of_the_machine(machine: Machine) -> None:
    machine.write("memory.max", "max\n")
    machine.write("memory.stat", "inactive_file 999999999999\n")
    assert machine.read().memory_limit_bytes == machine_memory()
    assert machine.read().memory_bytes == 104_857_600


def test_the_processor_is_used_between_two_readings(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", iter((10.0, 12.0, 12.0)).__next__)
    meter = present(machine.find())
    machine.write("cpu.stat", "usage_usec 5500000\n")
    found = present(meter.read())
    assert (found.cpu_absolute, found.throttled_seconds) == (150.0, None)
    # A clock that stands still divides by nothing.
    assert present(meter.read()).cpu_absolute == 0


def test_uptime_is_not_changed_by_setting_the_clock(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", iter((100.0, 100.0, 160.5)).__next__)
    started = datetime.now(UTC) - timedelta(seconds=30)
    meter = present(machine.find(started=started))
    assert present(meter.read()).uptime == pytest.approx(90_500, abs=5_000)


def test_throttling_of_several_processors_at_once_is_counted_once(machine: Machine) -> None:
    machine.write("cpu.stat", "usage_usec 1\nnr_throttled 12\nthrottled_usec 9000000\n")
    assert machine.read().throttled_seconds == pytest.approx(1.2)


@pytest.mark.parametrize("name", ["cpu.stat", "memory.current"])
def test_a_group_that_is_gone_has_ended(machine: Machine, name: str) -> None:
    meter = present(machine.find())
    machine.remove(name)
    assert meter.read() is None
    assert machine.find() is None


def test_a_container_whose_process_is_hidden_has_no_meter(machine: Machine) -> None:
    (machine.proc / "7" / "net" / "dev").unlink()
    assert machine.find() is None, "the engine knows its network"


def test_the_network_of_the_machine_is_not_that_of_the_server(machine: Machine) -> None:
    meter = present(machine.find(has_machine_network=True))
    assert present(meter.read()).network is None


@pytest.mark.parametrize(
    ("table", "group"),
    [
        ("0::/{scope}\n", SCOPE),
        ("0::/{scope}/init.scope\n", SCOPE),
        ("0::/user.slice/libpod-{id}.scope/container\n", f"user.slice/libpod-{ID}.scope"),
        # A sandbox hides it.
        (None, SCOPE),
        (None, f"docker/{ID}"),
        # Another process has the number, as on the machine of the engine.
        ("0::/init.scope\n", SCOPE),
        ("0::/../../{id}\n", SCOPE),
        ("\0\n\xff::\n", SCOPE),
    ],
)
def test_the_group_is_found_by_the_id(machine: Machine, table: str | None, group: str) -> None:
    places = machine.proc / "7" / "cgroup"
    places.unlink() if table is None else places.write_text(table.format(scope=SCOPE, id=ID))
    if group != SCOPE:
        (machine.root / group).parent.mkdir(parents=True)
        (machine.root / SCOPE).rename(machine.root / group)
    assert machine.find() is not None
    (machine.root / group).rename(machine.directory / "elsewhere")
    assert machine.find() is None


def test_of_version_1_nothing_is_read(machine: Machine) -> None:
    (machine.root / SCOPE).rename(machine.root / "elsewhere")
    (machine.proc / "7" / "cgroup").write_text(f"4:memory:/docker/{ID}\n0::/\n")
    assert machine.find() is None
    assert machine.find(pid=0) is None, "it does not run"


def test_the_pressure_of_the_machine_has_files_of_other_names(tmp_path: Path) -> None:
    (tmp_path / "io").write_text(FILES["io.pressure"])
    assert pressures(lambda resource: read_file(f"{tmp_path}/{resource}")) == {
        "io": Pressure(99.99, 0.5)
    }


@pytest.mark.root
def test_the_pressure_of_a_real_group_is_that_of_the_kernel() -> None:
    # Each group of version 2 has these files, also beside controllers of version 1.
    places = [
        row.split()[1]
        for row in Path("/proc/mounts").read_text().splitlines()
        if row.split()[2] == "cgroup2"
    ]
    if not places or not Path("/proc/pressure").exists():
        pytest.skip("the kernel shows no pressure")
    group = Path(places[0], f"wingsd-test-{os.getpid()}")
    group.mkdir()
    # Two on one core.
    compute = ["taskset", "-c", str(min(os.sched_getaffinity(0))), "/bin/sh", "-c"]
    compute.append(f"echo $$ > {group}/cgroup.procs; while :; do :; done")
    processes = [subprocess.Popen(compute) for _ in range(2)]
    try:
        while "total=0\n" in (group / "cpu.pressure").read_text().partition("full")[0]:
            time.sleep(0.01)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    while "populated 1" in (group / "cgroup.events").read_text():
        time.sleep(0.01)
    found = pressures(lambda resource: read_file(f"{group}/{resource}.pressure"))
    some, *_ = (group / "cpu.pressure").read_text().splitlines()
    group.rmdir()
    assert set(found) == {"cpu", "memory", "io"}
    assert found["cpu"].seconds == int(some.rpartition("=")[2]) / 1e6 > 0


# Why it ended


def own_events(machine: Machine, oom: int, kills: int) -> None:
    machine.write("memory.events", f"oom {oom}\noom_kill {kills}\n")


@pytest.mark.promise("kill-is-explained")
@pytest.mark.parametrize(("oom", "of_node"), [(1, False), (0, True)])
@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("reported", [True, False])
def test_a_kill_is_by_its_own_limit_where_that_was_reached(
    machine: Machine, oom: int, of_node: bool, is_read: bool, reported: bool
) -> None:
    meter = present(machine.find())
    if is_read:  # while its process gave back its memory
        own_events(machine, oom, 1)
        meter.read()
    machine.write_above(3 + oom, 5)
    assert meter.cause(KILLED, reported=reported) == (True, of_node)


def test_a_kill_of_another_server_is_not_its_own(machine: Machine) -> None:
    meter = present(machine.find())
    machine.write_above(4, 5)
    assert meter.cause(1, reported=False) == (False, False)


def test_a_program_that_went_on_after_a_kill_has_ended_by_itself(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = present(machine.find())
    own_events(machine, 1, 1)
    meter.read()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + cgroups.RECENT + 1)
    meter.read()
    assert meter.cause(0, reported=True) == (False, False)


def test_without_counts_the_engine_is_believed(machine: Machine) -> None:
    machine.remove("memory.events")
    (machine.root / "system.slice" / "memory.events").unlink()
    meter = present(machine.find())
    assert meter.cause(KILLED, reported=True) == (True, False)
    assert meter.cause(KILLED, reported=False) == (False, False)


# Readings of many


def test_one_that_ends_while_all_are_read_ends_alone(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    clock = Clock()
    readings = Readings(SynchronousWorkers(), clock)  # type: ignore[arg-type]
    taken: dict[str, list[ContainerUsage]] = {"one": [], "other": []}
    one = readings.follow(present(machine.find()), taken["one"].append)
    rest = readings.follow(present(other.find()), taken["other"].append)
    clock.advance(1)
    machine.remove("cpu.stat")
    clock.advance(1)
    assert (len(taken["one"]), len(taken["other"])) == (1, 2)
    assert (one.called, rest.called) == (True, False)
    rest.addErrback(lambda failure: failure.trap(CancelledError) and None)
    rest.cancel()
    clock.pump([1] * 3)
    assert len(taken["other"]) == 2
    assert not clock.getDelayedCalls(), "nothing is left to read"
    again = readings.follow(present(other.find()), taken["other"].append)
    clock.advance(1)
    assert len(taken["other"]) == 3
    assert not again.called
