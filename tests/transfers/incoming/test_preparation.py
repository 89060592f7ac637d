"""What this node tries before a running server is stopped at its source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.support.faults import Hang
from tests.support.move_client import MoveClient
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.incoming.running_node import RunningNode, RunningNodes
from wingsd.errors import (
    EnvironmentFailed,
    MoveNoSpace,
    PanelUnreachable,
    StorageError,
    WingsdError,
)
from wingsd.transfers.incoming.moves.inbox import Attachments

BACKUP = {"uuid": UUID, "path": f"{UUID}.tar.gz", "bytes": 1000}


@pytest.fixture
def node(running_nodes: RunningNodes) -> RunningNode:
    return running_nodes.start()


async def begun(node: RunningNode, source: Path, **changes: Any) -> MoveClient:
    client = node.client(source)
    assert (await client.begin(running=True, **changes)).status == 201
    return client


async def prepared(client: MoveClient, **measured: int) -> dict[str, Any]:
    """Ask for a preparation; return how it has ended."""
    assert (await client.ask("POST", "/prepare", json=measured)).status == 202
    tag, found = "", {"state": "under way"}
    while found["state"] == "under way":
        status = await client.status(wait=5, since=tag)
        tag, found = status.json["tag"], status.json["preparation"]
    return found


async def test_the_panel_is_asked_and_the_container_rehearsed(
    node: RunningNode, source: Path
) -> None:
    client = await begun(node, source)
    assert (await client.status()).json["preparation"] is None
    before = len(node.panel.calls)
    found = await prepared(client)
    assert found == {"state": "ready", "container_seconds": 0.75}
    assert node.panel.calls[before:] == ["owns", "describe"]
    assert [call for call in node.environment.calls if call[0] != "name_conflict"] == [
        ("rehearse", UUID)
    ]


@pytest.mark.promise("rehearsal-starts-nothing")
async def test_it_can_be_asked_for_while_it_is_under_way_and_again(
    node: RunningNode, source: Path
) -> None:
    client = await begun(node, source)
    node.panel.waits["describe"] = answer = Deferred[None]()
    for _ in range(2):
        assert (await client.ask("POST", "/prepare")).status == 202
    assert (await client.status()).json["preparation"]["state"] == "under way"
    move = node.moves.find(UUID, client.id)
    assert move is not None
    answer.callback(None)
    await until(lambda: move.preparation.is_ready)
    assert (await prepared(client))["state"] == "ready"
    assert node.environment.calls.count(("rehearse", UUID)) == 2


@pytest.mark.promise("rehearsal-before-the-stop")
@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("panel", PanelUnreachable("the Panel is away", "it is a test")),
        ("engine", EnvironmentFailed("the image could not be pulled")),
        ("engine", EnvironmentFailed("there is no such image", is_final=True)),
        ("disk", MoveNoSpace("free some")),
    ],
)
async def test_what_is_in_the_way_is_told_and_the_move_goes_on(
    node: RunningNode,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    error: WingsdError,
) -> None:
    client = await begun(node, source, backups=[BACKUP])

    def no_room(_: Attachments) -> None:
        raise error

    with monkeypatch.context() as patched:
        if part == "panel":
            node.panel.faults["owns"] = error
        elif isinstance(error, EnvironmentFailed):
            node.environment.faults["rehearse"] = error
        else:
            patched.setattr(Attachments, "require_room", no_room)
        found = await prepared(client)
        assert (found["state"], found["code"]) == ("failed", error.code)
        assert (found["error"], found["detail"]) == (error.message, error.detail)
        assert found.get("final", False) is error.is_final
        node.panel.faults.clear()
        node.environment.faults.clear()
    assert (await prepared(client))["state"] == "ready"
    assert (await client.status()).json["phase"] == "open"


async def test_a_server_that_is_here_is_not_ready_to_come(node: RunningNode, source: Path) -> None:
    client = await begun(node, source)
    node.panel.owned.add(UUID)
    found = await prepared(client)
    assert (found["state"], found["code"]) == ("failed", "server-already-exists")


async def test_backups_have_to_fit(
    node: RunningNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await begun(node, source, backups=[BACKUP | {"bytes": 1 << 60}])
    move = node.moves.find(UUID, client.id)
    assert move is not None
    monkeypatch.setattr(move.inbox.attachments, "_reserve", 1)
    assert (await prepared(client))["code"] == "move-no-space"


MIB = 1 << 20


def limit_disk(monkeypatch: pytest.MonkeyPatch, node: RunningNode, free: int) -> None:
    """Have so many MiB be free for moves from now on, of which 100 MiB are reserved."""
    limits = attrs.evolve(node.receiver.parts.limits, reserve=100 * MIB)
    node.partial_copies.limits = limits
    node.receiver.parts = attrs.evolve(node.receiver.parts, limits=limits)
    found = list(os.statvfs("/"))
    found[1], found[2], found[4] = MIB, 10_000, free
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(found))


@pytest.mark.promise("room-is-checked-before-the-stop")
async def test_a_server_that_does_not_fit_is_refused_at_the_beginning(
    node: RunningNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_disk(monkeypatch, node, 245)
    refused = await node.client(source).begin(disk_bytes=320 * MIB, running=True)
    assert (refused.status, refused.code) == (507, "move-no-space")
    for figure in ("320 MiB more", "245 MiB are free", "100 MiB must stay free", "disk_reserve"):
        assert figure in refused.json["detail"]
    await until(lambda: not node.receiver.servers)
    assert node.left() == []


@pytest.mark.promise("room-is-checked-before-the-stop")
@pytest.mark.parametrize("announced", [{"disk_bytes": 140 * MIB}, {}])
async def test_holes_of_sparse_files_need_no_space(
    node: RunningNode,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    announced: dict[str, int],
) -> None:
    limit_disk(monkeypatch, node, 245)
    await begun(node, source, bytes=1 << 40, **announced)


@pytest.mark.promise("room-is-checked-before-the-stop")
async def test_what_is_kept_of_an_earlier_move_needs_no_space(
    node: RunningNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (source / "world" / "level.dat").stat().st_size
    first = await begun(node, source)
    await first.send()
    await first.ask("DELETE", "", params={"keep": "1"})
    await until(lambda: not node.receiver.servers)
    limit_disk(monkeypatch, node, 100)
    await begun(node, source, disk_bytes=size)


@pytest.mark.promise("room-is-checked-before-the-stop")
async def test_a_server_that_has_grown_meanwhile_is_not_ready_to_come(
    node: RunningNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_disk(monkeypatch, node, 245)
    client = await begun(node, source, disk_bytes=140 * MIB)
    found = await prepared(client, disk_bytes=150 * MIB)
    assert (found["state"], found["code"]) == ("failed", "move-no-space")
    assert "150 MiB more" in found["detail"]
    assert not found.get("final")
    assert (await prepared(client, disk_bytes=145 * MIB))["state"] == "ready"


@pytest.mark.promise("room-is-checked-before-the-stop")
async def test_a_round_is_told_whether_there_is_room_for_it(
    node: RunningNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_disk(monkeypatch, node, 245)
    client = await begun(node, source, disk_bytes=140 * MIB)
    refused = await client.ask("POST", "/room", json={"disk_bytes": 150 * MIB, "files": 10})
    assert (refused.status, refused.code) == (507, "move-no-space")
    assert "150 MiB more" in refused.json["detail"]
    assert (await client.ask("POST", "/room", json={"disk_bytes": 145 * MIB})).status == 204


@pytest.mark.promise("room-is-checked-before-the-stop")
async def test_what_other_servers_will_take_is_not_free(
    node: RunningNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_disk(monkeypatch, node, 245)
    await begun(node, source, disk_bytes=100 * MIB)
    copies = node.partial_copies
    with pytest.raises(StorageError, match="100 MiB of them for servers that arrive"):
        copies.admit("other", lambda: (50 * MIB, 1))
    copies.admit("other", lambda: (40 * MIB, 1))
    await node.receiver.release(UUID, keeps=False)
    copies.admit("other", lambda: (140 * MIB, 1))


async def test_the_commit_ends_it(node: RunningNode, source: Path) -> None:
    client = await begun(node, source)
    node.panel.waits["owns"] = Deferred()
    assert (await client.ask("POST", "/prepare")).status == 202
    await client.send()
    assert (await client.commit(running=True)).status == 202
    del node.panel.waits["owns"]
    assert (await client.outcome())["outcome"] == "success"
    assert ("rehearse", UUID) not in node.environment.calls
    assert (await client.ask("POST", "/prepare")).code == "move-over"


async def test_the_next_daemon_removes_what_a_rehearsal_has_left(
    running_nodes: RunningNodes, node: RunningNode, source: Path
) -> None:
    client = await begun(node, source)
    node.environment.faults["rehearse"] = Hang()
    assert (await client.ask("POST", "/prepare")).status == 202
    await until(lambda: ("rehearse", UUID) in node.environment.calls)
    later = await running_nodes.next()
    await until(lambda: ("end_rehearsal", UUID) in later.environment.calls)
    await until(lambda: later.receiver.find(UUID)._inbox is not None)  # type: ignore[union-attr]
