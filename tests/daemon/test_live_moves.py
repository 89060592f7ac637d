"""Running servers that real daemons move, with copies that follow them and without."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound
from twisted.internet.defer import Deferred

from tests.daemon.test_direct_transfers import invite
from tests.support.archives import seen
from tests.support.browser import Page, browse
from tests.support.docker_engine import Engine
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration
from tests.support.two_nodes import TwoNodes

MIB = 1 << 20
#: Appends, replaces, writes in the middle of a file, makes and removes names, until it is stopped;
#: then it saves once more.
WRITER = """
cd /home/container
trap 'echo saved at the end > world/saved; exit 0' TERM
echo listening on
n=0
while :; do
  n=$((n + 1))
  echo "line $n" >> latest.log
  echo "$n" > world/state.new && mv world/state.new world/state
  dd if=/dev/urandom of=world/region.mca bs=4096 count=4 seek=$((n % 500)) conv=notrunc 2>/dev/null
  mkdir -p "players/$((n % 7))" && echo "$n" > "players/$((n % 7))/$n"
  rm -rf "players/$(((n + 3) % 7))"
done
"""
#: Writes as well, answers on its console, and says so when it ends.
TALKER = """
cd /home/container
trap 'echo the last words; exit 0' TERM
while :; do n=$((n + 1)); echo "line $n" >> latest.log; sleep 0.05; done &
echo listening on
while read -r word; do echo "you said $word"; done
"""
OWNER = "2f0c0b1e-5d0a-4d57-8d0c-6b1f3c7a9e21"


async def start(nodes: TwoNodes, engine: Engine, invocation: str = WRITER, **options: Any) -> Path:
    """Have the server run and write; return its directory. `options` are of the source."""
    nodes.add_server(size=6 * MIB, image=engine.image, invocation=invocation)
    files = nodes.source.files()
    for path in (files, *files.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)
    (files / "latest").unlink()
    await nodes.start(source={**engine.for_node(UUID), **options})
    await nodes.panel.power(UUID, "start")
    await nodes.source.wait_for_line(f"{UUID}: running")
    await until((files / "latest.log").exists)
    return files


def lines(files: Path) -> int:
    return (files / "latest.log").read_bytes().count(b"\n")


def runs(engine: Engine, files: Path) -> bool:
    """Return whether a container with these files runs."""
    try:
        found = engine.client.inspect_container(UUID)
    except NotFound:
        return False
    mounts = [mount["Source"] for mount in found["HostConfig"]["Mounts"]]
    return bool(found["State"]["Running"]) and str(files) in mounts


async def test_a_server_that_writes_moves_byte_for_byte(engine: Engine, nodes: TwoNodes) -> None:
    files = await start(nodes, engine)
    before = lines(files)
    report = nodes.panel.hold("/transfer/success")
    begun = time.monotonic()
    await nodes.transfer()
    await nodes.source.wait_for_line("round 1: ")
    await nodes.source.wait_for_line("s of downtime")
    followed = lines(files)
    await nodes.panel.called("/transfer/success")
    assert time.monotonic() - begun < 120
    assert before < followed <= lines(files)
    assert (files / "world" / "saved").read_text() == "saved at the end\n"
    assert (files / "world" / "state").exists()
    assert (files / "players").is_dir()
    assert seen(nodes.destination.files()) == seen(files)
    assert not runs(engine, files)
    report.release()
    await nodes.source.wait_for_line("after it was stopped here", since=0)
    await until(lambda: not files.exists())  # they are kept elsewhere
    assert nodes.panel.reports() == [(UUID, "success")]


@pytest.mark.promise("users-decide-during-a-move")
async def test_an_open_page_is_used_until_the_server_is_stopped(
    engine: Engine, nodes: TwoNodes
) -> None:
    await start(nodes, engine, TALKER)
    page = Page(reactor, nodes.panel, UUID, OWNER)
    console = await browse(nodes.source, UUID, ("*", "admin.websocket.transfer"))
    try:
        await until(lambda: page.is_connected)
        await nodes.transfer()
        await nodes.source.wait_for_line("round 1: ")
        # Which the nodes ask before the server is stopped.
        question = f"/api/remote/servers/{UUID}"
        asked = sum(call.path.endswith(question) for call in nodes.panel.calls)
        answer = nodes.panel.hold(question)
        await until(
            lambda: sum(call.path.endswith(question) for call in nodes.panel.calls) > asked
        )
        page.type("hello")
        await until(lambda: "you said hello" in page.console)
        assert (page.states, page.opened, page.is_transferring) == (["starting"], 1, False)
        answer.release()
        await console.wait_for("console output", "the last words")
        await nodes.source.wait_for_line(f"{UUID}: state success")
        await until(lambda: not page.is_transferring and page.is_connected)
        told = [event.args[0] for event in console.events if event.event == "transfer status"]
        assert told == ["starting", "processing", "success", "completed"]
    finally:
        await page.close()
        await console.close()


async def test_a_server_runs_on_while_its_daemon_is_killed_and_moves_then(
    engine: Engine, nodes: TwoNodes
) -> None:
    files = await start(nodes, engine)
    half: Deferred[None] = Deferred()
    nodes.destination.line.after(2 * MIB, lambda: half.callback(None))
    report = nodes.panel.hold("/transfer/success")
    await nodes.transfer()
    await half
    await nodes.source.kill()
    dead = lines(files)
    await until(lambda: lines(files) > dead)
    await nodes.source.start_loaded(**engine.for_node(UUID))
    await nodes.panel.called("/transfer/success")
    assert seen(nodes.destination.files()) == seen(files)
    assert not any("transfer failed" in line for line in nodes.source.log)
    report.release()
    await until(lambda: not files.exists())


async def test_a_cancelled_move_leaves_the_container_running(
    engine: Engine, nodes: TwoNodes
) -> None:
    files = await start(nodes, engine)
    half: Deferred[None] = Deferred()
    nodes.destination.line.after(2 * MIB, lambda: half.callback(None))
    await nodes.transfer()
    await half
    assert await nodes.cancel(nodes.source) == 202
    await nodes.panel.called("/transfer/failure")
    written = lines(files)
    await until(lambda: lines(files) > written)
    assert runs(engine, files)
    await until(lambda: not nodes.destination.files().exists())


# Copies that follow a server whose container runs and writes, between two real daemons


#: Writes a little, all the time.
SLOW_WRITER = """
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
    files = await start(nodes, engine, SLOW_WRITER)
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
    await until(lambda: not files.exists() and nodes.source.has_ended_transfers())
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


