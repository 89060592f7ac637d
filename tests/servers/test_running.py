"""Servers that ran when the node ended, after its next start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, configuration, do, running
from wingsd.errors import EnvironmentFailed
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.running import RunningServers
from wingsd.servers.server import Server


@attrs.define
class Records:
    """The states of servers, in memory."""

    states: dict[str, str] = attrs.field(factory=dict)

    async def load(self) -> dict[str, str]:
        return dict(self.states)

    def record(self, server: str, state: str | None) -> None:
        if state is None:
            self.states.pop(server, None)
        else:
            self.states[server] = state

    async def flush(self) -> None:
        """Nothing is in the background."""


class RestartedNode(FakeNode):
    """A node with records of an earlier one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records = Records()
        self.running = RunningServers(self.records, self.bus, self.clock)

    def boot_after(self, *ran: str) -> Server:
        """Start the node on which these servers ran; return one of them."""
        self.records.states |= dict.fromkeys(ran, "running")
        before = Outcome.of(self.running.load()).value()
        server = self.server()
        self.running.start(before, self.servers)
        return server


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RestartedNode]:
    node = RestartedNode(tmp_path)
    yield node
    Outcome.of(node.running.stop()).value()
    node.close()


def test_servers_are_recorded_from_their_start_to_their_stop(node: RestartedNode) -> None:
    server = node.server()
    do(server, PowerAction.START).value()
    assert node.records.states == {UUID: "starting"}
    node.process().say(b"up\n")
    assert node.records.states == {UUID: "running"}
    do(server, PowerAction.STOP).value()
    assert node.records.states == {UUID: "offline"}


def test_a_crashed_server_that_stays_offline_is_not_recorded(node: RestartedNode) -> None:
    running(node)
    node.process().end(1)
    assert node.records.states == {UUID: "starting"}, "it was started again"
    node.process().end(1)
    assert node.records.states == {UUID: "offline"}


def test_a_deleted_server_is_not_recorded(node: RestartedNode) -> None:
    running(node)
    Outcome.of(node.servers.delete(UUID)).value()
    assert node.records.states == {}


def test_the_end_of_the_node_leaves_its_servers_recorded(node: RestartedNode) -> None:
    server = node.server()
    node.panel.faults["describe"] = Deferred()
    do(server, PowerAction.START)
    Outcome.of(node.running.stop()).value()
    do(server, PowerAction.KILL).value()
    assert node.records.states == {UUID: "starting"}


def test_a_server_that_ran_and_does_not_is_started(node: RestartedNode) -> None:
    server = node.boot_after(UUID)
    assert server.state is PowerState.STARTING
    assert "was running when this node ended" in node.told("daemon message")[0]


def test_a_server_that_still_runs_is_not_started(node: RestartedNode) -> None:
    node.environment.run(configuration().settings)
    server = node.boot_after(UUID)
    assert server.state is PowerState.RUNNING
    assert node.called("start") == []
    assert node.records.states == {UUID: "running"}


def test_a_server_that_did_not_run_stays_offline(node: RestartedNode) -> None:
    assert node.boot_after().state is PowerState.OFFLINE


def test_a_server_that_is_gone_is_forgotten(node: RestartedNode) -> None:
    node.boot_after(OTHER)
    assert node.records.states == {}


def test_an_engine_that_does_not_answer_is_waited_for(node: RestartedNode) -> None:
    node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    server = node.boot_after(UUID)
    node.clock.advance(10)
    assert node.called("recreate", "start") == []
    node.environment.faults.clear()
    node.clock.pump([10] * 12)
    assert server.state is PowerState.STARTING


def test_a_held_server_is_not_started_and_says_why(node: RestartedNode) -> None:
    node.records.states[UUID] = "running"
    before = Outcome.of(node.running.load()).value()
    server = node.server()
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    node.running.start(before, node.servers)
    assert server.state is PowerState.OFFLINE
    assert (
        "is not started: server is currently being transferred" in (node.told("daemon message")[0])
    )
    assert node.records.states == {UUID: "offline"}


def test_a_start_that_fails_is_not_repeated(node: RestartedNode) -> None:
    node.environment.faults["recreate"] = EnvironmentFailed("no image")
    server = node.boot_after(UUID)
    assert server.state is PowerState.OFFLINE
    assert node.records.states == {UUID: "offline"}
