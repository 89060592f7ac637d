"""How a node comes to know its servers when it starts, and lets go of them when it ends."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID, House, Outcome, configuration
from tests.support import Hang
from tests.support.logged_errors import LoggedErrors
from wingsd.errors import EnvironmentFailed, ServerNotFound, ServersNotLoaded
from wingsd.panel.errors import NodeTokenRefused, PanelUnreachable
from wingsd.servers.power_states import PowerState

DOWN = PanelUnreachable("down", "x")


def boot(house: House) -> Outcome:
    return Outcome.of(house.servers.boot())


def test_servers_are_loaded_the_panel_told_and_what_runs_taken_up(house: House) -> None:
    for uuid in (UUID, OTHER):
        house.panel.known[uuid] = configuration(uuid)
        (house.data / uuid).mkdir()
    house.environment.run(configuration().settings)
    boot(house).value()
    assert house.panel.calls == [("servers",), ("reset",)]
    assert house.servers.loaded
    assert [server.state.value for server in house.servers.all()] == ["running", "offline"]
    assert house.told("status") == ["running"]
    house.process().say(b"hello\n")
    assert house.told("console output") == ["hello"]
    house.process().end(1)
    assert house.servers.get(UUID).state is PowerState.OFFLINE
    with pytest.raises(ServerNotFound, match="The requested resource was not found"):
        house.servers.get("00000000-0000-4000-8000-000000000000")


def test_until_then_nothing_is_known(house: House) -> None:
    house.panel.faults["servers"] = Deferred()
    boot(house)
    assert not house.servers.loaded
    with pytest.raises(ServersNotLoaded):
        house.servers.get(UUID)
    with pytest.raises(ServersNotLoaded):
        house.servers.all()
    Outcome.of(house.servers.create(UUID, start_on_completion=False)).error(ServersNotLoaded)
    Outcome.of(house.servers.delete(UUID)).error(ServersNotLoaded)
    arriving = house.servers.admit(configuration(), "it is being received")
    assert house.servers.get(UUID) is arriving


def test_what_arrived_during_the_boot_stays_as_it_is(house: House) -> None:
    waiting = house.panel.faults["servers"] = Deferred()
    house.panel.known[UUID] = configuration()
    booting = boot(house)
    arriving = house.servers.admit(configuration(), "it is being received")
    (house.data / UUID).mkdir()
    waiting.callback(None)
    booting.value()
    assert house.servers.get(UUID) is arriving


def test_a_panel_that_is_down_is_asked_for_ever(house: House, logged_errors: LoggedErrors) -> None:
    house.panel.faults["servers"] = DOWN
    booting = boot(house)
    waits = []
    for _ in range(12):
        (call,) = house.clock.getDelayedCalls()
        waits.append(call.getTime() - house.clock.seconds())
        house.clock.advance(waits[-1])
    assert waits[0] < 2
    assert 40 < waits[-1] < 80
    assert len([line for line in logged_errors.lines if "was asked" in line]) == 13
    house.panel.faults.clear()
    house.clock.advance(120)
    booting.value()
    assert house.servers.loaded


def test_a_node_whose_token_is_refused_reads_what_to_do(
    house: House, logged_errors: LoggedErrors
) -> None:
    house.panel.faults["servers"] = NodeTokenRefused("GET /servers was answered 403: no", 403)
    booting = boot(house)
    (line,) = [line for line in logged_errors.lines if "was asked" in line]
    assert "the Panel does not accept this node's token: copy the node's configuration" in line
    house.panel.faults.clear()
    house.clock.advance(2)
    booting.value()


def test_a_reset_that_fails_is_told_again_and_keeps_nobody_waiting(house: House) -> None:
    house.panel.faults["reset"] = DOWN
    boot(house).value()
    house.panel.faults.clear()
    house.clock.advance(2)
    assert house.panel.calls == [("servers",), ("reset",), ("reset",)]


def test_an_engine_that_does_not_answer_is_asked_again(
    house: House, logged_errors: LoggedErrors
) -> None:
    for uuid in (UUID, OTHER):
        house.panel.known[uuid] = configuration(uuid)
        (house.data / uuid).mkdir()
        house.environment.run(configuration(uuid).settings)
    house.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    boot(house).value()
    assert {server.state for server in house.servers.all()} == {PowerState.OFFLINE}
    assert len([line for line in logged_errors.lines if "2 servers run" in line]) == 1
    house.clock.advance(2)
    house.servers.forget(OTHER)
    house.environment.faults.clear()
    house.clock.advance(120)
    assert house.servers.get(UUID).state is PowerState.RUNNING
    assert house.environment.calls.count(("adopt", OTHER)) == 2
    assert house.clock.getDelayedCalls() == []


def test_a_few_at_a_time_are_looked_for(house: House) -> None:
    uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(10)]
    house.panel.known = {uuid: configuration(uuid) for uuid in uuids}
    hang = house.environment.faults["adopt"] = Hang()
    booting = boot(house)
    assert len(house.called("adopt")) == 4
    house.environment.faults.clear()
    hang.release()
    booting.value()
    assert len(house.called("adopt")) == 10


def test_what_is_suspended_and_runs_is_stopped(house: House) -> None:
    house.environment.run(configuration().settings)
    house.server(configuration(suspended=True))
    assert house.servers.get(UUID).state is PowerState.OFFLINE


def test_at_the_end_containers_go_on_and_nothing_waits(house: House) -> None:
    house.environment.run(configuration().settings)
    house.server()
    house.panel.faults["servers"] = DOWN
    booting = boot(house)
    Outcome.of(house.servers.stop()).value()
    booting.value()
    house.process().say(b"nobody listens\n")
    assert house.called("detach") == ["detach"]
    assert house.events == []
    assert house.clock.getDelayedCalls() == []
