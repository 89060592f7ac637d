"""Figures of servers: what 200 of them cost, and how far they are from those of others."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
from twisted.internet.threads import deferToThread

from bench.figures import Bound, Figure, Measured, Row, Table
from bench.node import reactor
from bench.series import FEW, Run, Series
from tests.docker.cgroup_checks import COMPUTE, TAKE, WRITE, Container, make_hierarchy, said
from tests.docker.engine_checks import LOAD, both, started
from tests.docker.machine_engine import BESIDE_ENGINE, HOME, IMAGES
from tests.docker.test_cgroups import FILES, Machine
from tests.metrics.exposed import exposition, rendered, server, sources
from tests.support.docker_engine import cleaned_engine, connected, imported_busybox
from tests.support.present import present
from tests.support.running import run_command
from tests.support.virtual_machine import run_in_machine
from wingsd.app.process import raise_limit
from wingsd.docker.cgroups import Meter, read_all
from wingsd.metrics import Recorder
from wingsd.threadio import Workers

__all__ = ["FIGURES"]

_SERVERS = 200
#: Milliseconds of CPU time of a scrape, MiB that it takes, and percent beside others.
_CPU, _MEMORY, _PERCENT = Bound(50), Bound(8), Bound(2)
#: Bytes of a file that are read.
_MOST = 64 * 1024
#: Readings and scrapes of a round.
_TIMES = 20
#: How often the virtual machine repeats that.
_ATTEMPTS = 4
_IN_MACHINE = (sys.executable, "-m", "bench.server_figures")
_GROUPS = "milliseconds of CPU to read 200 groups in user-mode Linux"
_ALONE = "milliseconds for the system calls of that alone"
_PLAIN = "milliseconds of CPU to read as many plain files"
_SCRAPE = "milliseconds of CPU for a scrape of 200"
_TAKEN = "MiB that both take"


def _milliseconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    for _ in range(_TIMES):
        work()
    return (time.process_time() - before) * 1000 / _TIMES


def _system_calls(containers: Sequence[Container]) -> float:
    """Return what the system calls of a reading cost, in a loop that does nothing else."""
    paths = [each.group / name for each in containers for name in FILES]
    paths += [Path(f"/proc/{each.processes[0].pid}/net/dev") for each in containers]
    files = [os.open(path, os.O_RDONLY) for path in paths if path.exists()]

    def read() -> None:
        for file in files:
            os.pread(file, _MOST, 0)

    try:
        return _milliseconds(read)
    finally:
        for file in files:
            os.close(file)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _reading(meters: Sequence[Meter]) -> float:
    return _milliseconds(lambda: read_all(meters))


def _cost_in_files() -> dict[str, float]:
    """Return what it takes to read plain files, and to render the metrics of their figures."""
    raise_limit()
    without = exposition(Recorder(), sources(servers_all=list))
    rendered(without)
    with TemporaryDirectory(dir="/dev/shm") as directory:
        machines = [Machine(Path(directory, str(number))) for number in range(_SERVERS)]
        before = _resident()
        meters = [present(each.find()) for each in machines]
        reading, usages = _reading(meters), read_all(meters)
    shown = [
        # They have been running for a minute.
        server(
            f"Server {number}",
            attrs.evolve(present(usage), uptime=60_000),
            f"8d2f5a14-6e2b-4c43-9d57-{number:012}",
        )
        for number, usage in enumerate(usages)
    ]
    exposed = exposition(Recorder(), sources(servers_all=lambda: shown))
    scrape = _milliseconds(lambda: rendered(exposed))
    return {_PLAIN: reading, _SCRAPE: scrape, _TAKEN: _resident() - before}


def _percent(found: float | None, other: float) -> float:
    return 100 * abs(present(found) - other) / other


def _differences_in_groups() -> dict[str, float]:
    """Return how far figures are from the files of a group, read in another way."""
    container = Container("f" * 64)
    container.group.mkdir()
    try:
        container.limit("cpu.max", "50000 100000")
        said(container.run(TAKE, 40))
        said(container.run(WRITE, 8, "/run/ext4/file"))
        computing = container.run(COMPUTE)
        time.sleep(2)
        computing.kill()
        computing.wait()
        found = present(container.meter().read())
        used = container.own("memory.current") - container.own("memory.stat", "inactive_file")
        return {
            "percent beside the group's files: CPU": _percent(
                found.cpu_seconds, container.own("cpu.stat", "usage_usec") / 1e6
            ),
            "percent beside the group's files: memory": _percent(found.memory_bytes, used),
            "percent beside the group's files: disk": _percent(
                present(found.disk_io).write_bytes, 8 << 20
            ),
        }
    finally:
        container.end()


def _in_machine() -> dict[str, float]:
    """Return the cost with real control groups, each with a process, and the differences."""
    raise_limit()
    make_hierarchy()
    differences = _differences_in_groups()
    containers = [Container(f"{number:064x}") for number in range(_SERVERS)]
    for each in containers:
        each.group.mkdir()
        each.execute("/bin/sleep", "999")
    meters = [each.meter() for each in containers]
    # The least is the nearest to the truth: time of the host's other work is added to it.
    costs = [(_reading(meters), _system_calls(containers)) for _ in range(_ATTEMPTS)]
    reading, alone = (min(column) for column in zip(*costs, strict=True))
    return differences | {_GROUPS: reading, _ALONE: alone}


def _machine(command: Sequence[str]) -> dict[str, float]:
    """Return what a command has printed in the virtual machine."""
    with TemporaryDirectory() as directory:
        ran = run_in_machine(Path(directory), IMAGES, command, timeout=600)
    lines = [line for line in ran.output.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"bench: the virtual machine has ended with {ran.status}: {ran.output}")
    found: dict[str, float] = json.loads(lines[-1])
    return found


async def _beside_docker() -> None:
    """Print how far the figures of a container are from those of `docker stats`."""
    workers = Workers(reactor, "bench", 4)
    workers.start()
    try:
        with (
            connected() as client,
            imported_busybox(client) as image,
            TemporaryDirectory(dir=HOME) as volumes,
            cleaned_engine(client, image, Path(volumes)) as engine,
        ):
            own, others = await both(engine, await started(engine, workers, LOAD, cpu_limit=0))
            differences = {
                f"percent beside docker stats: {name}": _percent(own[name], other)
                for name, other in others.items()
            }
            print(json.dumps(differences))
    finally:
        workers.stop()


async def _measure(run: Run) -> Measured:
    rounds: list[dict[str, float]] = []
    for _ in range(min(run.rounds, FEW)):
        found = await deferToThread(_machine, _IN_MACHINE)
        found |= await deferToThread(_machine, (*BESIDE_ENGINE, *_IN_MACHINE, "docker"))
        rounds.append(found | await deferToThread(_cost_in_files))
        run.say(json.dumps(rounds[-1]))
    bounds = {_GROUPS: _CPU, _SCRAPE: _CPU, _TAKEN: _MEMORY}
    rows = [
        Row(
            name,
            [
                Figure.of(
                    [one[name] for one in rounds],
                    _PERCENT if name.startswith("percent") else bounds.get(name),
                )
            ],
        )
        for name in rounds[0]
    ]
    return Measured(rounds=str(len(rounds)), tables=[Table(rows)])


FIGURES = Series(
    "figures",
    "Figures of servers",
    """
    A scrape of 200 servers takes a fraction of what it may, and the figures are those of the
    kernel. All servers are read once a second, in a thread; a scrape renders the last readings,
    and all other metrics. The group's own files are those of control groups version 2 in user-mode
    Linux, where a system call takes 13 us, and time in which this machine did something else
    counts as well. So the least of four attempts is taken, these calls are also measured alone,
    and plain files of the same content are read. In such a machine an engine is asked, too, about
    a container that has computed and written.
    """,
    _measure,
)

if __name__ == "__main__":
    if sys.argv[1:]:
        run_command(_beside_docker)
    else:
        print(json.dumps(_in_machine()))
