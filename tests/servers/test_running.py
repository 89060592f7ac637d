"""Servers that ran when the node ended, after its next start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, configuration, do, running
from wingsd.errors import EnvironmentFailed, PanelUnreachable
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.running import RunningServers
from wingsd.servers.server import Server
from wingsd.statedb import Outcome as Ending

pytestmark = pytest.mark.promise("servers-start-after-a-reboot")


class RestartedNode(FakeNode):
    """A node with records of an earlier one."""

    @property
    def running(self) -> RunningServers:
        return self.daemon.running

    @property
    def states(self) -> dict[str, str]:
        """The states that are recorded."""
        path = self.data.parent / "states.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def boot_after(
        self, *ran: str, stopped: tuple[str, ...] = (), held: Operation | None = None
    ) -> Server:
        """Start the node on which these servers ran; return one of them, held by that.

        `stopped` ones were stopped for a restore.
        """
        states = json.dumps(dict.fromkeys(ran, "running"))
        (self.data.parent / "states.json").write_text(states)
        before = Outcome.of(self.running.load()).value()
        server = self.server()
        if held is not None:
            server.place_hold(held, "it is moved")
        self.running.start({*before, *stopped}, self.servers, stopped)
        return server

    def restore(self, *servers: str) -> None:
        """Have backups of servers restored, for which these were stopped."""
        for server in servers:
            record = self.store.begin_restore(1, server, "a backup", truncate=False)
            self.store.start_after_restore(server)
            self.store.end_restore(2, record, Ending.SUCCESS)

    def go_on(self) -> None:
        """Have the engine and the Panel answer, and what waits be tried again."""
        self.environment.faults.clear()
        self.panel.faults.clear()
        self.clock.pump([10] * 12)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RestartedNode]:
    node = RestartedNode(tmp_path)
    yield node
    node.close()


def test_servers_are_recorded_from_their_start_to_their_stop(node: RestartedNode) -> None:
    server = node.server()
    do(server, PowerAction.START).value()
    assert node.states == {UUID: "starting"}
    node.process().say(b"up\n")
    assert node.states == {UUID: "running"}
    do(server, PowerAction.STOP).value()
    assert node.states == {UUID: "offline"}


def test_a_crashed_server_that_stays_offline_is_not_recorded(node: RestartedNode) -> None:
    running(node)
    node.process().end(1)
    assert node.states == {UUID: "starting"}, "it was started again"
    node.process().end(1)
    assert node.states == {UUID: "offline"}


def test_the_end_of_the_node_leaves_its_servers_recorded(node: RestartedNode) -> None:
    server = node.server()
    node.panel.faults["describe"] = Deferred()
    do(server, PowerAction.START)
    Outcome.of(node.running.stop()).value()
    do(server, PowerAction.KILL).value()
    assert node.states == {UUID: "starting"}


def test_a_server_that_ran_and_does_not_is_started(node: RestartedNode) -> None:
    server = node.boot_after(UUID)
    assert server.state is PowerState.STARTING
    assert "was running when this node ended" in node.told("daemon message")[0]


def test_a_server_that_still_runs_is_not_started(node: RestartedNode) -> None:
    node.environment.run(configuration().settings)
    server = node.boot_after(UUID)
    assert server.state is PowerState.RUNNING
    assert node.called("start") == []
    assert node.states == {UUID: "running"}


def test_a_server_that_is_gone_is_forgotten(node: RestartedNode) -> None:
    node.boot_after(OTHER)
    assert node.states == {}


@pytest.mark.promise("arrived-server-is-started")
@pytest.mark.parametrize("silent", ["engine", "panel"])
def test_what_does_not_answer_is_waited_for(node: RestartedNode, silent: str) -> None:
    if silent == "engine":
        node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    else:
        node.panel.faults["describe"] = PanelUnreachable("no answer", "it is a test")
    server = node.boot_after(UUID)
    node.clock.advance(10)
    assert node.called("recreate", "start") == []
    node.go_on()
    assert server.state is PowerState.STARTING


@pytest.mark.promise("arrived-server-is-started")
def test_a_server_that_somebody_starts_meanwhile_is_left_to_that(node: RestartedNode) -> None:
    node.panel.faults["describe"] = PanelUnreachable("no answer", "it is a test")
    server = node.boot_after(UUID)
    do(server, PowerAction.START).error(PanelUnreachable)
    node.go_on()
    assert server.state is PowerState.OFFLINE


def test_a_held_server_is_not_started_and_says_why(node: RestartedNode) -> None:
    server = node.boot_after(UUID, held=Operation.TRANSFER_IN)
    assert server.state is PowerState.OFFLINE
    assert (
        "is not started: server is currently being transferred" in (node.told("daemon message")[0])
    )
    assert node.states == {UUID: "offline"}


def test_a_server_that_a_transfer_holds_is_left_to_that(node: RestartedNode) -> None:
    server = node.boot_after(UUID, held=Operation.TRANSFER_OUT)
    assert server.starts_if_it_stays
    assert server.state is PowerState.OFFLINE
    assert node.states == {UUID: "running"}


def test_a_server_that_a_transfer_takes_before_its_turn_is_left_to_that(
    node: RestartedNode,
) -> None:
    node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    server = node.boot_after(UUID)
    server.place_hold(Operation.TRANSFER_OUT, "it is moved")
    node.go_on()
    assert server.starts_if_it_stays
    assert node.states == {UUID: "running"}
    assert node.told("daemon message") == []


def test_a_due_start_is_left_to_a_transfer_until_somebody_starts_or_stops_the_server(
    node: RestartedNode,
) -> None:
    node.restore(UUID)
    server = node.boot_after(held=Operation.TRANSFER_OUT)
    assert (server.starts_if_it_stays, node.states) == (True, {UUID: "running"})
    assert node.store.due_starts() == [], "the next daemon would start it after its stop as well"
    server.release()
    do(server, PowerAction.START).value()
    assert not server.starts_if_it_stays
    do(server, PowerAction.STOP).value()
    assert Outcome.of(node.running.load()).value() == ()


@pytest.mark.promise("cancelled-direct-server-stays-off")
def test_a_server_that_another_node_may_run_is_not_started_by_a_later_daemon(
    node: RestartedNode,
) -> None:
    server = node.boot_after(UUID, held=Operation.TRANSFER_OUT)
    node.servers.leave_off(UUID)
    server.release()
    assert (server.starts_if_it_stays, node.states) == (False, {UUID: "offline"})


@pytest.mark.parametrize("is_engine_away", [False, True])
def test_a_server_that_another_node_may_run_is_not_started_by_this_daemon(
    node: RestartedNode, is_engine_away: bool
) -> None:
    if is_engine_away:
        node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
        server = node.boot_after(UUID)
        node.servers.leave_off(UUID)
        node.environment.faults.clear()
    else:
        (node.data.parent / "states.json").write_text(json.dumps({UUID: "running"}))
        before = Outcome.of(node.running.load()).value()
        node.servers.leave_off(UUID)  # before its Panel has listed it
        server = node.server()
        node.running.start(before, node.servers)
    node.clock.pump([10] * 12)
    assert (server.state, node.states) == (PowerState.OFFLINE, {UUID: "offline"})
    assert node.called("start") == []


def arrive(node: RestartedNode) -> Server:
    """Start a server that ran when it was moved here."""
    server = node.server()
    Outcome.of(node.running.start_in_turn(server, "elsewhere", repeat_for=300.0))
    return server


@pytest.mark.promise("arrived-server-is-started")
def test_the_start_of_one_that_arrived_is_repeated_for_its_time(node: RestartedNode) -> None:
    node.environment.faults["recreate"] = EnvironmentFailed("the port 25565 is taken")
    server = arrive(node)
    node.clock.pump([10] * 60)
    attempts = len(node.called("recreate"))
    assert attempts > 5
    told = node.told("daemon message")
    assert sum("the port 25565 is taken" in line for line in told) == attempts
    assert sum("The start is tried again, for up to" in line for line in told) == attempts - 1
    assert "free its port or give it another one in the Panel" in told[-1]
    assert server.state is PowerState.OFFLINE
    node.environment.faults.clear()
    node.clock.pump([10] * 60)
    assert (len(node.called("recreate")), node.called("start")) == (attempts, [])


@pytest.mark.promise("arrived-server-is-started")
@pytest.mark.parametrize("action", [PowerAction.STOP, PowerAction.KILL])
def test_what_a_person_does_ends_the_repetition(node: RestartedNode, action: PowerAction) -> None:
    node.environment.faults["recreate"] = EnvironmentFailed("the port 25565 is taken")
    server = arrive(node)
    do(server, action).value()
    node.environment.faults.clear()
    node.clock.pump([10] * 60)
    assert (server.state, node.called("start")) == (PowerState.OFFLINE, [])


def test_servers_whose_starts_are_repeated_do_not_keep_others_waiting(
    node: RestartedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.servers.running.CONCURRENT_STARTS", 1)
    node.restart()
    node.server()
    other = node.server(configuration(OTHER))
    node.environment.faults["recreate"] = EnvironmentFailed("the port 25565 is taken")
    Outcome.of(node.running.start_in_turn(node.servers.get(UUID), "elsewhere", repeat_for=300.0))
    node.environment.faults.clear()
    Outcome.of(node.running.start_in_turn(other, "elsewhere", repeat_for=300.0))
    assert other.state is PowerState.STARTING


def test_a_start_that_fails_is_not_repeated(node: RestartedNode) -> None:
    node.environment.faults["recreate"] = EnvironmentFailed("no image")
    server = node.boot_after(UUID)
    assert server.state is PowerState.OFFLINE
    assert node.states == {UUID: "offline"}


def test_a_server_that_was_stopped_since_is_not_started(node: RestartedNode) -> None:
    node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    server = node.boot_after(UUID)
    node.environment.faults.clear()
    do(server, PowerAction.STOP).value()
    node.clock.pump([10] * 12)
    assert server.state is PowerState.OFFLINE
    assert node.called("start") == []


def test_an_engine_that_goes_away_during_a_start_is_waited_for(node: RestartedNode) -> None:
    for name in ("recreate", "remove"):
        node.environment.faults[name] = EnvironmentFailed("the engine is away", is_silent=True)
    server = node.boot_after(UUID)
    node.environment.faults["adopt"] = EnvironmentFailed("the engine is away", is_silent=True)
    node.clock.pump([10] * 12)
    assert (server.state, len(node.called("recreate"))) == (PowerState.OFFLINE, 1)
    assert server.starts_if_it_stays, "where a transfer takes it meanwhile"
    node.go_on()
    assert (server.state, server.starts_if_it_stays) == (PowerState.STARTING, False)


def test_a_server_that_an_engine_has_started_without_an_answer_is_left_running(
    node: RestartedNode,
) -> None:
    node.environment.faults["recreate"] = EnvironmentFailed("the engine is away", is_silent=True)
    server = node.boot_after(UUID)
    node.environment.faults.clear()
    node.environment.run(configuration().settings)
    node.clock.pump([10] * 12)
    assert (server.state, node.called("start")) == (PowerState.RUNNING, [])


def test_a_server_whose_start_was_due_is_started_once(node: RestartedNode) -> None:
    node.restore(UUID, OTHER)
    server = node.boot_after()
    assert server.state is PowerState.STARTING
    assert "was running before its backup was restored" in node.told("daemon message")[0]
    assert node.store.due_starts() == [], "the other one is gone"


def test_a_start_stays_due_until_the_engine_has_answered(node: RestartedNode) -> None:
    node.restore(UUID)
    node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    node.boot_after()
    Outcome.of(node.running.stop()).value()
    assert node.store.due_starts() == [UUID]


@pytest.mark.promise("restore-starts-what-it-stopped")
def test_a_server_that_is_still_stopping_for_a_restore_is_stopped_and_started(
    node: RestartedNode,
) -> None:
    node.environment.run(configuration().settings)
    node.environment.stubborn.add(UUID)
    server = node.boot_after(stopped=(UUID,))
    assert (server.state, node.called("start")) == (PowerState.STOPPING, [])
    node.environment.running[UUID].end(0)
    assert (server.state, len(node.called("start"))) == (PowerState.STARTING, 1)
    assert node.called("kill") == []


def test_a_stop_that_an_engine_does_not_take_is_tried_again(node: RestartedNode) -> None:
    node.environment.run(configuration().settings)
    node.environment.faults["command"] = EnvironmentFailed("the engine is away", is_silent=True)
    server = node.boot_after(stopped=(UUID,))
    assert server.state is PowerState.RUNNING
    node.go_on()
    assert (server.state, len(node.called("start"))) == (PowerState.STARTING, 1)


def test_a_stop_that_an_engine_refuses_leaves_the_server_running(node: RestartedNode) -> None:
    node.environment.run(configuration().settings)
    node.environment.faults["command"] = EnvironmentFailed("it has no console")
    server = node.boot_after(stopped=(UUID,))
    assert (server.state, node.called("start")) == (PowerState.RUNNING, [])
