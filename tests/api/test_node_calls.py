"""The calls about the node itself: its figures, its addresses and its engine's disk."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import attrs
import msgpack
import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tests.api.file_node import Make
from tests.api.node import UUID, ApiNode
from wingsd.config import CALAGOPUS, DockerConfig
from wingsd.docker.runtime import EngineDisk
from wingsd.errors import PruneInProgress
from wingsd.node import figures
from wingsd.panel.schemas import Allocations, Configuration, Process, Settings, Stop


async def test_the_machines_use_is_told_within_a_second(
    node: ApiNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def later(clock: IReactorTime, seconds: float) -> Deferred[None]:
        pauses.append(seconds)
        return deferLater(clock, seconds)

    monkeypatch.setattr(figures, "deferLater", later)
    reply = await node.call("GET", "system/utilization")
    assert 0 < sum(pauses) < 0.5
    told = reply.json
    assert reply.status == 200
    assert sorted(told) == [
        "cpu_percent",
        "disk_details",
        "disk_total",
        "disk_used",
        "load_average1",
        "load_average15",
        "load_average5",
        "memory_total",
        "memory_used",
        "swap_total",
        "swap_used",
    ]
    assert 0 < told["memory_used"] < told["memory_total"]
    assert 0 <= told["cpu_percent"] <= 100
    disks = told["disk_details"]
    assert told["disk_total"] == sum(disk["total_space"] for disk in disks)
    assert told["disk_used"] == sum(disk["used_space"] for disk in disks)
    for disk in disks:
        assert sorted(disk) == ["device", "mountpoint", "tags", "total_space", "used_space"]
    assert "Data" in [tag for disk in disks for tag in disk["tags"]]


async def test_pages_that_ask_at_once_get_one_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "KEPT", 3600.0)
    node = make()
    counted: list[Any] = []
    read: Callable[..., Any] = figures.read_counters

    def counting(*args: Any) -> Any:
        counted.append(args)
        return read(*args)

    monkeypatch.setattr(figures, "read_counters", counting)
    asking = [Deferred.fromCoroutine(node.call("GET", "system/utilization")) for _ in range(50)]
    answers = await gatherResults(asking)
    assert {answer.status for answer in answers} == {200}
    assert len(counted) == 2


async def test_a_system_that_hides_its_figures_is_an_error(
    node: ApiNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    reply = await node.call("GET", "system/utilization")
    assert (reply.status, reply.json["code"]) == (500, "figures-unavailable")


@pytest.mark.parametrize(("family", "key"), [("pelican", "ip_addresses"), (CALAGOPUS, "ips")])
async def test_addresses_are_in_the_form_of_the_panels_family(family: str, key: str) -> None:
    node = ApiNode()
    docker = DockerConfig(system_ips=("203.0.113.9",))
    node.config = attrs.evolve(node.config, family=family, docker=docker)
    node.start()
    reply = await node.call("GET", "system/ips")
    await node.close()
    assert reply.status == 200
    assert list(reply.json) == [key]
    assert reply.json[key][-1] == "203.0.113.9"
    assert "127.0.0.1" not in reply.json[key]


async def ports_in_use(node: ApiNode, *ips: str) -> tuple[int, dict[str, Any]]:
    """Return the answer to the call of Calagopus' Panel before it chooses an allocation."""
    query = "&".join(f"ip={ip.replace(':', '%3A')}" for ip in ips)
    reply = await node.call(
        "GET", f"ports/used?{query}", Accept="application/msgpack", Content_Type=None
    )
    return reply.status, msgpack.unpackb(reply.content)


async def test_ports_in_use_are_those_of_servers_and_of_the_machines_programs(
    node: ApiNode,
) -> None:
    allocations = Allocations(mappings={"198.51.100.7": (1, 2), "not-an-address": (3,)})
    settings = Settings(UUID, allocations=allocations)
    node.server.configuration = Configuration(settings, Process(stop=Stop("signal", "C")))
    with (
        socket.create_server(("127.0.0.9", 0)) as listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving,
    ):
        receiving.bind(("127.0.0.9", 0))
        status, answer = await ports_in_use(node, "198.51.100.7", "127.0.0.9", "2001:db8::0:7")
        ports = {listening.getsockname()[1], receiving.getsockname()[1]}
    assert status == 200
    assert list(answer) == ["used"]
    of_server, of_programs, _ = answer["used"].values()
    assert list(answer["used"]) == ["198.51.100.7", "127.0.0.9", "2001:db8::0:7"]
    assert of_server[:2] == [{"port": port, "server": UUID} for port in (1, 2)]
    assert ports <= {used["port"] for used in of_programs if "server" not in used}


async def test_ports_in_use_are_of_addresses_only(node: ApiNode) -> None:
    status, answer = await ports_in_use(node, "198.51.100.7", "example.com")
    assert (status, answer["code"], answer["detail"]) == (400, "bad-request", "not 'example.com'")


async def test_without_addresses_ports_are_those_of_the_nodes(node: ApiNode) -> None:
    ips = (await node.call("GET", "system/ips")).json["ip_addresses"]
    used = (await node.call("GET", "ports/used")).json["used"]
    assert set(used) <= set(ips)


async def test_no_port_is_free_before_the_servers_are_known(node: ApiNode) -> None:
    node.servers.loaded = False
    status, answer = await ports_in_use(node, "198.51.100.7")
    assert (status, answer["code"]) == (503, "servers-not-loaded")


class FakeEngine:
    """An engine whose images take long to be removed."""

    async def disk(self) -> EngineDisk:
        return EngineDisk(1, 2, 3, 4, 5)

    async def prune(self) -> dict[str, Any]:
        raise PruneInProgress


async def test_the_engines_disk_is_told() -> None:
    node = ApiNode()
    node.node_engine = FakeEngine()
    node.start()
    sizes = await node.call("GET", "system/docker/disk")
    pruned = await node.call("DELETE", "system/docker/image/prune")
    await node.close()
    assert sizes.json == {
        "containers_size": 1,
        "images_total": 2,
        "images_active": 3,
        "images_size": 4,
        "build_cache_size": 5,
    }
    assert (pruned.status, pruned.json["code"]) == (409, "prune-in-progress")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "docker/disk"), ("DELETE", "docker/image/prune")]
)
async def test_a_node_without_docker_says_so(node: ApiNode, method: str, path: str) -> None:
    reply = await node.call(method, f"system/{path}")
    assert (reply.status, reply.json["code"]) == (409, "engine-unavailable")


@pytest.mark.parametrize(
    "path", ["system/utilization", "system/ips", "system/docker/disk", "ports/used"]
)
async def test_the_token_is_needed(node: ApiNode, path: str) -> None:
    reply = await node.call("GET", path, Authorization="Bearer wrong")
    assert reply.status == 403
