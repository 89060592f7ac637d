"""The node itself: its engine, its figures, its log, and what Panels read of it."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import msgpack
import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from tests.api.node import CONFIG, TOKEN, UUID, ApiNode
from tests.support.logged_errors import Logged
from wingsd import __release__, __version__
from wingsd.api import node as node_module
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL, DockerConfig, Registry, SystemConfig
from wingsd.docker.runtime import (
    Cgroups,
    Containers,
    DiskIo,
    DockerInformation,
    EngineDisk,
    NetworkUsage,
    Runc,
    RunningContainer,
    Storage,
)
from wingsd.errors import EngineUnavailable, EnvironmentFailed, PruneInProgress
from wingsd.node import diagnostics
from wingsd.node.logs import LogUnavailable
from wingsd.panel.schemas import Allocations, Configuration, Process, Settings, Stop
from wingsd.servers import PowerState
from wingsd.servers.server import ServerDetails, Utilization

Closing = Callable[[ApiNode], ApiNode]
ENGINE = DockerInformation(
    version="28.0.1",
    cgroups=Cgroups("systemd", "2"),
    containers=Containers(total=7, running=4, paused=1, stopped=2),
    storage=Storage("overlay2", "extfs"),
    runc=Runc("v1.2.5"),
)


@pytest.mark.promise("version-suits-the-panel")
@pytest.mark.parametrize("path", ["system", "system?v=2", "system/overview"])
@pytest.mark.parametrize(
    ("family", "version"),
    [(PTERODACTYL, __version__), (PELICAN, "develop"), (CALAGOPUS, __release__)],
)
async def test_each_familys_panel_gets_a_version_that_it_can_use(
    closing: Closing, family: str, version: str, path: str
) -> None:
    node = closing(ApiNode(attrs.evolve(CONFIG, family=family)))
    node.servers.known.clear()
    assert (await node.call("GET", path)).json["version"] == version


def asking(engine: Callable[[], Any]) -> ApiNode:
    """Return a node that asks an engine for its version."""
    return ApiNode(ask_engine=lambda: ensureDeferred(engine()))


async def test_version_2_describes_the_engine(closing: Closing) -> None:
    async def engine() -> DockerInformation:
        return ENGINE

    reply = await closing(asking(engine)).call("GET", "system?v=2")
    answer = reply.json
    machine = answer.pop("system")
    assert answer == {
        "version": __version__,
        "docker": {
            "version": "28.0.1",
            "cgroups": {"driver": "systemd", "version": "2"},
            "containers": {"total": 7, "running": 4, "paused": 1, "stopped": 2},
            "storage": {"driver": "overlay2", "filesystem": "extfs"},
            "runc": {"version": "v1.2.5"},
        },
    }
    total = Path("/proc/meminfo").read_text().split()[1]
    assert machine["memory_bytes"] == int(total) * 1024
    assert machine["cpu_threads"] == os.cpu_count()
    assert machine["os"] == platform.freedesktop_os_release()["PRETTY_NAME"]
    assert (machine["os_type"], machine["kernel_version"]) == ("linux", platform.release())


@pytest.mark.parametrize(
    ("answers", "why"), [(True, "it is not there"), (False, "no information within")]
)
async def test_an_engine_that_fails_or_says_nothing_is_left_out(
    closing: Closing, logged: Logged, monkeypatch: pytest.MonkeyPatch, answers: bool, why: str
) -> None:
    async def engine() -> DockerInformation:
        if answers:
            raise EnvironmentFailed("it is not there")
        return await Deferred[DockerInformation]()

    monkeypatch.setattr(node_module, "ENGINE_PATIENCE", 60 if answers else 0.01)
    reply = await closing(asking(engine)).call("GET", "system?v=2")
    assert (reply.status, sorted(reply.json)) == (200, ["system", "version"])
    assert [line for line in logged.lines if why in line]


USED = Utilization(
    1, 2, 3.5, 100, NetworkUsage(1, 2, 3, 4), DiskIo(7, 8), 5, PowerState.RUNNING, 6
)


async def test_the_overview_has_the_machine_and_its_servers(
    node: ApiNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.server, "state", PowerState.RUNNING, raising=False)
    told = (await node.call("GET", "system/overview")).json
    assert told["version"] == __version__
    assert datetime.fromisoformat(told["local_time"]).tzinfo is not None
    assert told["container_type"] in ("none", "unknown")
    assert sorted(told["cpu"]) == ["brand", "cpu_count", "frequency_mhz", "name", "vendor_id"]
    memory = told["memory"]
    assert memory["free_bytes"] + memory["used_bytes"] == memory["total_bytes"]
    assert 0 < memory["used_bytes_process"] < memory["used_bytes"]
    assert told["servers"] == {"total": 1, "online": 1, "offline": 0}
    assert told["architecture"]
    assert told["kernel_version"]


async def test_stats_are_of_the_whole_machine(node: ApiNode) -> None:
    told = (await node.call("GET", "system/stats")).json["stats"]
    assert 0 < told["memory"]["used_process"] < told["memory"]["used"] < told["memory"]["total"]
    assert 0 < told["disk"]["used"] < told["disk"]["total"]


async def test_the_use_of_all_servers_is_one_answer(
    node: ApiNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    details = ServerDetails(PowerState.RUNNING, False, USED, {})
    monkeypatch.setattr(node.server, "details", lambda: details)
    told = (await node.call("GET", "servers/utilization")).json
    assert list(told) == [UUID]
    assert told[UUID] == {
        "memory_bytes": 1,
        "memory_limit_bytes": 2,
        "cpu_absolute": 3.5,
        "cpu_limit_absolute": 100,
        "network": {"rx_bytes": 1, "tx_bytes": 2, "rx_packets": 3, "tx_packets": 4},
        "disk_io": {"read_bytes": 7, "write_bytes": 8},
        "uptime": 5,
        "state": "running",
        "disk_bytes": 6,
    }


@pytest.mark.parametrize(
    "path", ["servers/utilization", "system/overview", "ports/used?ip=198.51.100.7"]
)
async def test_before_the_servers_are_known_it_is_503(node: ApiNode, path: str) -> None:
    node.servers.loaded = False
    reply = await node.call("GET", path)
    assert (reply.status, reply.json["code"]) == (503, "servers-not-loaded")


async def test_the_configuration_has_all_of_its_file_and_no_secret(
    closing: Closing, tmp_path: Path
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        f"token: {TOKEN}\napi: {{max_jwt_uses: 5}}\nremote_headers: {{X-Proxy: a-secret}}\n"
        "debug: false\n"
    )
    node = closing(ApiNode(attrs.evolve(CONFIG, debug=True), str(path)))
    reply = await node.call("GET", "system/config")
    told = reply.json
    assert told["api"]["max_jwt_uses"] == 5
    assert told["api"]["port"] == 8080
    assert told["debug"] is True
    assert told["token"] == told["remote_headers"]["X-Proxy"] == ""
    assert TOKEN not in reply.text
    assert "a-secret" not in reply.text


@pytest.mark.parametrize("content", ["token: [", "- a list", None])
async def test_a_file_that_cannot_be_read_hides_nothing_in_force(
    closing: Closing, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.yml").write_text(content)
    reply = await closing(ApiNode(path=str(tmp_path / "config.yml"))).call("GET", "system/config")
    assert (reply.status, reply.json["remote"]) == (200, "https://panel.example.com")


@pytest.mark.parametrize("body", [None, {"url": "https://evil.example/wingsd"}, b"nonsense"])
async def test_an_upgrade_is_refused_with_what_to_do(node: ApiNode, body: Any) -> None:
    reply = await node.call("POST", "system/upgrade", body)
    assert (reply.status, reply.json["code"]) == (409, "conflict")
    assert "package manager" in reply.json["error"]


@pytest.fixture
def logging(closing: Closing, tmp_path: Path) -> ApiNode:
    (tmp_path / "logs").mkdir()
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / "logs" / "panel.log").write_text(f"one\ntwo with {TOKEN}\n")
    config = attrs.evolve(CONFIG, system=SystemConfig(log_directory=str(tmp_path / "logs")))
    return closing(ApiNode(config, log_source=lambda lines: ["from the journal"][-lines:]))


async def test_log_files_are_listed_and_shown_without_the_token(logging: ApiNode) -> None:
    files = (await logging.call("GET", "system/logs")).json["log_files"]
    panel = await logging.call("GET", "system/logs/panel.log?lines=1")
    own = await logging.call("GET", "system/logs/wingsd.log?lines=1000")
    assert [each["name"] for each in files] == ["panel.log", "wingsd.log"]
    assert sorted(files[0]) == ["compression_type", "last_modified", "name", "size"]
    assert (panel.status, panel.text) == (200, "two with {redacted}\n")
    assert own.text == "from the journal\n"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("..%2Fsecret", 404),
        ("%2e%2e%2fsecret", 404),
        ("none.log", 404),
        ("%ff%fe", 404),
        ("panel.log?lines=many", 400),
        ("panel.log?lines=-1", 400),
    ],
)
async def test_nonsense_is_refused(logging: ApiNode, path: str, status: int) -> None:
    reply = await logging.call("GET", f"system/logs/{path}")
    assert reply.status == status
    assert "a secret" not in reply.text


async def test_the_machines_use_is_told(node: ApiNode) -> None:
    reply = await node.call("GET", "system/utilization")
    told = reply.json
    assert reply.status == 200

    assert 0 < told["memory_used"] < told["memory_total"]
    assert 0 <= told["cpu_percent"] <= 100
    disks = told["disk_details"]
    assert told["disk_total"] == sum(disk["total_space"] for disk in disks)
    assert told["disk_used"] == sum(disk["used_space"] for disk in disks)
    for disk in disks:
        assert sorted(disk) == ["device", "mountpoint", "tags", "total_space", "used_space"]
    assert "Data" in [tag for disk in disks for tag in disk["tags"]]


async def test_a_system_that_hides_its_figures_is_an_error(
    node: ApiNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    reply = await node.call("GET", "system/utilization")
    assert (reply.status, reply.json["code"]) == (500, "figures-unavailable")


@pytest.mark.parametrize(("family", "key"), [("pelican", "ip_addresses"), (CALAGOPUS, "ips")])
async def test_addresses_are_in_the_form_of_the_panels_family(
    closing: Closing, family: str, key: str
) -> None:
    docker = DockerConfig(system_ips=("203.0.113.9",))
    node = closing(ApiNode(attrs.evolve(CONFIG, family=family, docker=docker)))
    reply = await node.call("GET", "system/ips")
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


class FakeEngine:
    """An engine with one container, or with nothing to say, whose images take long to remove."""

    def __init__(self, fault: Exception | None = None) -> None:
        self._fault = fault

    async def disk(self) -> EngineDisk:
        return EngineDisk(1, 2, 3, 4, 5)

    async def prune(self) -> dict[str, Any]:
        raise PruneInProgress

    async def report(self, patience: float) -> dict[str, Any]:
        if self._fault is not None:
            raise self._fault
        return {
            "ServerVersion": "28.0.1",
            "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "extfs"]],
            "Warnings": ["WARNING: No swap limit support"],
        }

    async def containers(self, patience: float) -> list[RunningContainer]:
        if self._fault is not None:
            raise self._fault
        return [RunningContainer("0123456789ab", "a-server", "yolks:java_21", "Up 3 hours")]


async def test_the_engines_disk_is_told(closing: Closing) -> None:
    node = closing(ApiNode(engine=FakeEngine()))
    sizes = await node.call("GET", "system/docker/disk")
    pruned = await node.call("DELETE", "system/docker/image/prune")
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


LINES = [
    f"the Panel sent {TOKEN}",
    "the Panel at https://panel.example.com is not reachable",
    "the registry refuses hunter2hunter2",
]


def logged_lines(lines: int) -> list[str]:
    return LINES[-lines:]


def diagnosed(log_source: Any = logged_lines, engine: FakeEngine | None = None) -> ApiNode:
    registries = {"ghcr.io": Registry("someone", "hunter2hunter2")}
    config = attrs.evolve(CONFIG, docker=DockerConfig(registries=registries))
    return ApiNode(config, engine=engine or FakeEngine(), log_source=log_source)


async def report(node: ApiNode, query: str = "") -> str:
    reply = await node.call("GET", f"diagnostics{query}")
    await node.close()
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    return reply.text


async def test_the_report_has_all_parts_and_no_secret() -> None:
    text = await report(diagnosed())
    assert text.startswith("wingsd - Diagnostics Report\n")
    for part in (__version__, "28.0.1", "Backing Filesystem: extfs", "No swap limit support"):
        assert part in text
    assert "0123456789ab" in text
    assert "a-server" in text
    assert "system.data: /var/lib/pterodactyl/volumes" in text
    assert "the Panel at https://{redacted} is not reachable" in text
    for secret in (TOKEN, "hunter2hunter2", "panel.example.com", "ghcr.io"):
        assert secret not in text


async def test_endpoints_are_shown_where_they_are_asked_for() -> None:
    text = await report(diagnosed(), "?include_endpoints=true")
    assert "remote: https://panel.example.com" in text
    assert TOKEN not in text
    assert "hunter2hunter2" not in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?log_lines=1", LINES[-1:]),
        ("?log_lines=99999999999999999999", LINES),
        ("?log_lines=0", []),
        ("?include_logs=false", []),
        ("?include_logs=0", []),
    ],
)
async def test_the_log_is_as_long_as_asked_for(query: str, expected: list[str]) -> None:
    text = await report(diagnosed(), query)
    assert [line for line in LINES if line.split()[-2] in text.partition("Latest Logs")[2]] == (
        expected
    )


@pytest.mark.parametrize(
    "query",
    [
        "log_lines=many",
        "log_lines=-1",
        "log_lines=%C2%B2",
        "include_logs=2",
        "include_endpoints=a",
    ],
)
async def test_nonsense_in_the_query_is_400(closing: Closing, query: str) -> None:
    reply = await closing(diagnosed()).call("GET", f"diagnostics?{query}")
    assert (reply.status, reply.json["code"]) == (400, "bad-request")
    assert query.partition("=")[0] in reply.json["error"]


async def test_what_fails_is_replaced_by_its_reason() -> None:
    def broken(_: int) -> list[str]:
        raise LogUnavailable("journalctl: no permission")

    text = await report(diagnosed(broken, FakeEngine(EngineUnavailable("the engine has gone"))))
    assert text.count("the engine has gone") == 2
    assert "not available: journalctl: no permission" in text
    assert "system.data: " in text


async def test_a_log_that_is_not_read_in_time_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diagnostics, "PATIENCE", 0.01)
    monkeypatch.setattr(diagnostics.OwnLog, "_read", lambda _: Deferred())
    assert "not read within" in await report(diagnosed())
