"""Power over a program that runs, while this node has not seen it start."""

from __future__ import annotations

import pytest

from tests.servers.harness import UUID, FakeNode, Outcome, configuration, do
from wingsd.errors import Conflict, EnvironmentFailed
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server

AWAY = EnvironmentFailed("the engine is away")


@pytest.fixture
def server(node: FakeNode) -> Server:
    """A server of which the engine has not told yet that it runs."""
    node.environment.run(configuration().settings)
    node.environment.faults["adopt"] = AWAY
    server = node.server()
    assert server.state is PowerState.OFFLINE
    return server


@pytest.mark.parametrize(
    ("action", "how"),
    [(PowerAction.STOP, "command"), (PowerAction.RESTART, "command"), (PowerAction.KILL, "kill")],
)
def test_a_server_adopted_late_is_stopped_and_killed(
    node: FakeNode, server: Server, action: PowerAction, how: str
) -> None:
    node.environment.faults.clear()
    do(server, action).value()
    assert node.called("command", "kill") == [how]


def test_a_transfer_stops_it_before_its_container_goes(node: FakeNode, server: Server) -> None:
    node.environment.faults.clear()
    Outcome.of(server.stop_within(60)).value()
    assert node.called("command", "kill") == ["command"]
    assert node.environment.running == {}


@pytest.mark.parametrize("action", list(PowerAction))
def test_actions_wait_for_an_unreachable_engine(server: Server, action: PowerAction) -> None:
    do(server, action).error(EnvironmentFailed)


def test_one_that_runs_though_its_start_failed_can_be_stopped(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["recreate"] = EnvironmentFailed("it is running; stop it first")
    node.environment.run(configuration().settings)
    do(server, PowerAction.START).error(EnvironmentFailed)
    node.environment.faults.clear()
    do(server, PowerAction.START).error(Conflict)
    assert server.state is PowerState.RUNNING
    do(server, PowerAction.STOP).value()
    assert UUID not in node.environment.running
