"""How the node is, as its operator is told."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from tests.support.node_in_process import NodePair
from wingsd import __version__
from wingsd import control as module
from wingsd.docker.runtime import Cgroups, Containers, DockerInformation, Runc, Storage
from wingsd.errors import EnvironmentFailed, PanelRefused, PanelUnreachable

ENGINE = DockerInformation(
    "27.1", Cgroups("", ""), Containers(0, 0, 0, 0), Storage("", ""), Runc("")
)


async def gathered(nodes: NodePair) -> dict[str, Any]:
    found: dict[str, Any] = await nodes.source.status().get_status()
    return found


async def test_status_has_the_node_and_its_disks(nodes: NodePair) -> None:
    found = await gathered(nodes)
    assert (found["version"], found["pid"]) == (__version__, os.getpid())
    assert 0 <= found["uptime_seconds"] < 60
    assert found["address"] == nodes.source.url
    assert found["servers"] == {"loaded": False, "count": None, "running": None}
    assert found["transfers"] == {"receiving": 0, "sending": 0, "expected": 0}
    assert found["engine"] == {"enabled": False, "version": "", "error": "", "code": ""}
    assert found["limits"]["download_mib_per_second"] is None
    assert found["limits"]["concurrent"] == nodes.source.config.system.transfers.concurrent
    assert [disk["purpose"] for disk in found["disks"]] == ["servers", "arriving", "journal"]
    for disk in found["disks"]:
        held = os.statvfs(disk["path"])
        assert disk["total_bytes"] == held.f_blocks * held.f_frsize
        assert 0 < disk["free_bytes"] <= disk["total_bytes"]


async def test_arriving_servers_are_shown_where_they_are_received(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = nodes.source.status()
    staging = nodes.source.staging
    staging.close()
    # As where nothing beside `system.data` is on its file system.
    monkeypatch.setattr(staging, "_is_same_filesystem", lambda: False)
    staging.prepare()
    found = await asked.get_status()
    (arriving,) = [disk for disk in found["disks"] if disk["purpose"] == "arriving"]
    assert arriving["path"] == str(nodes.source.data / ".staging")


async def test_a_missing_disk_is_reported_with_its_error(nodes: NodePair) -> None:
    nodes.source.data.rename(nodes.source.directory / "elsewhere")
    found = await gathered(nodes)
    disk = found["disks"][0]
    assert (disk["free_bytes"], disk["error"]) == (None, "No such file or directory")


async def test_a_panel_that_answers_is_reachable(nodes: NodePair) -> None:
    nodes.source.panel.heard = time.time()
    panel = (await gathered(nodes))["panel"]
    assert (panel["reachable"], panel["error"]) == (True, "")
    assert panel["last_heard"] == nodes.source.panel.heard
    assert panel["url"] == "https://panel.invalid"


@pytest.mark.parametrize(
    ("error", "reachable", "says"),
    [
        (PanelUnreachable("the Panel did not answer", "refused"), False, "refused"),
        (PanelRefused("the Panel refused", "answered 401", 401), True, "answered 401"),
    ],
)
async def test_an_unreachable_or_refusing_panel_is_reported_with_its_reason(
    nodes: NodePair, error: Exception, reachable: bool, says: str
) -> None:
    nodes.source.panel.greeting = fail(error)
    panel = (await gathered(nodes))["panel"]
    assert (panel["reachable"], panel["error"]) == (reachable, says)


async def test_the_panel_and_the_engine_are_probed_with_a_timeout(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_TIMEOUT", 0.05)
    nodes.source.panel.greeting = Deferred()

    async def silent() -> DockerInformation:
        return await Deferred()

    nodes.source.set_engine(silent)
    found = await gathered(nodes)
    assert found["panel"]["error"] == "no answer within 0.05 s"
    assert found["engine"]["error"] == "no answer within 0.05 s"


async def test_status_has_the_engines_version_or_error(nodes: NodePair) -> None:
    async def answers() -> DockerInformation:
        return ENGINE

    async def does_not() -> DockerInformation:
        raise EnvironmentFailed("the socket is not there")

    nodes.source.set_engine(answers)
    engine = (await gathered(nodes))["engine"]
    assert engine == {"enabled": True, "version": "27.1", "error": "", "code": ""}
    nodes.source.set_engine(does_not)
    assert (await gathered(nodes))["engine"]["error"] == "the socket is not there"
