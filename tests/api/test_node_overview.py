"""The calls of Calagopus' Panel about the node itself."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.api.node import TOKEN, UUID, ApiNode
from wingsd import __version__
from wingsd.config import SystemConfig
from wingsd.docker.runtime import DiskIo, NetworkUsage
from wingsd.servers import PowerState
from wingsd.servers.server import ServerDetails, Utilization

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
    assert sorted(told["cpu"]) == ["model", "threads", "used"]
    assert sorted(told["network"]) == [
        "received",
        "received_packets",
        "received_packets_rate",
        "receiving_rate",
        "sending_packets_rate",
        "sending_rate",
        "sent",
        "sent_packets",
    ]
    assert 0 < told["memory"]["used_process"] < told["memory"]["used"] < told["memory"]["total"]
    assert 0 < told["disk"]["used"] < told["disk"]["total"]
    assert sorted(told["disk"]) == [
        "read",
        "reading_rate",
        "total",
        "used",
        "writing_rate",
        "written",
    ]


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


@pytest.mark.parametrize("path", ["servers/utilization", "system/overview"])
async def test_before_the_servers_are_known_it_is_503(node: ApiNode, path: str) -> None:
    node.servers.loaded = False
    reply = await node.call("GET", path)
    assert (reply.status, reply.json["code"]) == (503, "servers-not-loaded")


async def test_the_configuration_has_all_of_its_file_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        f"token: {TOKEN}\napi: {{max_jwt_uses: 5}}\nremote_headers: {{X-Proxy: a-secret}}\n"
        "debug: false\n"
    )
    node = ApiNode()
    node.config_file = str(path)
    node.config = attrs.evolve(node.config, debug=True)
    node.start()
    reply = await node.call("GET", "system/config")
    await node.close()
    told = reply.json
    assert told["api"]["max_jwt_uses"] == 5
    assert told["api"]["port"] == 8080
    assert told["debug"] is True
    assert told["token"] == told["remote_headers"]["X-Proxy"] == ""
    assert TOKEN not in reply.text
    assert "a-secret" not in reply.text


@pytest.mark.parametrize("content", ["token: [", "- a list", None])
async def test_a_file_that_cannot_be_read_hides_nothing_in_force(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.yml").write_text(content)
    node = ApiNode()
    node.config_file = str(tmp_path / "config.yml")
    node.start()
    reply = await node.call("GET", "system/config")
    await node.close()
    assert (reply.status, reply.json["remote"]) == (200, "https://panel.example.com")


@pytest.mark.parametrize("body", [None, {"url": "https://evil.example/wingsd"}, b"nonsense"])
async def test_an_upgrade_is_refused_with_what_to_do(node: ApiNode, body: Any) -> None:
    reply = await node.call("POST", "system/upgrade", body)
    assert (reply.status, reply.json["code"]) == (409, "conflict")
    assert "package manager" in reply.json["error"]


@pytest.fixture
def logging(tmp_path: Path) -> ApiNode:
    (tmp_path / "logs").mkdir()
    (tmp_path / "secret").write_text("a secret")
    made = ApiNode()
    made.config = attrs.evolve(
        made.config, system=SystemConfig(log_directory=str(tmp_path / "logs"))
    )
    (tmp_path / "logs" / "panel.log").write_text(f"one\ntwo with {TOKEN}\n")
    made.log_source = lambda lines: ["from the journal"][-lines:]
    made.start()
    return made


async def test_log_files_are_listed_and_shown_without_the_token(logging: ApiNode) -> None:
    files = (await logging.call("GET", "system/logs")).json["log_files"]
    panel = await logging.call("GET", "system/logs/panel.log?lines=1")
    own = await logging.call("GET", "system/logs/wingsd.log?lines=1000")
    await logging.close()
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
    await logging.close()
    assert reply.status == status
    assert "a secret" not in reply.text