# Running servers that move between two real daemons with one Docker engine


#: A game that is up at once, and writes what it is stopped with.
GAME = "echo listening on; read -r line; echo $line > /home/container/state"


async def begun(nodes: TwoNodes, engine: Engine, image: str = "") -> None:
    """Start both nodes, and the server at the source; then have it moved."""
    stop = process_configuration(stop={"type": "command", "value": "stop"})
    nodes.add_server(image=engine.image, invocation=GAME, process=stop)
    nodes.source.files().chmod(0o777)
    changes = engine.for_node(UUID)
    await nodes.start(changes, changes)
    await nodes.panel.power(UUID, "start")
    await nodes.source.wait_for_line(f"{UUID}: running")
    if image:
        nodes.panel.settings_of(UUID)["container"]["image"] = image
    await nodes.transfer()


def running_home(engine: Engine) -> str:
    """Return the directory of the one container of the server that runs, empty for none."""
    found = engine.client.containers(filters={"name": UUID})
    homes = [
        mount["Source"]
        for each in found
        for mount in each["Mounts"]
        if mount["Destination"] == "/home/container"
    ]
    assert len(homes) == len(found) <= 1
    return homes[0] if homes else ""


@pytest.mark.promise("running-server-runs-once")
async def test_a_running_server_moves_and_runs_on(engine: Engine, nodes: TwoNodes) -> None:
    await begun(nodes, engine)
    await nodes.destination.wait_for_line(f"{UUID}: running")
    assert nodes.panel.reports() == [(UUID, "success")]
    assert running_home(engine) == str(nodes.destination.files())
    line = await nodes.source.wait_for_line("its files are kept here for 1 days in ")
    kept = nodes.source.staging / ".quarantine" / line.rpartition("/")[2]
    assert seen(kept) == seen(nodes.destination.files())
    # what it has written when it was stopped
    assert (kept / "state").read_text() == "stop\n"
    assert not nodes.source.files().exists()
    await until(
        lambda: all(node.has_ended_transfers() for node in (nodes.source, nodes.destination))
    )


async def test_a_server_whose_image_is_missing_there_runs_on(
    engine: Engine, nodes: TwoNodes
) -> None:
    await begun(nodes, engine, image="~wingsd-test/none")
    await nodes.source.wait_for_line("the server is not stopped yet, and runs on")
    assert any("there is no image wingsd-test/none" in line for line in nodes.source.log)
    assert running_home(engine) == str(nodes.source.files())
    assert await nodes.cancel(nodes.source) < 300
    await until(lambda: nodes.panel.reports() != [])
    # Both nodes may report it.
    assert set(nodes.panel.reports()) == {(UUID, "failure")}
    assert running_home(engine) == str(nodes.source.files())
