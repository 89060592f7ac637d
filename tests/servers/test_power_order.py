"""One power action at a time, what is cancelled, and who holds a server."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.servers.harness import UUID, FakeNode, do, running
from tests.support import Hang
from wingsd.errors import Conflict
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState


def test_a_restart_is_a_stop_and_a_start(node: FakeNode) -> None:
    server = running(node)
    do(server, PowerAction.RESTART).value()
    assert node.told("status") == ["stopping", "offline", "starting"]
    assert node.called("command", "recreate", "start") == ["command", "recreate", "start"]


def test_a_restart_of_what_is_offline_is_a_start(node: FakeNode) -> None:
    server = node.server()
    do(server, PowerAction.RESTART).value()
    assert server.state is PowerState.STARTING


def test_a_start_waits_for_a_stop(node: FakeNode) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    stopping, starting = do(server, PowerAction.STOP), do(server, PowerAction.START)
    node.clock.advance(10)
    assert not starting.over
    node.process().end()
    stopping.value()
    starting.value()
    assert node.told("status") == ["stopping", "offline", "starting"]


@pytest.mark.parametrize("wait", [0, 30])
def test_a_start_waits_for_another_action_within_its_time(node: FakeNode, wait: int) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    stopping, starting = do(server, PowerAction.STOP), do(server, PowerAction.START, wait)
    node.clock.advance(wait + 1)
    assert "another power action" in str(starting.error(Conflict))
    node.process().end()
    stopping.value()
    assert node.told("status") == ["stopping", "offline"]


@pytest.mark.parametrize("action", [PowerAction.STOP, PowerAction.KILL])
@pytest.mark.parametrize("where", ["panel", "recreate", "start"])
def test_an_unfinished_start_is_cancelled(node: FakeNode, where: str, action: PowerAction) -> None:
    server = node.server()
    if where == "panel":
        node.panel.faults["describe"] = Deferred()
    else:
        node.environment.faults[where] = Hang()
    starting = do(server, PowerAction.START)
    do(server, action).value()
    assert "was cancelled" in str(starting.error(Conflict))
    between = [] if where == "panel" else ["stopping"]
    assert node.told("status") == ["starting", *between, "offline"]
    assert node.called("remove") == (["remove"] if where == "start" else [])
    assert node.clock.getDelayedCalls() == []
    node.panel.faults.clear()
    node.environment.faults.clear()
    do(server, PowerAction.START).value()


def test_a_cancelled_start_is_undone(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["recreate"] = Hang()
    starting = do(server, PowerAction.START)
    starting.deferred.cancel()
    starting.error(CancelledError)
    assert server.state is PowerState.OFFLINE
    node.environment.faults.clear()
    do(server, PowerAction.START).value()


def test_a_held_server_can_only_be_ended(node: FakeNode) -> None:
    server = running(node)
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    for action in (PowerAction.START, PowerAction.RESTART):
        error = do(server, action).error(Conflict)
        assert error.message == "server is currently being transferred"
    do(server, PowerAction.STOP).value()
    do(server, PowerAction.STOP).error(Conflict)
    server.release()
    do(server, PowerAction.START).value()


def test_a_held_server_cannot_be_held_again(node: FakeNode) -> None:
    server = node.server()
    server.place_hold(Operation.TRANSFER_OUT, "one thing")
    with pytest.raises(Conflict, match="one thing"):
        server.place_hold(Operation.TRANSFER_OUT, "another")
    server.release()
    server.place_hold(Operation.TRANSFER_OUT, "another")


def test_a_server_taken_while_it_is_being_started_does_not_start(node: FakeNode) -> None:
    server = node.server()
    waiting = node.panel.faults["describe"] = Deferred()
    starting = do(server, PowerAction.START)
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    waiting.callback(None)
    starting.error(Conflict)
    assert node.called("recreate", "start") == []
    assert server.state is PowerState.OFFLINE
