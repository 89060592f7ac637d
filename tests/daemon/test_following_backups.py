"""Local backups follow their server between real daemons, in each family."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.faults import Answer
from tests.support.node_process import NodeProcess
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.tokens import signed_url_token
from tests.support.two_nodes import TwoNodes
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

#: What a page of Calagopus' Panel asks for with a transfer.
OF_CALAGOPUS = {"archive_format": "tar_gz", "compression_level": "best_speed"}


async def made(nodes: TwoNodes, node: NodeProcess, count: int) -> list[str]:
    """Make backups of the server as its Panel does; return their UUIDs."""
    backups = [str(uuid4()) for _ in range(count)]
    panel = nodes.panel
    for backup in backups:
        panel.backups.add(backup, UUID)
        order = {"adapter": "wings", "uuid": backup, "ignore": ""}
        await panel.ask(node.node, "POST", f"/api/servers/{UUID}/backup", order)
    await until(lambda: all(panel.backups.known[each].is_over for each in backups))
    return backups


def place(node: NodeProcess, backup: str) -> Path:
    """Return where a node keeps a backup."""
    top = node.directory / "backups"
    return (top / UUID if node.node.family == PELICAN else top) / f"{backup}.tar.gz"


def archives(node: NodeProcess) -> list[str]:
    """Return the UUIDs of the backups at a node."""
    top = node.directory / "backups"
    found = [*top.glob("*.tar.gz"), *top.glob(f"{UUID}/*.tar.gz")]
    return sorted(path.name.partition(".")[0] for path in found if path.name[0] != ".")


async def downloaded(nodes: TwoNodes, backup: str) -> tuple[int, object]:
    """Return how the node of the server answers a download that its Panel has signed."""
    node = nodes.panel.node_of(UUID)
    token = signed_url_token(node.token, UUID, "backup-download", node.family, backup_uuid=backup)
    return await nodes.panel.ask(node, "GET", f"/download/backup?token={token}")


async def restored(nodes: TwoNodes, backup: str) -> tuple[int, object]:
    """Return how the node of the server answers an order to restore a backup."""
    path = f"/api/servers/{UUID}/backup/{backup}/restore"
    order = {"adapter": "wings", "truncate_directory": False}
    return await nodes.panel.ask(nodes.panel.node_of(UUID), "POST", path, order)


async def deleted(nodes: TwoNodes, backup: str) -> int:
    """Return the status of the answer to a deletion."""
    path = f"/api/servers/{UUID}/backup/{backup}"
    return (await nodes.panel.ask(nodes.panel.node_of(UUID), "DELETE", path))[0]


@pytest.mark.promise("backups-follow-their-server")
async def test_backups_follow_their_server_and_work_there(nodes: TwoNodes) -> None:
    nodes.add_server()
    await nodes.start({"family": PTERODACTYL}, {"family": PTERODACTYL})
    first, second, third = await made(nodes, nodes.source, 3)
    before = place(nodes.source, first).read_bytes()
    # The destination's Panel is not heard yet whether it has records of them.
    question = nodes.panel.hold("?size=1")
    await nodes.transfer()
    await nodes.panel.called("?size=1")
    for backup in (first, second):
        status, answer = await restored(nodes, backup)
        assert (status, answer["code"]) == (409, "backup-on-its-way")  # type: ignore[index]
        status, answer = await downloaded(nodes, backup)
        assert status == 409
        assert "is on its way from the node that the server left" in str(answer)
    coming = (await nodes.destination.wingsctl("backups")).out
    assert coming.count("on its way here") == 3
    # One that its user deletes meanwhile is not sent.
    assert await deleted(nodes, third) == 204
    question.release()
    await until(lambda: archives(nodes.source) == [])
    assert archives(nodes.destination) == sorted([first, second])
    assert place(nodes.destination, first).read_bytes() == before
    assert (await nodes.source.wingsctl("backups")).out == "no backups on this node\n"
    assert (await nodes.destination.wingsctl("verify", first)).status == 0
    assert (await downloaded(nodes, first))[0] == 200
    await nodes.panel.restore(UUID, second)
    await until(lambda: nodes.panel.restored(UUID) is True)
    assert await deleted(nodes, second) == 204
    assert await deleted(nodes, second) == 404
    assert await deleted(nodes, third) == 404


@pytest.mark.promise("dropped-backups-are-kept-for-days")
async def test_what_the_panel_says_decides(nodes: TwoNodes) -> None:
    nodes.add_server()
    await nodes.start({"family": PTERODACTYL}, {"family": PTERODACTYL})
    first, second, third = await made(nodes, nodes.source, 3)
    # A proxy's page and an error say nothing; of the third the Panel has no record.
    nodes.panel.inject(f"/backups/{first}?", Answer(404, b"<html>Not Found</html>", "text/html"))
    nodes.panel.inject(f"/backups/{second}?", Answer(500))
    await nodes.transfer()
    del nodes.panel.backups.known[third]
    await nodes.panel.called("?size=1", 3)
    await until(lambda: not nodes.source.files().exists())
    listed = ""
    while "the Panel has no record" not in listed or listed.count("does not take it yet") < 2:
        listed = (await nodes.source.wingsctl("backups")).out
    assert archives(nodes.destination) == []
    # By an operator's order, or when the Panel has said so.
    assert (await nodes.source.wingsctl("backups", "send", first)).status == 0
    await until(lambda: archives(nodes.destination) == sorted([first, second]))
    await until(lambda: archives(nodes.source) == [third])
    await later(nodes.source, days=2)
    await until(lambda: archives(nodes.source) == [])
    while (status := (await downloaded(nodes, third))[0]) == 409:
        pass  # Until its source has said that it does not come.
    assert status == 404


async def later(node: NodeProcess, days: int) -> None:
    """Start a node again as if `days` had passed since the Panel was first asked."""
    await node.kill()
    with closing(sqlite3.connect(node.directory / "wingsd.db")) as database, database:
        database.execute(
            "UPDATE left_backups SET age = ?, missed = 0 WHERE missed IS NOT NULL",
            (days * 24 * 3600.0,),
        )
    await node.start_loaded(family=node.node.family)


@pytest.mark.promise("backups-follow-their-server")
async def test_what_pelicans_page_sends_along_is_left_at_the_destination_alone(
    nodes: TwoNodes,
) -> None:
    nodes.add_server()
    await nodes.start({"family": PELICAN}, {"family": PELICAN})
    ticked, other = await made(nodes, nodes.source, 2)
    question = nodes.panel.hold(f"/backups/{other}?size=1")
    await nodes.transfer(backups=[ticked])
    await until(lambda: nodes.panel.reports() == [(UUID, "success")])
    # The one that came with its server can be used at once.
    while (status := (await downloaded(nodes, ticked))[0]) == 409:
        pass  # While the end of the transfer is recorded.
    assert status == 200
    question.release()
    await until(lambda: archives(nodes.destination) == sorted([ticked, other]))
    await until(lambda: archives(nodes.source) == [])


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_a_server_that_is_deleted_takes_with_it_what_was_to_come(nodes: TwoNodes) -> None:
    """Pelican's nodes delete the backups of servers that are deleted."""
    nodes.add_server()
    await nodes.start({"family": PELICAN}, {"family": PELICAN})
    await made(nodes, nodes.source, 2)
    question = nodes.panel.hold("?size=1")
    await nodes.transfer()
    await nodes.panel.called("?size=1")
    status, _ = await nodes.panel.ask(nodes.destination.node, "DELETE", f"/api/servers/{UUID}")
    assert status == 204
    question.release()
    await until(lambda: archives(nodes.source) == [])
    assert archives(nodes.destination) == []


