"""Limits that change while a container runs: what the engine is asked for, and what it does."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tests.docker.containers import NODE
from tests.docker.watcher import Notes
from tests.support.docker_engine import Engine
from tests.support.reactor import reactor
from wingsd.config import CALAGOPUS
from wingsd.docker.containers import (
    UNLIMITED_SWAP,
    DockerContainers,
    limit_changes,
    update_values,
)
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Build
from wingsd.threadio import Workers

MACHINE = {"MemTotal": 8_000_000_000, "NCPU": 4}
LIMITED = Build(memory_limit=1000, swap=0, cpu_limit=50, threads="0", io_weight=500)
MEMORY = 1_150_000_000


def changed(**build: Any) -> dict[str, Any]:
    return limit_changes(NODE, LIMITED, attrs.evolve(LIMITED, **build))


@pytest.mark.parametrize(
    ("build", "changes", "values"),
    [
        ({}, {}, {}),
        ({"disk_space": 5}, {}, {}),
        ({"cpu_limit": 150}, {"CpuQuota": 150_000}, {"CpuQuota": 150_000}),
        (
            {"cpu_limit": 0},
            {"CpuQuota": 0, "CpuPeriod": 0, "CpuShares": 0},
            {"CpuQuota": -1},
        ),
        ({"threads": "1-2"}, {"CpusetCpus": "1-2"}, {"CpusetCpus": "1-2"}),
        ({"threads": None}, {"CpusetCpus": 0}, {"CpusetCpus": "0-3"}),
        ({"io_weight": 300}, {"BlkioWeight": 300}, {"BlkioWeight": 300}),
        (
            {"swap": -1},
            {"Memory": MEMORY, "MemoryReservation": 10**9, "MemorySwap": -1},
            {"Memory": MEMORY, "MemoryReservation": 10**9, "MemorySwap": UNLIMITED_SWAP},
        ),
        (
            {"memory_limit": 0},
            {"Memory": 0, "MemoryReservation": 0, "MemorySwap": 0},
            {"Memory": 8 * 10**9, "MemoryReservation": 8 * 10**9, "MemorySwap": UNLIMITED_SWAP},
        ),
    ],
)
def test_the_update_has_what_has_changed(
    build: dict[str, Any], changes: dict[str, Any], values: dict[str, Any]
) -> None:
    assert changed(**build) == changes
    assert update_values(changes, MACHINE) == values


async def test_changed_limits_reach_the_running_container(
    engine: Engine, workers: Workers
) -> None:
    environment = DockerContainers(engine.config_without_network(), workers, reactor)
    server = engine.server("sleep 600")
    before = server.build
    after = Build(memory_limit=128, swap=-1, cpu_limit=20)
    assert await environment.update(server.uuid, before, after) == []
    await environment.create(server)
    # Between its making and its start.
    less = Build(memory_limit=64, cpu_limit=40)
    assert await environment.update(server.uuid, before, less) == []
    before = less

    running = await environment.start(server.uuid, Notes())
    try:
        assert limits(engine, server.uuid)["CpuQuota"] == 40_000
        assert await environment.update(server.uuid, before, after) == []
        found = limits(engine, server.uuid)
        assert found["Memory"] == round(128_000_000 * 1.15)
        assert engine.client.inspect_container(server.uuid)["State"]["Running"]
        assert (found["MemorySwap"], found["CpuQuota"]) == (UNLIMITED_SWAP, 20_000)

        assert await environment.update(server.uuid, after, Build()) == []
        found = limits(engine, server.uuid)
        assert found["Memory"] == engine.client.info()["MemTotal"]
        assert found["CpuQuota"] == -1

        with pytest.raises(EnvironmentFailed, match="Docker refuses: Minimum memory limit"):
            await environment.update(server.uuid, Build(), Build(memory_limit=1))
        with pytest.raises(EnvironmentFailed, match="Docker refuses"):
            await environment.update(server.uuid, Build(), Build(threads="4000"))
        assert limits(engine, server.uuid) == found
    finally:
        running.detach()


@pytest.mark.promise("calagopus-memory-limits")
async def test_a_changed_limit_leaves_calagopus_servers_the_engines_default_of_swap(
    engine: Engine, workers: Workers
) -> None:
    config = attrs.evolve(engine.config_without_network(), family=CALAGOPUS)
    environment = DockerContainers(config, workers, reactor)
    server = engine.server("sleep 600")
    before, after = Build(memory_limit=100), Build(memory_limit=200)
    await environment.create(attrs.evolve(server, build=before))
    running = await environment.start(server.uuid, Notes())
    try:
        made = limits(engine, server.uuid)
        assert made["MemorySwap"] == 2 * made["Memory"]
        assert await environment.update(server.uuid, before, after) == []
        found = limits(engine, server.uuid)
        assert (found["Memory"], found["MemorySwap"]) == (2 * made["Memory"], 4 * made["Memory"])
    finally:
        running.detach()


async def test_the_container_of_another_node_keeps_its_limits(
    engine: Engine, workers: Workers
) -> None:
    config = engine.config_without_network()
    environment = DockerContainers(config, workers, reactor)
    server = engine.server("sleep 600")
    await environment.create(server)
    running = await environment.start(server.uuid, Notes())
    system = attrs.evolve(config.system, data="/var/lib/other")
    other = DockerContainers(attrs.evolve(config, system=system), workers, reactor)
    try:
        assert await other.update(server.uuid, server.build, Build(cpu_limit=10)) == []
        assert limits(engine, server.uuid)["CpuQuota"] == 50_000
    finally:
        running.detach()


def limits(engine: Engine, uuid: str) -> dict[str, Any]:
    host: dict[str, Any] = engine.client.inspect_container(uuid)["HostConfig"]
    names = ("Memory", "MemorySwap", "CpuQuota", "CpusetCpus")
    return {name: host[name] for name in names}
