"""An operator's command, and a real daemon with its Panel."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from tests.command import WINGSCTL
from tests.daemon.daemon import reactor
from tests.daemon.harness import UUID, House, archive
from tests.daemon.operator import wingsctl
from tests.daemon.uploads import Sender
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


@pytest_twisted.ensureDeferred
async def test_a_transfer_by_the_panel_is_watched_to_its_end(house: House) -> None:
    await house.start()
    await house.loaded()
    watch = Watch()
    command = [*WINGSCTL, "--socket", str(house.control), "transfers", "--watch", "--json"]
    process: Any = reactor.spawnProcess(watch, command[0], command, env=os.environ)
    sender = Sender(house, archive(3_000_000))
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    found = (await wingsctl(house, "show", UUID, "--json")).json["running"]
    assert (found["direction"], found["step"], found["by_hand"]) == ("in", "receive", False)
    assert found["total_bytes"] is None
    assert await sender.finish() == (200, b"")
    ran = await wingsctl(house, "transfers", "--json")
    (past,) = ran.json["past"]
    assert (past["server"], past["outcome"], past["by_hand"]) == (UUID, "success", False)
    assert (past["bytes"], past["files"]) == (len(archive(3_000_000)), 2)
    while not watch.seen or not watch.seen[-1]["past"]:
        await wingsctl(house, "--version")
    process.signalProcess("INT")
    assert await watch.ended == 0
    assert any(look["running"] for look in watch.seen)


@pytest_twisted.ensureDeferred
async def test_how_the_node_is(house: House) -> None:
    await house.start()
    await house.loaded()
    found = (await wingsctl(house, "status", "--json")).json
    assert (found["version"], found["pid"]) == (__version__, house.pid)
    assert found["panel"]["reachable"]
    assert found["panel"]["error"] == ""
    assert found["servers"] == {"loaded": True, "count": 0, "running": 0}
    assert "answers" in (await wingsctl(house, "status")).out
    checked = await wingsctl(house, "check-config", str(house.directory / "config.yml"), "--json")
    # Another port than the one it listens at by its option.
    assert (checked.status, checked.json["errors"]) == (0, [])


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_was_killed_leaves_its_socket_to_the_next(house: House) -> None:
    await house.start()
    house.signal("KILL")
    await house.ended()
    assert stat.S_ISSOCK(house.control.lstat().st_mode)
    assert (await wingsctl(house, "status")).status == 3
    await house.start()
    assert (await wingsctl(house, "status")).status == 0
    assert stat.S_IMODE(house.control.stat().st_mode) == 0o660
    house.signal("TERM")
    await house.ended()
    assert not house.control.exists()
    assert (await wingsctl(house, "status")).status == 3


@pytest_twisted.ensureDeferred
async def test_without_a_socket_it_runs_all_the_same(house: House) -> None:
    await house.start(control={"socket": str(house.directory / "no" / "control.sock")})
    assert "there is no directory" in await house.wait_for_line("wingsctl cannot speak")
    assert await house.upload(archive()) == (200, None)
