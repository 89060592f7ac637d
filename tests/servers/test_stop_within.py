"""Stopping a server within a time, as a transfer needs it."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from tests.servers.harness import UUID, House, Outcome, do, running
from tests.support import Hang
from wingsd.docker.runtime import ConsoleBlocked
from wingsd.errors import Conflict
from wingsd.servers.power_states import PowerAction, PowerState


def test_a_server_that_stops_in_time_is_not_killed(house: House) -> None:
    server = running(house)
    house.environment.stubborn.add(UUID)
    server.place_hold("the server is being transferred")
    stopping = Outcome.of(server.stop_within(60))
    house.clock.advance(59)
    house.process().end()
    stopping.value()
    assert house.called("command", "kill") == ["command"]
    assert house.clock.getDelayedCalls() == []


def test_a_server_that_does_not_is(house: House) -> None:
    server = running(house)
    house.environment.stubborn.add(UUID)
    stopping = Outcome.of(server.stop_within(60))
    house.clock.advance(61)
    stopping.value()
    assert server.state is PowerState.OFFLINE
    assert "60 s" in house.told("daemon message")[0]


def test_one_that_is_offline_needs_nothing(house: House) -> None:
    server = house.server()
    Outcome.of(server.stop_within(60)).value()
    assert house.events == []


def test_a_start_under_way_is_called_off_for_it(house: House) -> None:
    server = house.server()
    house.environment.faults["recreate"] = Hang()
    starting = do(server, PowerAction.START)
    Outcome.of(server.stop_within(60)).value()
    starting.error(Conflict)
    assert server.state is PowerState.OFFLINE


@pytest.mark.parametrize("seconds", [20, 70])
def test_a_stop_under_way_is_waited_for_within_the_same_time(house: House, seconds: int) -> None:
    server = running(house)
    house.environment.stubborn.add(UUID)
    earlier = do(server, PowerAction.STOP)
    stopping = Outcome.of(server.stop_within(60))
    house.clock.advance(seconds)
    if seconds < 60:
        assert not stopping.over
        house.process().end()
    earlier.value()
    stopping.value()
    assert house.called("kill") == ([] if seconds < 60 else ["kill"])
    assert house.clock.getDelayedCalls() == []


def test_a_restart_under_way_ends_offline(house: House) -> None:
    server = running(house)
    house.environment.stubborn.add(UUID)
    restarting = do(server, PowerAction.RESTART)
    server.place_hold("the server is being transferred")
    stopping = Outcome.of(server.stop_within(60))
    house.process().end()
    restarting.error(Conflict)
    stopping.value()
    assert server.state is PowerState.OFFLINE


@pytest.mark.parametrize("earlier", [False, True])
def test_cancelled_it_asks_for_nothing_more(house: House, earlier: bool) -> None:
    server = running(house)
    house.environment.stubborn.add(UUID)
    stop = do(server, PowerAction.STOP) if earlier else None
    stopping = Outcome.of(server.stop_within(60))
    stopping.deferred.cancel()
    stopping.error(CancelledError)
    house.clock.advance(120)
    assert house.called("kill") == []
    house.process().end()
    assert server.state is PowerState.OFFLINE
    assert house.told("daemon message") == []
    if stop is not None:
        stop.value()
    do(server, PowerAction.START).value()


def test_cancelled_while_it_is_asked_to_stop_it_goes_on(house: House) -> None:
    server = running(house)
    house.environment.faults["command"] = Hang()
    stopping = Outcome.of(server.stop_within(60))
    stopping.deferred.cancel()
    stopping.error(CancelledError)
    assert server.state is PowerState.RUNNING
    # It may have heard it: no crash.
    house.process().end()
    assert house.told("daemon message") == []


def test_one_that_does_not_read_its_console_is_killed_in_the_end(house: House) -> None:
    server = running(house)
    house.environment.faults["command"] = ConsoleBlocked("it did not read its console")
    stopping = Outcome.of(server.stop_within(60))
    assert house.told("status")[-1] == "stopping"
    house.clock.advance(61)
    stopping.value()
    assert server.state is PowerState.OFFLINE
    assert "did not read its console" in house.told("daemon message")[0]
