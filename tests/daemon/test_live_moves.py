"""A real daemon moves a server whose container runs and writes to its files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound
from twisted.internet.defer import Deferred

from tests.support.archives import seen
from tests.support.browser import browse
from tests.support.docker_engine import Engine
from tests.support.page import Page
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
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
