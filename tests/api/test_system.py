"""`/api/system`: what the node runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from unittest.mock import Mock

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.api.node import ApiNode
from tests.support.logged_errors import Logged
from wingsd import __release__, __version__
from wingsd.api import node as node_module
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.docker.runtime import Cgroups, Containers, DockerInformation, Runc, Storage
from wingsd.errors import EnvironmentFailed

ENGINE = DockerInformation(
    version="28.0.1",
    cgroups=Cgroups("systemd", "2"),
    containers=Containers(total=7, running=4, paused=1, stopped=2),
    storage=Storage("overlay2", "extfs"),
    runc=Runc("v1.2.5"),
)


async def test_the_system_is_described(node: ApiNode) -> None:
    reply = await node.call("GET", "system")
    assert reply.status == 200
    assert reply.json == {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "cpu_count": os.cpu_count(),
        "kernel_version": Path("/proc/sys/kernel/osrelease").read_text().strip(),
        "os": "linux",
        "version": __version__,
    }


@pytest.mark.promise("version-suits-the-panel")
@pytest.mark.parametrize("path", ["system", "system?v=2", "system/overview"])
@pytest.mark.parametrize(
    ("family", "version"),
    [(PTERODACTYL, __version__), (PELICAN, "develop"), (CALAGOPUS, __release__)],
)
async def test_each_familys_panel_gets_a_version_that_it_can_use(
    family: str, version: str, path: str
) -> None:
    node = ApiNode()
    node.use(attrs.evolve(node.config, family=family))
    node.servers.known.clear()
    node.start()
    assert (await node.call("GET", path)).json["version"] == version
    await node.close()


async def test_version_2_describes_the_engine() -> None:
    async def engine() -> DockerInformation:
        return ENGINE

    node = ApiNode()
    node.engine = engine
    node.start()
    reply = await node.call("GET", "system?v=2")
    await node.close()
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


async def test_an_engine_that_does_not_answer_is_left_out(logged: Logged) -> None:
    async def engine() -> DockerInformation:
        raise EnvironmentFailed("it is not there")

    node = ApiNode()
    node.engine = engine
    node.start()
    reply = await node.call("GET", "system?v=2")
    await node.close()
    assert (reply.status, sorted(reply.json)) == (200, ["system", "version"])
    assert [line for line in logged.lines if "it is not there" in line]


async def test_an_engine_that_says_nothing_is_left_out(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "ENGINE_PATIENCE", 0.01)
    node = ApiNode()
    node.engine = Deferred
    node.start()
    reply = await node.call("GET", "system?v=2")
    await node.close()
    assert (reply.status, sorted(reply.json)) == (200, ["system", "version"])
    assert [line for line in logged.lines if "no information within" in line]


async def test_a_disabled_engine_is_left_out(node: ApiNode) -> None:
    reply = await node.call("GET", "system?v=2")
    assert (reply.status, sorted(reply.json)) == (200, ["system", "version"])


async def test_a_system_without_os_release_is_named_by_its_kernel(
    node: ApiNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        platform, "freedesktop_os_release", Mock(side_effect=FileNotFoundError("/etc/os-release"))
    )
    reply = await node.call("GET", "system?v=2")
    assert reply.json["system"]["os"] == "Linux"
