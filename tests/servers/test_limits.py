"""Limits and suspensions that the Panel changes while a server runs."""

from __future__ import annotations

import attrs
import pytest

from tests.servers.harness import UUID, FakeNode, Outcome, configuration, running
from wingsd.errors import BadRequest, EnvironmentFailed
from wingsd.events import SUSPENDED
from wingsd.panel.schemas import Build, Configuration
from wingsd.servers.power_states import PowerAction, PowerState

UPDATE = ("update", UUID)


def limited(build: Build) -> Configuration:
    known = configuration()
    return attrs.evolve(known, settings=attrs.evolve(known.settings, build=build))


def test_changed_limits_are_applied_while_it_runs(node: FakeNode) -> None:
    server = running(node)
    node.panel.known[UUID] = limited(Build(memory_limit=512))
    Outcome.of(server.sync()).value()
    assert node.environment.calls.count(UPDATE) == 1
    assert node.environment.containers[UUID].build.memory_limit == 512
    Outcome.of(server.sync()).value()
    assert node.environment.calls.count(UPDATE) == 1


def test_limits_given_with_the_call_are_applied_without_asking_the_panel(node: FakeNode) -> None:
    server = running(node)
    asked = len(node.panel.calls)
    Outcome.of(server.sync(limited(Build(cpu_limit=30)))).value()
    assert node.environment.containers[UUID].build.cpu_limit == 30
    assert server.configuration.settings.build.cpu_limit == 30
    assert len(node.panel.calls) == asked


def test_a_server_that_is_offline_gets_its_limits_at_the_next_start(node: FakeNode) -> None:
    server = node.server()
    Outcome.of(server.sync(limited(Build(cpu_limit=30)))).value()
    assert UPDATE not in node.environment.calls


def test_limits_that_the_engine_refuses_are_told_in_the_console(node: FakeNode) -> None:
    server = running(node)
    node.environment.faults["update"] = EnvironmentFailed("Docker refuses: too little")
    Outcome.of(server.sync(limited(Build(memory_limit=1)))).value()
    (message,) = node.told("daemon message")
    assert message.endswith("take effect at its next start: Docker refuses: too little")
    del node.environment.faults["update"]
    node.environment.update_warnings.append("no weight")
    Outcome.of(server.sync(limited(Build(io_weight=10)))).value()
    assert node.told("daemon message")[-1].endswith("not applied to the running server: no weight")
    assert server.state is PowerState.RUNNING


def test_a_suspended_server_says_so_to_this_node_and_is_not_started(node: FakeNode) -> None:
    server = node.server()
    Outcome.of(server.sync(configuration(suspended=True))).value()
    assert node.told(SUSPENDED) == [""]
    for action in (PowerAction.START, PowerAction.RESTART):
        Outcome.of(server.power(action)).error(BadRequest)
    for action in (PowerAction.STOP, PowerAction.KILL):
        Outcome.of(server.power(action)).value()
    assert server.details().is_suspended
    node.panel.known[UUID] = configuration()
    Outcome.of(server.sync()).value()
    assert server.state is PowerState.OFFLINE
    Outcome.of(server.power(PowerAction.START)).value()


def test_a_suspension_that_the_start_learns_of_closes_consoles_too(node: FakeNode) -> None:
    server = node.server()
    node.panel.known[UUID] = configuration(suspended=True)
    Outcome.of(server.power(PowerAction.START)).error(BadRequest)
    assert node.told(SUSPENDED) == [""]
    assert server.state is PowerState.OFFLINE


@pytest.mark.parametrize("suspended", [True, False])
def test_a_server_that_runs_suspended_at_the_nodes_start_is_stopped(
    node: FakeNode, suspended: bool
) -> None:
    node.panel.known[UUID] = configuration(suspended=suspended)
    (node.data / UUID).mkdir()
    node.environment.run(configuration().settings)
    Outcome.of(node.servers.boot()).value()
    assert (UUID in node.environment.running) is not suspended
