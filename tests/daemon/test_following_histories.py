"""A server's history follows it between real daemons."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import Tree, seen
from tests.support.node_process import NodeProcess
from tests.support.points import rebuild
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes
from wingsd.config import PTERODACTYL
from wingsd.history.store import HistoryStore


def settings(node: NodeProcess, **more: Any) -> dict[str, Any]:
    """Return the settings of a node that makes histories, by an operator's command alone."""
    directory = node.directory / "histories"
    directory.mkdir(exist_ok=True)
    keep = {"1h": 360_000}  # all that the test makes
    history = {"every": "12h", "keep": keep, "directory": str(directory), **more}
    return {"family": PTERODACTYL, "system": {"history": history}}


def home(node: NodeProcess) -> Path:
    """Return the directory of the server's history at a node."""
    return node.directory / "histories" / UUID


async def point(node: NodeProcess, trees: dict[int, Tree]) -> None:
    """Make a point, and note the tree that it has to have."""
    while (await node.wingsctl("history", "make", UUID)).status != 0:
        pass  # while the end of the transfer is recorded
    shown = (await node.wingsctl("history", UUID, "--json")).json
    trees[shown["points"][0]["number"]] = seen(node.files())


async def numbers(node: NodeProcess) -> list[int]:
    """Return the numbers of the points at a node, none without a history."""
    shown = (await node.wingsctl("history", UUID, "--json")).json
    return [each["number"] for each in shown.get("points", ())]


async def check(node: NodeProcess, trees: dict[int, Tree], directory: Path) -> None:
    """Verify the history of a node that has ended, and rebuild each of its points."""
    store = HistoryStore(str(home(node)))
    try:
        assert store.verify() == {}
        for each in store.points():
            target = directory / f"{node.directory.name}-{each.number}"
            target.mkdir()
            fd = os.open(target, os.O_RDONLY)
            try:
                rebuild(store, each.number, fd)
            finally:
                os.close(fd)
            if each.number in trees:
                assert seen(target) == trees[each.number]
    finally:
        store.close()


async def change(node: NodeProcess, seed: int) -> None:
    """Change some blocks of a file, a whole one, and the names of a server."""
    with (node.files() / "world" / "region.mca").open("r+b") as file:
        for at in range(0, 90_000, 30_000):
            file.seek(at)
            file.write(b"%d" % seed * 50)
    (node.files() / f"log-{seed}").write_bytes(b"line %d\n" % seed * 1000)
    (node.files() / "log").write_bytes(b"%d" % seed)


async def arrived(nodes: TwoNodes, node: NodeProcess, gone: NodeProcess) -> None:
    """Return when the server is at a node, and its files are not at another one any more."""
    await until(lambda: nodes.panel.node_of(UUID) is node.node and not gone.files().exists())


@asynccontextmanager
async def third_node(nodes: TwoNodes) -> AsyncIterator[NodeProcess]:
    """Yield a third node, started."""
    directory = nodes.source.directory.parent / "third"
    directory.mkdir()
    node = NodeProcess(directory, nodes.panel, nodes.source.authority, proxied=True, port=25567)
    await node.start_loaded(**settings(node))
    try:
        yield node
    finally:
        await node.close()


async def later_turn(node: NodeProcess) -> None:
    """Restart a node, which then looks at once for what is to be sent."""
    await node.kill()
    await node.start_loaded(**settings(node))


@pytest.mark.promise("history-follows-its-server")
async def test_the_points_of_all_stays_are_in_one_history(nodes: TwoNodes, tmp_path: Path) -> None:
    """The server is back before its history has followed it, and moves on twice."""
    nodes.add_server()
    a, b, panel = nodes.source, nodes.destination, nodes.panel
    trees: dict[int, Tree] = {}
    await nodes.start(settings(a), settings(b))
    async with third_node(nodes) as c:
        for seed in range(2):
            await change(a, seed)
            await point(a, trees)
        await nodes.transfer()
        await arrived(nodes, b, a)
        await point(b, trees)
        await change(b, 2)
        await point(b, trees)
        # A has asked before the first point, and does it again in a minute at the earliest.
        assert home(a).exists()
        await panel.transfer(UUID, c.node)
        await arrived(nodes, c, b)
        await change(c, 3)
        await point(c, trees)
        await panel.transfer(UUID, a.node)
        await arrived(nodes, a, c)
        await change(a, 4)
        await point(a, trees)
        await later_turn(b)
        await until(lambda: not home(b).exists())
        await later_turn(c)
        await until(lambda: not home(c).exists())
        assert {*trees} <= {*await numbers(a)}
        await a.kill()
        await check(a, trees, tmp_path)
        assert len(trees) == 6


@pytest.mark.promise("history-follows-its-server")
async def test_a_history_follows_a_server_that_is_sent_by_hand(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    nodes.add_server()
    a, b = nodes.source, nodes.destination
    await nodes.start(settings(a), settings(b))
    trees: dict[int, Tree] = {}
    for seed in range(2):
        await change(a, seed)
        await point(a, trees)
    invited = await b.wingsctl("receive", UUID, "--url", b.node.address)
    (line,) = [each for each in invited.out.splitlines() if each.startswith("  wingsctl send")]
    assert (await a.wingsctl(*shlex.split(line)[1:], "--delete")).status == 0
    await until(lambda: not a.files().exists())
    await point(b, trees)
    shown = (await a.wingsctl("history", "--json")).json["histories"]
    assert [each["left"]["state"] for each in shown] == ["follows"]
    # An operator does not wait for the next look.
    assert (await a.wingsctl("backups", "send", UUID)).status == 0
    await until(lambda: not home(a).exists())
    assert {*trees} <= {*await numbers(b)}
    await b.kill()
    await check(b, trees, tmp_path)
