"""Figures of containers of a real engine, with control groups version 2.

Runs in the virtual machine only.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.threads import deferToThread

from tests.docker.watcher import Notes
from tests.support.docker_engine import Engine
from tests.support.present import present
from tests.support.reactor import reactor
from wingsd.docker.containers import DockerContainers
from wingsd.threadio import Workers

#: Computes for a second, writes 8 MiB, and takes 16 MiB of memory until it has read a line.
LOAD = (
    "busybox timeout 1 sh -c 'while :; do :; done'; "
    "busybox dd if=/dev/zero of=/home/container/file bs=1M count=8 conv=fsync; "
    "held=$(busybox head -c 16777216 /dev/zero | busybox tr '\\0' x); echo ready; read line"
)
#: Takes ever more.
GROW = "exec /bin/busybox tail /dev/zero"


async def started(engine: Engine, workers: Workers, invocation: str, **limits: Any) -> Notes:
    """Start a server, and return what is told about it."""
    containers = DockerContainers(engine.config_without_network(), workers, reactor)
    settings = engine.server(invocation)
    # This kernel has no weights of disks.
    build = attrs.evolve(settings.build, io_weight=0, **limits)
    settings = attrs.evolve(settings, build=build)
    await containers.create(settings)
    notes = Notes()
    await containers.start(settings.uuid, notes)
    return notes


async def both(engine: Engine, notes: Notes) -> tuple[dict[str, float], dict[str, float]]:
    """Return figures of the only container that has said that it is ready, and the engine's."""
    await notes.seen(b"ready")
    (container,) = engine.client.containers()
    sample = await deferToThread(engine.client.stats, container["Id"], stream=False)
    await notes.measured(len(notes.usages) + 1)
    found = notes.usages[-1]
    assert found.oom_kills is not None, "it is read from the group; the engine does not have it"
    own = {
        "CPU": found.cpu_seconds,
        "memory": found.memory_bytes,
        "disk": present(found.disk_io).write_bytes,
        "processes": found.processes,
    }
    memory, disk = sample["memory_stats"], sample["blkio_stats"]["io_service_bytes_recursive"]
    others = {
        "CPU": sample["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        "memory": memory["usage"] - memory["stats"]["inactive_file"],
        "disk": sum(each["value"] for each in disk if each["op"] == "write"),
        "processes": sample["pids_stats"]["current"],
    }
    return {name: present(figure) for name, figure in own.items()}, others


async def test_figures_are_those_of_docker_stats(engine: Engine, workers: Workers) -> None:
    notes = await started(engine, workers, LOAD, cpu_limit=0)
    own, others = await both(engine, notes)
    assert own == pytest.approx(others, rel=0.02)
    assert own["disk"] >= 8 << 20


@pytest.mark.parametrize(("limit", "of_node"), [(64, False), (0, True)])
async def test_a_kill_by_its_own_limit_is_not_one_by_the_nodes(
    engine: Engine, workers: Workers, limit: int, of_node: bool
) -> None:
    notes = await started(engine, workers, GROW, memory_limit=limit)
    await notes.over()
    assert (notes.ends, notes.of_node) == ([(137, True)], of_node)
