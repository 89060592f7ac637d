"""Stopping a server within a time, as a transfer needs it."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from tests.servers.harness import UUID, FakeNode, Outcome, do, running
from tests.support import Hang
from wingsd.errors import Conflict, ConsoleBlocked
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState


def test_a_server_that_stops_in_time_is_not_killed(node: FakeNode) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    stopping = Outcome.of(server.stop_within(60))
    node.clock.advance(59)
    node.process().end()
    stopping.value()
    assert node.called("command", "kill") == ["command"]
    assert node.clock.getDelayedCalls() == []


def test_a_server_that_does_not_stop_in_time_is_killed(node: FakeNode) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    stopping = Outcome.of(server.stop_within(60))
    node.clock.advance(61)
    stopping.value()
    assert server.state is PowerState.OFFLINE
    assert "60 s" in node.told("daemon message")[0]


def test_an_offline_server_is_not_stopped(node: FakeNode) -> None:
    server = node.server()
    Outcome.of(server.stop_within(60)).value()
    assert node.events == []


def test_a_start_under_way_is_cancelled(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["recreate"] = Hang()
    starting = do(server, PowerAction.START)
    Outcome.of(server.stop_within(60)).value()
    starting.error(Conflict)
    assert server.state is PowerState.OFFLINE


@pytest.mark.parametrize("seconds", [20, 70])
def test_a_stop_under_way_is_waited_for_within_the_same_time(node: FakeNode, seconds: int) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    earlier = do(server, PowerAction.STOP)
    stopping = Outcome.of(server.stop_within(60))
    node.clock.advance(seconds)
    if seconds < 60:
        assert not stopping.over
        node.process().end()
    earlier.value()
    stopping.value()
    assert node.called("kill") == ([] if seconds < 60 else ["kill"])
    assert node.clock.getDelayedCalls() == []


def test_a_restart_under_way_ends_offline(node: FakeNode) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    restarting = do(server, PowerAction.RESTART)
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    stopping = Outcome.of(server.stop_within(60))
    node.process().end()
    restarting.error(Conflict)
    stopping.value()
    assert server.state is PowerState.OFFLINE


@pytest.mark.parametrize("earlier", [False, True])
def test_a_cancelled_stop_does_not_kill(node: FakeNode, earlier: bool) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    stop = do(server, PowerAction.STOP) if earlier else None
    stopping = Outcome.of(server.stop_within(60))
    stopping.deferred.cancel()
    stopping.error(CancelledError)
    node.clock.advance(120)
    assert node.called("kill") == []
    node.process().end()
    assert server.state is PowerState.OFFLINE
    assert node.told("daemon message") == []
    if stop is not None:
        stop.value()
    do(server, PowerAction.START).value()


def test_a_stop_cancelled_during_its_command_leaves_the_server_running(node: FakeNode) -> None:
    server = running(node)
    node.environment.faults["command"] = Hang()
    stopping = Outcome.of(server.stop_within(60))
    stopping.deferred.cancel()
    stopping.error(CancelledError)
    assert server.state is PowerState.RUNNING
    # It may have heard it: no crash.
    node.process().end()
    assert node.told("daemon message") == []


def test_a_server_that_does_not_read_its_console_is_killed(node: FakeNode) -> None:
    server = running(node)
    node.environment.faults["command"] = ConsoleBlocked("it did not read its console")
    stopping = Outcome.of(server.stop_within(60))
    assert node.told("status")[-1] == "stopping"
    node.clock.advance(61)
    stopping.value()
    assert server.state is PowerState.OFFLINE
    assert "did not read its console" in node.told("daemon message")[0]
