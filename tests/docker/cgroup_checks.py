"""Figures from control groups of a real kernel, version 2. Runs in the virtual machine only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.support.present import present
from wingsd.docker.cgroups import KILLED, Meter, find_meter
from wingsd.docker.runtime import ContainerState, ContainerUsage

ROOT = Path("/run/cgroup")
CONTROLLERS = "+cpu +memory +io +pids"
MIB = 1 << 20
#: Takes so many MiB, says so, and waits.
TAKE = "import sys; taken = b'x' * (int(sys.argv[1]) << 20); print(1, flush=True); input()"
#: Takes ever more when it has read a line.
GROW = "input(); taken = []\nwhile True: taken.append(b'x' * (1 << 20))"
#: Computes until it is killed.
COMPUTE = "while True: pass"
#: Writes so many MiB to a file, past the page cache.
WRITE = """
import mmap, os, sys
file = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
block = mmap.mmap(-1, 1 << 20)
for _ in range(int(sys.argv[1])):
    os.write(file, block)
print(1, flush=True)
sys.stdin.read()
"""


@attrs.define
class Container:
    """A group like that of a container, in one like Docker's."""

    id: str
    processes: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    @property
    def group(self) -> Path:
        return ROOT / "docker" / self.id

    def run(self, program: str, *words: object) -> subprocess.Popen[bytes]:
        """Run a program of Python."""
        return self.execute(sys.executable, "-c", program, *map(str, words))

    def execute(self, *command: str) -> subprocess.Popen[bytes]:
        """Run a command."""
        enter = f'echo $$ > {self.group}/cgroup.procs; exec "$@"'
        process = subprocess.Popen(
            ["/bin/sh", "-c", enter, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def meter(self) -> Meter:
        state = ContainerState(self.id, pid=self.processes[0].pid)
        return present(find_meter(state, str(ROOT)))

    def limit(self, name: str, value: object) -> None:
        (self.group / name).write_text(str(value))

    def own(self, file: str, key: str = "") -> int:
        """Return a figure of a file, read in another way."""
        lines = (self.group / file).read_text().splitlines()
        if not key:
            return int(lines[0])
        return next(int(line.split()[1]) for line in lines if line.split()[0] == key)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        while "populated 1" in (self.group / "cgroup.events").read_text():
            time.sleep(0.01)
        self.group.rmdir()


@pytest.fixture(scope="module", autouse=True)
def hierarchy() -> None:
    make_hierarchy()


def make_hierarchy() -> None:
    """Mount the control groups, with one like Docker's."""
    ROOT.mkdir()
    subprocess.run(["/bin/mount", "-t", "cgroup2", "none", ROOT], check=True)
    (ROOT / "cgroup.subtree_control").write_text(CONTROLLERS)
    (ROOT / "docker").mkdir()
    (ROOT / "docker" / "cgroup.subtree_control").write_text(CONTROLLERS)


@pytest.fixture
def container(request: pytest.FixtureRequest) -> Iterator[Container]:
    container = Container(f"{abs(hash(request.node.name)):064x}")
    container.group.mkdir()
    yield container
    if container.group.exists():
        container.end()


def read(meter: Meter) -> ContainerUsage:
    return present(meter.read())


def said(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"


def test_memory_and_processes_are_those_of_the_group(container: Container) -> None:
    container.limit("memory.max", 256 * MIB)
    said(container.run(TAKE, 60))
    found = read(container.meter())
    current = container.own("memory.current") - container.own("memory.stat", "inactive_file")
    assert found.memory_bytes == pytest.approx(current, rel=0.02)
    assert 60 * MIB < found.memory_bytes < 90 * MIB
    assert found.memory_limit_bytes == 256 * MIB
    assert present(found.memory_peak_bytes) >= found.memory_bytes
    assert (found.processes, found.oom_kills) == (1, 0)
    assert present(found.network).rx_bytes == 0, "nothing but the loopback"


def test_the_processor_and_throttling_are_those_of_the_group(container: Container) -> None:
    container.limit("cpu.max", "20000 100000")
    container.run(COMPUTE)
    meter = container.meter()
    time.sleep(3)
    found = read(meter)
    assert found.cpu_seconds == pytest.approx(
        container.own("cpu.stat", "usage_usec") / 1e6, rel=0.02
    )
    assert found.cpu_absolute == pytest.approx(20, rel=0.25)
    throttled = container.own("cpu.stat", "throttled_usec") / 1e6
    assert found.throttled_seconds == pytest.approx(throttled, rel=0.1)
    assert throttled > 1


def test_the_disk_is_that_of_the_group(container: Container) -> None:
    said(container.run(WRITE, 8, "/run/ext4/file"))
    found = read(container.meter())
    assert present(found.disk_io).write_bytes == pytest.approx(8 * MIB, rel=0.02)
    assert present(found.disk_operations)[1] >= 8


def ended(container: Container, meter: Meter) -> tuple[bool, bool]:
    """Wait for the end of its process, remove its group as an engine does; return the cause."""
    process = container.processes[0]
    assert process.wait(60) == -signal.SIGKILL
    container.end()
    assert meter.read() is None
    return meter.cause(KILLED, reported=True)


def test_a_kill_by_its_own_limit_is_told(container: Container) -> None:
    container.limit("memory.max", 64 * MIB)
    process = container.run(GROW)
    meter = container.meter()
    read(meter)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert ended(container, meter) == (True, False)


def test_a_kill_since_the_node_has_no_memory_is_told(container: Container) -> None:
    process = container.run(GROW)
    (Path("/proc") / str(process.pid) / "oom_score_adj").write_text("1000")
    meter = container.meter()
    read(meter)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert ended(container, meter) == (True, True)


def test_one_that_is_killed_by_somebody_else_did_not_run_out(container: Container) -> None:
    process = container.run("input()")
    meter = container.meter()
    read(meter)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    container.end()
    assert meter.cause(KILLED, reported=False) == (False, False)
