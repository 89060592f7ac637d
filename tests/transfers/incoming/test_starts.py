"""Servers that were running when they were moved are started when the Panel has heard of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from tests.support.faults import Hang
from tests.support.move_client import MoveClient
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.incoming.running_node import RunningNode, RunningNodes
from wingsd.errors import EnvironmentFailed, PanelRefused, PanelUnreachable, ServerNotFound
from wingsd.servers.power_states import PowerAction


@pytest.fixture
def node(running_nodes: RunningNodes) -> RunningNode:
    return running_nodes.start()


async def committed(node: RunningNode, source: Path, *, running: bool = True) -> MoveClient:
    """Return a move whose commit is asked for."""
    client = node.client(source)
    await client.begin()
    await client.send()
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


async def test_starts_can_be_disabled(running_nodes: RunningNodes, source: Path) -> None:
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
async def test_a_panel_that_is_away_is_waited_for(node: RunningNode, source: Path) -> None:
    node.panel.faults["success"] = PanelUnreachable("the Panel is away", "it is a test")
    client = await committed(node, source)
    await until(lambda: "success" in node.panel.calls)
    node.panel.faults.clear()
    assert not started(node)
    assert (await client.outcome())["outcome"] == "success"
    await until(lambda: node.runs)


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
    running_nodes: RunningNodes, node: RunningNode, source: Path
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
    running_nodes: RunningNodes, node: RunningNode, source: Path, step: str
) -> None:
    node.die_at(step)
    await committed(node, source)
    await until(lambda: [each.step for each in node.store.unfinished()] == [step])
    later = await running_nodes.next()
    await until(lambda: later.runs)
    await settled(later)
    assert later.panel.calls.index("success") < len(later.panel.calls)


@pytest.mark.promise("arrived-server-is-started")
async def test_the_next_daemon_starts_it_after_a_kill_before_the_start(
    running_nodes: RunningNodes, node: RunningNode, source: Path
) -> None:
    node.environment.faults["recreate"] = Hang()
    client = await committed(node, source)
    assert (await client.outcome())["outcome"] == "success"
    await until(lambda: ("recreate", UUID) in node.environment.calls)
    assert not node.store.unfinished()
    later = await running_nodes.next()
    await until(lambda: later.runs)
    await settled(later)


@pytest.mark.promise("arrived-server-is-started")
@pytest.mark.parametrize("action", [PowerAction.STOP, PowerAction.KILL])
async def test_what_a_person_has_asked_since_counts(
    node: RunningNode, source: Path, action: PowerAction
) -> None:
    client = node.client(source)
    await client.begin()
    await client.send()
    # The node asks for its settings once more to start it.
    node.panel.waits["describe"] = heard = Deferred[None]()
    assert (await client.commit(running=True)).status == 202
    await until(lambda: "success" in node.panel.calls and node.panel.calls[-1] == "describe")
    await node.servers.get(UUID).power(action)
    heard.callback(None)
    await settled(node)
    assert not started(node)


async def test_a_suspended_server_is_not_started(node: RunningNode, source: Path) -> None:
    node.panel.settings = {"suspended": True}
    await committed(node, source)
    await settled(node)
    assert not started(node)
    assert node.says("is not started: server is currently in a suspended state")


async def test_a_deleted_server_is_not_started_by_the_next_daemon(
    running_nodes: RunningNodes, node: RunningNode, source: Path
) -> None:
    node.environment.faults["recreate"] = Hang()
    client = await committed(node, source)
    assert (await client.outcome())["outcome"] == "success"
    await until(lambda: ("recreate", UUID) in node.environment.calls)
    node.panel.owned.clear()
    later = await running_nodes.next()
    await settled(later)
    assert not started(later)
