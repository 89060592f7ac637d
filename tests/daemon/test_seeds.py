"""Copies that follow a server whose container runs and writes, between two real daemons."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.test_direct_transfers import invite
from tests.daemon.test_live_moves import lines, runs, start
from tests.support.archives import seen
from tests.support.docker_engine import Engine
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

MIB = 1 << 20
#: Writes a little, all the time.
WRITER = """
cd /home/container
trap 'echo saved at the end > world/saved; exit 0' TERM
echo listening on
while :; do
  n=$((n + 1))
  echo "line $n" >> latest.log
  dd if=/dev/urandom of=world/region.mca bs=4096 count=1 seek=$((n % 500)) conv=notrunc 2>/dev/null
  sleep 0.1
done
"""


async def seeded(nodes: TwoNodes, engine: Engine, *, stop_after: float = 0) -> Path:
    """Have the server run at the source, and a copy follow it; return its directory.

    It is moved `stop_after` seconds from now, if that is given.
    """
    for node in (nodes.source, nodes.destination):
        node.transfers = {"live": {"follow_every": 1}}
    files = await start(nodes, engine, WRITER)
    words = await invite(nodes, "--follow")
    assert "--follow" in words
    if stop_after:
        at = datetime.now() + timedelta(seconds=stop_after)
        words += ["--stop-at", f"{at:%Y-%m-%d %H:%M:%S}"]
    sent = await nodes.source.wingsctl(*words)
    assert (sent.status, sent.err) == (0, ""), sent
    assert "a copy follows it" in sent.out
    return files


async def follow(nodes: TwoNodes) -> Any:
    """Return what the source says of the copy."""
    listed = (await nodes.source.wingsctl("transfers", "--json")).json["running"]
    return listed[0]["follow"] if listed else None


async def followed(nodes: TwoNodes) -> None:
    """Return when there was a whole round, by this daemon of the source, and another one."""
    while not (now := await follow(nodes)) or now["rounds"] < 2:
        pass
    assert now["whole_at"] is not None
    assert now["trouble"] is None


@pytest.mark.promise("seed-follows-its-server")
async def test_the_panels_order_sends_only_what_has_changed_since(
    engine: Engine, nodes: TwoNodes
) -> None:
    files = await seeded(nodes, engine)
    await followed(nodes)
    await nodes.destination.kill()
    await nodes.destination.start_loaded()
    await nodes.source.kill()
    written = lines(files)
    await until(lambda: lines(files) > written)
    await nodes.source.start_loaded(**engine.for_node(UUID))
    await followed(nodes)
    assert runs(engine, files)
    shown = (await nodes.source.wingsctl("transfers")).out
    assert "the copy is" in shown
    assert "s of downtime" in shown
    # Nobody has heard of it so far.
    assert nodes.panel.reports() == []
    sent = nodes.destination.line.sent
    report = nodes.panel.hold("/transfer/success")
    await nodes.transfer()
    await nodes.panel.called("/transfer/success")
    assert nodes.destination.line.sent - sent < 3 * MIB
    assert seen(nodes.destination.files()) == seen(files)
    assert (files / "world" / "saved").exists()
    report.release()
    await until(lambda: not files.exists())
    assert nodes.panel.reports() == [(UUID, "success")]
    past = (await nodes.source.wingsctl("transfers", "--json")).json["past"]
    assert "seed-adopted" in past[-1]["reason"]


async def test_it_is_moved_without_the_panel_when_its_time_has_come(
    engine: Engine, nodes: TwoNodes
) -> None:
    files = await seeded(nodes, engine, stop_after=8)
    now = await follow(nodes)
    assert now["stop_at"] is not None
    assert runs(engine, files)
    await nodes.source.wait_for_line("its files here are kept")
    await until(nodes.source.has_ended_transfers)
    shown = (await nodes.destination.wingsctl("show", UUID, "--json")).json
    assert shown["past"][0]["outcome"] == "success"
    assert shown["server"]["by_hand"]
    assert seen(nodes.destination.files()) == seen(files)
    assert not runs(engine, files)
    assert nodes.panel.reports() == []
