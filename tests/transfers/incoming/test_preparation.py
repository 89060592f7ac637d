"""Running servers that come: what this node tries before they stop, and how it starts them."""

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
from tests.transfers.incoming.nodes import Nodes, RunningNode
from wingsd.errors import (
    EnvironmentFailed,
    MoveNoSpace,
    PanelRefused,
    PanelUnreachable,
    ServerNotFound,
    StorageError,
    WingsdError,
)
from wingsd.servers.power_states import PowerAction
from wingsd.transfers.incoming.moves.inbox import Attachments

BACKUP = {"uuid": UUID, "path": f"{UUID}.tar.gz", "bytes": 1000}


@pytest.fixture
def node(running_nodes: Nodes[RunningNode]) -> RunningNode:
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
    await node.rest()
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
    await first.give_up()
    await node.rest()
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
    running_nodes: Nodes[RunningNode], node: RunningNode, source: Path
) -> None:
    client = await begun(node, source)
    node.environment.faults["rehearse"] = Hang()
    assert (await client.ask("POST", "/prepare")).status == 202
    await until(lambda: ("rehearse", UUID) in node.environment.calls)
    later = await running_nodes.next()
    await until(lambda: ("end_rehearsal", UUID) in later.environment.calls)
    await until(lambda: later.receiver.find(UUID)._inbox is not None)  # type: ignore[union-attr]


# Servers that were running when they were moved are started when the Panel has heard of it


async def committed(node: RunningNode, source: Path, *, running: bool = True) -> MoveClient:
    """Return a move whose commit is asked for."""
    client = await node.half_sent(source)
    assert (await client.commit(running=running)).status == 202
    return client


async def settled(node: RunningNode) -> None:
    """Return when the move is over, and the start as well."""
    await until(node.is_at_rest)
    await until(lambda: not node.store.arrived_to_start())


def started(node: RunningNode) -> bool:
    return ("start", UUID) in node.environment.calls


async def test_it_is_started_after_the_success(node: RunningNode, source: Path) -> None:
    node.panel.waits["success"] = heard = Deferred[None]()
    client = await committed(node, source)
    await until(lambda: "success" in node.panel.calls)
    assert not started(node)
    heard.callback(None)
    assert (await client.outcome())["outcome"] == "success"
    await until(lambda: node.runs)
    assert node.says("was running at its former node, and is started again")
    await settled(node)


async def test_one_that_did_not_run_is_not_started(node: RunningNode, source: Path) -> None:
    client = await committed(node, source, running=False)
    assert (await client.outcome())["outcome"] == "success"
    await settled(node)
    assert not started(node)


async def test_starts_can_be_disabled(running_nodes: Nodes[RunningNode], source: Path) -> None:
    node = running_nodes.start(start=False)
    client = await committed(node, source)
    assert (await client.outcome())["outcome"] == "success"
    await settled(node)
    assert not started(node)


@pytest.mark.promise("arrived-server-is-started")
async def test_it_is_not_started_where_the_panel_refuses_the_success(
    node: RunningNode, source: Path
) -> None:
    node.panel.faults["success"] = PanelRefused("no transfer open", "a test", 409)
    client = await committed(node, source)
    node.panel.faults["describe"] = ServerNotFound("it is not this node's")
    assert (await client.outcome())["outcome"] == "failure"
    await settled(node)
    assert not started(node)


@pytest.mark.promise("arrived-server-is-started")
async def test_a_start_that_fails_is_tried_again(node: RunningNode, source: Path) -> None:
    taken = "driver failed programming external connectivity: port is already allocated"
    node.environment.faults["start"] = EnvironmentFailed(taken)
    await committed(node, source)
    await until(lambda: node.says(taken))
    await until(lambda: node.says("The start is tried again, for up to 5 min."))
    assert node.store.arrived_to_start(), "a daemon that ends now leaves it to the next"
    node.environment.faults.clear()
    await until(lambda: node.runs)
    await settled(node)


async def test_a_start_that_fails_for_good_is_told_and_not_repeated(
    running_nodes: Nodes[RunningNode], node: RunningNode, source: Path
) -> None:
    node.environment.faults["recreate"] = EnvironmentFailed("no image", is_final=True)
    client = await committed(node, source)
    assert (await client.outcome())["outcome"] == "success"
    await settled(node)
    assert node.says("The start failed: ")
    assert node.says("The server stays offline, and is not started by itself any more.")
    assert (node.data / UUID / "world" / "level.dat").exists()
    later = await running_nodes.next()
    assert not started(later)


@pytest.mark.promise("arrived-server-is-started")
@pytest.mark.parametrize("step", ["SWAP", "ENVIRONMENT", "REPORT"])
async def test_the_next_daemon_starts_it_after_a_kill_in_the_commit(
    running_nodes: Nodes[RunningNode], node: RunningNode, source: Path, step: str
) -> None:
    node.die_at(step)
    await committed(node, source)
    await until(lambda: [each.step for each in node.store.unfinished()] == [step])
    later = await running_nodes.next()
    await until(lambda: later.runs)
    await settled(later)
    assert later.panel.calls.index("success") < len(later.panel.calls)


async def hang_at_the_start(node: RunningNode, source: Path) -> None:
    """Have a server arrive, and the engine not answer when it is to be started."""
    node.environment.faults["recreate"] = Hang()
    client = await committed(node, source)
    assert (await client.outcome())["outcome"] == "success"
    await until(lambda: ("recreate", UUID) in node.environment.calls)


@pytest.mark.promise("arrived-server-is-started")
async def test_the_next_daemon_starts_it_after_a_kill_before_the_start(
    running_nodes: Nodes[RunningNode], node: RunningNode, source: Path
) -> None:
    await hang_at_the_start(node, source)
    assert not node.store.unfinished()
    later = await running_nodes.next()
    await until(lambda: later.runs)
    await settled(later)


@pytest.mark.promise("arrived-server-is-started")
@pytest.mark.parametrize("action", [PowerAction.STOP, PowerAction.KILL])
async def test_what_a_person_has_asked_since_counts(
    node: RunningNode, source: Path, action: PowerAction
) -> None:
    client = await node.half_sent(source)
    # The node asks for its settings once more to start it.
    node.panel.waits["describe"] = heard = Deferred[None]()
    assert (await client.commit(running=True)).status == 202
    await until(lambda: "success" in node.panel.calls and node.panel.calls[-1] == "describe")
    await node.servers.get(UUID).power(action)
    heard.callback(None)
    await settled(node)
    assert not started(node)


async def test_a_suspended_server_is_not_started(node: RunningNode, source: Path) -> None:
    node.describe_as(suspended=True)
    await committed(node, source)
    await settled(node)
    assert not started(node)
    assert node.says("is not started: server is currently in a suspended state")


async def test_a_deleted_server_is_not_started_by_the_next_daemon(
    running_nodes: Nodes[RunningNode], node: RunningNode, source: Path
) -> None:
    await hang_at_the_start(node, source)
    node.panel.owned = False
    later = await running_nodes.next()
    await settled(later)
    assert not started(later)