async def test_of_calagopus_only_what_its_order_names_travels(nodes: TwoNodes) -> None:
    nodes.add_server()
    await nodes.start({"family": CALAGOPUS}, {"family": CALAGOPUS})
    named, other = await made(nodes, nodes.source, 2)
    await nodes.transfer(**OF_CALAGOPUS, backups=[named], delete_backups=True)
    await until(lambda: nodes.panel.reports() == [(UUID, "success")])
    await until(lambda: archives(nodes.source) == [other])
    assert archives(nodes.destination) == [named]
    listed = (await nodes.source.wingsctl("backups", "--json")).json
    assert [(each["backup"], each["left"]) for each in listed["backups"]] == [(other, None)]
    assert not any("?size=1" in call.path for call in nodes.panel.calls)


@asynccontextmanager
async def third_node(nodes: TwoNodes, family: str) -> AsyncIterator[NodeProcess]:
    """Yield a third node, started."""
    directory = nodes.source.directory.parent / "third"
    node = NodeProcess(directory, nodes.panel, nodes.source.authority, proxied=True, port=25567)
    await node.start_loaded(family=family)
    try:
        yield node
    finally:
        await node.close()


@pytest.mark.promise("backups-follow-their-server")
async def test_a_server_goes_round_with_three_backups_of_which_one_is_dropped(
    nodes: TwoNodes,
) -> None:
    nodes.add_server()
    await nodes.start({"family": PELICAN}, {"family": PELICAN})
    panel, a, b = nodes.panel, nodes.source, nodes.destination
    first, second, dropped = await made(nodes, a, 3)
    contents = {each: place(a, each).read_bytes() for each in (first, second, dropped)}
    async with third_node(nodes, PELICAN) as c:
        # The first one stays on its way to B while the server moves on.
        question = panel.hold("?size=1")
        await panel.transfer(UUID, b.node)
        await panel.called("?size=1")
        await until(lambda: not a.files().exists())
        del panel.backups.known[dropped]
        await panel.transfer(UUID, c.node)
        await until(lambda: panel.node_of(UUID) is c.node and not b.files().exists())
        assert (await restored(nodes, first))[0] == 409
        assert archives(a) == sorted(contents)
        question.release()
        while archives(c) != sorted([first, second]):
            await later_turn(a)  # B has to hear first what C says
        await until(lambda: archives(b) == [])
        await until(lambda: archives(a) == [dropped])
        # Back to where it came from.
        await panel.transfer(UUID, a.node)
        await until(lambda: panel.node_of(UUID) is a.node and not c.files().exists())
        await until(lambda: archives(c) == [] and archives(b) == [])
        assert archives(a) == sorted(contents)
        assert {each: place(a, each).read_bytes() for each in contents} == contents
        for backup in (first, second):
            assert (await downloaded(nodes, backup))[0] == 200
        await later_turn(b)  # which asks about the dropped one once a day
        for node in (a, b, c):
            await until(lambda node=node: is_settled(node))  # type: ignore[misc]


async def later_turn(node: NodeProcess) -> None:
    """Restart the node, which then looks for backups to send; wait until none is left."""
    await node.kill()
    await node.start_loaded(family=node.node.family)
    while any(map(is_to_be_sent, (await node.wingsctl("backups", "--json")).json["backups"])):
        pass


def is_to_be_sent(listed: dict[str, Any]) -> bool:
    """Return whether a backup is still to be looked at, as `wingsctl backups` has it."""
    left = listed["left"]
    return left is not None and not (left["waits_for"] or left["missed"])


def is_settled(node: NodeProcess) -> bool:
    """Return whether a node waits for nothing."""
    with closing(sqlite3.connect(node.directory / "wingsd.db")) as database:
        coming = database.execute("SELECT 1 FROM arriving_backups WHERE state = 'coming'")
        return coming.fetchone() is None
