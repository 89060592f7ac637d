"""What this node tries before a running server is stopped at its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.faults import Hang
from tests.support.move_client import MoveClient
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.incoming.running_node import RunningNode, RunningNodes
from wingsd.errors import EnvironmentFailed, WingsdError
from wingsd.panel.http_client import PanelUnreachable
from wingsd.transfers.incoming.moves.attachments import Attachments
from wingsd.transfers.incoming.moves.errors import MoveNoSpace

BACKUP = {"uuid": UUID, "path": f"{UUID}.tar.gz", "bytes": 1000}


@pytest.fixture
def node(running_nodes: RunningNodes) -> RunningNode:
    return running_nodes.start()


async def begun(node: RunningNode, source: Path, **changes: Any) -> MoveClient:
    client = node.client(source)
    assert (await client.begin(running=True, **changes)).status == 201
    return client


async def prepared(client: MoveClient) -> dict[str, Any]:
    """Ask for a preparation; return how it has ended."""
    assert (await client.ask("POST", "/prepare", json={})).status == 202
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


async def test_it_can_be_asked_for_while_it_is_under_way_and_again(
    node: RunningNode, source: Path
) -> None:
    client = await begun(node, source)
    node.panel.waits["describe"] = answer = Deferred[None]()
    for _ in range(2):
        assert (await client.ask("POST", "/prepare")).status == 202
    assert (await client.status()).json["preparation"]["state"] == "under way"
    answer.callback(None)
    await until(lambda: ("rehearse", UUID) in node.environment.calls)
    assert (await prepared(client))["state"] == "ready"
    assert node.environment.calls.count(("rehearse", UUID)) == 2


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
    move = node.incoming_moves.get().find(UUID, client.id)
    assert move is not None
    monkeypatch.setattr(move.reception.attachments, "_reserve", 1)
    assert (await prepared(client))["code"] == "move-no-space"


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
    await until(lambda: later.receiver.find(UUID)._reception is not None)  # type: ignore[union-attr]
