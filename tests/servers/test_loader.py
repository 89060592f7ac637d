"""How a node comes to know its servers when it starts, and lets go of them when it ends."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, boot, configuration
from tests.support import Hang
from tests.support.logged_errors import Logged
from wingsd.errors import (
    EnvironmentFailed,
    NodeTokenRefused,
    PanelUnreachable,
    ServerNotFound,
    ServersNotLoaded,
)
from wingsd.servers.power_states import PowerState

DOWN = PanelUnreachable("down", "x")


def test_servers_are_loaded_the_panel_reset_and_runs_adopted(node: FakeNode) -> None:
    for uuid in (UUID, OTHER):
        node.panel.known[uuid] = configuration(uuid)
        (node.data / uuid).mkdir()
    node.environment.run(configuration().settings)
    boot(node).value()
    assert node.panel.calls == [("servers",), ("reset",)]
    assert node.servers.loaded
    assert [server.state.value for server in node.servers.all()] == ["running", "offline"]
    assert node.told("status") == ["running"]
    node.process().say(b"hello\n")
    assert node.told("console output") == ["hello"]
    node.process().end(0)
    assert node.servers.get(UUID).state is PowerState.OFFLINE
    with pytest.raises(ServerNotFound, match="does not exist on this instance"):
        node.servers.get("00000000-0000-4000-8000-000000000000")


def test_before_the_boot_servers_are_not_loaded(node: FakeNode) -> None:
    node.panel.faults["servers"] = Deferred()
    boot(node)
    assert not node.servers.loaded
    with pytest.raises(ServersNotLoaded):
        node.servers.get(UUID)
    with pytest.raises(ServersNotLoaded):
        node.servers.all()
    Outcome.of(node.servers.create(UUID, start_on_completion=False)).error(ServersNotLoaded)
    Outcome.of(node.servers.delete(UUID)).error(ServersNotLoaded)
    arriving = node.servers.admit(configuration(), "it is being received")
    assert node.servers.get(UUID) is arriving


def test_what_arrived_during_the_boot_stays_as_it_is(node: FakeNode) -> None:
    waiting = node.panel.faults["servers"] = Deferred()
    node.panel.known[UUID] = configuration()
    booting = boot(node)
    arriving = node.servers.admit(configuration(), "it is being received")
    (node.data / UUID).mkdir()
    waiting.callback(None)
    booting.value()
    assert node.servers.get(UUID) is arriving


def test_servers_are_requested_until_the_panel_answers(node: FakeNode, logged: Logged) -> None:
    node.panel.faults["servers"] = DOWN
    booting = boot(node)
    waits = []
    for _ in range(12):
        (call,) = node.clock.getDelayedCalls()
        waits.append(call.getTime() - node.clock.seconds())
        node.clock.advance(waits[-1])
    assert waits[0] < 2
    assert 40 < waits[-1] < 80
    assert len([line for line in logged.lines if "is repeated" in line]) == 13
    node.panel.faults.clear()
    node.clock.advance(120)
    booting.value()
    assert node.servers.loaded


def test_a_node_whose_token_is_refused_reads_what_to_do(node: FakeNode, logged: Logged) -> None:
    node.panel.faults["servers"] = NodeTokenRefused("GET /servers was answered 403: no", 403)
    booting = boot(node)
    (line,) = [line for line in logged.lines if "is repeated" in line]
    assert "the Panel does not accept this node's token: copy the node's configuration" in line
    node.panel.faults.clear()
    node.clock.advance(2)
    booting.value()


def test_a_failed_reset_is_repeated_in_the_background(node: FakeNode) -> None:
    node.panel.faults["reset"] = DOWN
    boot(node).value()
    node.panel.faults.clear()
    node.clock.advance(2)
    assert node.panel.calls == [("servers",), ("reset",), ("reset",)]


def test_an_engine_that_does_not_answer_is_asked_again(node: FakeNode, logged: Logged) -> None:
    for uuid in (UUID, OTHER):
        node.panel.known[uuid] = configuration(uuid)
        (node.data / uuid).mkdir()
        node.environment.run(configuration(uuid).settings)
    node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    boot(node).value()
    assert {server.state for server in node.servers.all()} == {PowerState.OFFLINE}
    assert len([line for line in logged.lines if "2 servers are in" in line]) == 1
    node.clock.advance(2)
    node.servers.discard(OTHER)
    node.environment.faults.clear()
    node.clock.advance(120)
    assert node.servers.get(UUID).state is PowerState.RUNNING
    assert node.environment.calls.count(("adopt", OTHER)) == 2
    assert node.clock.getDelayedCalls() == []


def test_at_most_four_servers_are_adopted_at_a_time(node: FakeNode) -> None:
    uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(10)]
    node.panel.known = {uuid: configuration(uuid) for uuid in uuids}
    hang = node.environment.faults["adopt"] = Hang()
    booting = boot(node)
    assert len(node.called("adopt")) == 4
    node.environment.faults.clear()
    hang.release()
    booting.value()
    assert len(node.called("adopt")) == 10


def test_what_is_suspended_and_runs_is_stopped(node: FakeNode) -> None:
    node.environment.run(configuration().settings)
    node.server(configuration(suspended=True))
    assert node.servers.get(UUID).state is PowerState.OFFLINE


def test_at_the_end_containers_go_on_and_nothing_waits(node: FakeNode) -> None:
    node.environment.run(configuration().settings)
    node.server()
    node.panel.faults["servers"] = DOWN
    booting = boot(node)
    Outcome.of(node.servers.stop()).value()
    booting.value()
    node.process().say(b"nobody listens\n")
    assert node.called("detach") == ["detach"]
    assert node.events == []
    assert node.clock.getDelayedCalls() == []
