"""Histories of a real daemon: points by the clock, over kills, reloads and the end of servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemon.test_metrics import LOOPBACK, scraped
from tests.metrics.exposed import Samples
from tests.support.archives import seen
from tests.support.docker_engine import Engine
from tests.support.points import rebuild
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID
from wingsd.history.format import PIECE
from wingsd.history.store import HistoryStore

GIB = 1 << 30
#: Counts in a file, and prints it, until it is asked to end.
COUNTING = (
    "cd /home/container; n=0; trap 'echo saved $n > last; exit 0' TERM; echo listening on; "
    "while :; do n=$((n+1)); echo $n > counter; sleep 0.05; done"
)


def settings(daemon: ReceivingNode, **history: Any) -> dict[str, Any]:
    """Return settings by which a point is made each second, and each is kept."""
    place = daemon.directory / "history"
    place.mkdir(exist_ok=True)
    usual = {"every": "1s", "keep": {"1h": 3_600_000_000}, "directory": str(place)}
    return {"history": usual | history}


async def shown(daemon: ReceivingNode, is_so: Callable[[Any], object]) -> Any:
    """Return the server's history when it is so."""
    while True:
        ran = await daemon.wingsctl("history", UUID, "--json")
        if ran.status == 0 and is_so(ran.json):
            return ran.json


def rebuilt(daemon: ReceivingNode, number: int, target: Path) -> Any:
    """Return what a point has, which is rebuilt without the daemon."""
    target.mkdir()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    store = HistoryStore(str(daemon.directory / "history" / UUID))
    try:
        rebuild(store, number, fd)
    finally:
        store.close()
        os.close(fd)
    return seen(target)


@pytest.mark.promise("history-points")
async def test_points_are_made_over_kills_and_can_be_rebuilt(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    home = daemon.own(UUID)
    world = home / "world.dat"
    world.write_bytes(b"first" * 10_000)
    os.utime(world, (1, 1))
    first = seen(home)
    await daemon.start_loaded(system=settings(daemon), metrics=LOOPBACK)
    found = await shown(daemon, lambda each: each["points"])
    oldest = found["points"][-1]["number"]
    assert (found["trouble"], found["late"]) == ("", False)
    await daemon.kill()
    assert rebuilt(daemon, oldest, tmp_path / "first") == first
    world.write_bytes(b"second")
    await daemon.start_loaded(system=settings(daemon), metrics=LOOPBACK)
    found = await shown(daemon, lambda each: len(each["points"]) >= 2)
    newest = found["points"][0]
    assert (newest["label"], newest["files"], newest["bytes"]) == ("stopped", 1, 6)
    figures = Samples(await scraped(daemon))
    assert figures.get("wingsd_histories") == 1
    assert figures.get("wingsd_histories_troubled", state="failing") == 0
    assert (figures.get("wingsd_history_points") or 0) >= 2
    assert (figures.get("wingsd_history_points_made_total") or 0) >= 1
    assert "1 with 2 points" in (await daemon.wingsctl("status")).out
    ran = await daemon.wingsctl("history", "verify", UUID)
    assert ran.out == f"{UUID}: its history is whole\n"
    daemon.signal("TERM")
    assert await daemon.ended() == -signal.SIGTERM
    assert rebuilt(daemon, oldest, tmp_path / "again") == first
    assert rebuilt(daemon, newest["number"], tmp_path / "second") == seen(home)


@pytest.mark.promise("history-files-are-whole")
async def test_a_point_is_labelled_stopped_only_while_no_container_runs(
    daemon: ReceivingNode, engine: Engine
) -> None:
    home = daemon.own(UUID)
    home.chmod(0o777)
    described = daemon.panel.settings_of(UUID)
    described["invocation"], described["container"]["image"] = COUNTING, engine.image
    changes = engine.for_node(UUID) | {"system": settings(daemon, every="1h")}
    await daemon.start_loaded(**changes)

    async def power(action: str, state: str) -> None:
        mark = len(daemon.log)
        body = ("-H", "Content-Type: application/json", "-d", json.dumps({"action": action}))
        path = f"/api/servers/{UUID}/power"
        assert (await daemon.curl(*body, token=daemon.node.token, path=path))[0] == 202
        await daemon.wait_for_line(f"{UUID}: {state}", since=mark)

    async def label() -> str:
        """Make a point of what has changed; return its label."""
        made = None
        while made is None:  # The point of the daemon's start may have been faster.
            (home / "note").write_text(str(time.monotonic_ns()))
            ran = await daemon.wingsctl("history", "make", UUID, "--json")
            assert ran.status == 0, ran.err
            made = ran.json["point"]
        found = await shown(daemon, lambda each: each["points"])
        return next(str(each["label"]) for each in found["points"] if each["number"] == made)

    assert await label() == "stopped"
    await power("start", "running")
    assert await label() == "running"
    await power("stop", "offline")
    assert await label() == "stopped"
    await power("start", "running")
    await daemon.kill()
    await daemon.start_loaded(**changes)
    assert await label() == "running"
    await power("kill", "offline")
    assert await label() == "stopped"
    # by somebody else than the daemon
    engine.client.start(UUID)
    assert await label() == "running"


async def test_a_reload_ends_and_begins_points_and_a_deletion_removes_them(
    daemon: ReceivingNode,
) -> None:
    home = daemon.own(UUID)
    off = settings(daemon, every=0)
    await daemon.start_loaded(system=off)
    await daemon.wingsctl("status")
    directory = daemon.directory / "history"
    assert os.listdir(directory) == []
    path = daemon.directory / "config.yml"
    config = yaml.safe_load(path.read_text())
    config["system"]["history"]["every"] = "1s"
    path.write_text(yaml.safe_dump(config))
    daemon.signal("HUP")
    await shown(daemon, lambda each: each["points"])
    await daemon.wait_for_line("is on the file system of system.data")
    (home / "new").write_text("new")
    status, _ = await daemon.curl(
        "-X", "DELETE", token=daemon.node.token, path=f"/api/servers/{UUID}"
    )
    assert status == 204
    await daemon.wait_for_line(f"{UUID}: its history is removed")
    assert os.listdir(directory) == []


async def test_the_end_of_the_daemon_interrupts_a_point(daemon: ReceivingNode) -> None:
    home = daemon.own(UUID)
    with (home / "large").open("wb") as file:
        for at in range(0, 5 * GIB, PIECE):  # no piece is a hole
            os.pwrite(file.fileno(), b"1", at)
    await daemon.start_loaded(system=settings(daemon))
    incoming = daemon.directory / "history" / UUID / "incoming"
    await until(lambda: incoming.exists() and os.listdir(incoming))
    daemon.signal("TERM")
    assert await daemon.ended() == -signal.SIGTERM
    assert not daemon.lines_with("the disk of histories does not answer")
    (home / "large").unlink()
    (home / "small").write_text("small")
    await daemon.start_loaded(system=settings(daemon))
    found = await shown(daemon, lambda each: each["points"])
    assert [(each["number"], each["files"]) for each in found["points"]] == [(1, 1)]


def test_a_node_without_histories_imports_none_of_their_code() -> None:
    program = (
        "import sys, wingsd.app.wiring, wingsd.control, wingsd.metrics\n"
        "print(*(each for each in sys.modules if each.startswith('wingsd.histor')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # The second has the names of backups.
    assert sorted(ran.stdout.split()) == [
        "wingsd.histories",
        "wingsd.history",
        "wingsd.history.names",
    ]
