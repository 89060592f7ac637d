"""An operator's command, and a real daemon with its Panel."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from tests.support.command import WINGSCTL
from tests.support.node_process import reactor
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import begun
from wingsd import __version__


class Watch(ProcessProtocol):
    """`wingsctl transfers --watch --json`: a line for each look at the transfers."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.ended: Deferred[int] = Deferred()
        self._rest = b""

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.seen += map(json.loads, lines)

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(reason.value.exitCode)


async def test_a_transfer_by_the_panel_is_watched_to_its_end(daemon: ReceivingNode) -> None:
    await daemon.start_loaded()
    watch = Watch()
    command = [*WINGSCTL, "--socket", str(daemon.control), "transfers", "--watch", "--json"]
    process: Any = reactor.spawnProcess(watch, command[0], command, env=os.environ)
    sender = await begun(daemon, archive(3_000_000), until="receiving the archive")
    found = (await daemon.wingsctl("show", UUID, "--json")).json["running"]
    assert (found["direction"], found["step"], found["by_hand"]) == ("in", "receive", False)
    assert found["total_bytes"] is None
    while not any(look["running"] for look in watch.seen):
        await daemon.wingsctl("--version")
    assert await sender.finish() == (200, b"")
    ran = await daemon.wingsctl("transfers", "--json")
    (past,) = ran.json["past"]
    assert (past["server"], past["outcome"], past["by_hand"]) == (UUID, "success", False)
    assert (past["bytes"], past["files"]) == (len(archive(3_000_000)), 2)
    while not watch.seen or not watch.seen[-1]["past"]:
        await daemon.wingsctl("--version")
    process.signalProcess("INT")
    assert await watch.ended == 0


async def test_status_and_check_config_describe_the_node(daemon: ReceivingNode) -> None:
    await daemon.start_loaded()
    found = (await daemon.wingsctl("status", "--json")).json
    assert (found["version"], found["pid"]) == (__version__, daemon.pid)
    assert found["panel"]["reachable"]
    assert found["panel"]["error"] == ""
    assert found["servers"] == {"loaded": True, "count": 0, "running": 0}
    assert "is reachable" in (await daemon.wingsctl("status")).out
    checked = await daemon.wingsctl("check-config", str(daemon.directory / "config.yml"), "--json")
    # Another port than the one it listens at by its option.
    assert (checked.status, checked.json["errors"]) == (0, [])


async def test_the_control_socket_of_a_killed_daemon_is_replaced(running: ReceivingNode) -> None:
    await running.kill()
    assert stat.S_ISSOCK(running.control.lstat().st_mode)
    assert (await running.wingsctl("status")).status == 3
    await running.start()
    assert (await running.wingsctl("status")).status == 0
    assert stat.S_IMODE(running.control.stat().st_mode) == 0o660
    running.signal("TERM")
    await running.ended()
    assert not running.control.exists()
    assert (await running.wingsctl("status")).status == 3


async def test_the_daemon_runs_without_a_control_socket(daemon: ReceivingNode) -> None:
    await daemon.start(control={"socket": str(daemon.directory / "no" / "control.sock")})
    assert "there is no directory" in await daemon.wait_for_line("no control socket at")
    assert await daemon.upload(archive()) == (200, None)
