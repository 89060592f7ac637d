"""Installations over a restart of the node, and what is left of them."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, boot, configuration, do
from tests.servers.installing import DOWN, ended, installing, log, reinstall
from tests.support import Hang
from wingsd.errors import EnvironmentFailed, ServerBusy
from wingsd.panel.schemas import InstallScript
from wingsd.servers.installations import InstallOptions
from wingsd.servers.power_states import PowerAction


@pytest.mark.promise("installation-continues")
def test_a_script_that_runs_on_is_watched_by_the_next_node(node: FakeNode) -> None:
    installing(node)
    script = node.environment.scripts[UUID]
    script.say(b"one\n")
    node.restart()
    script.say(b"two\n")
    boot(node).value()
    node.events.clear()
    error = do(node.servers.get(UUID), PowerAction.START).error(ServerBusy)
    assert error.message == "server is currently installing"
    script.say(b"three\n")
    assert node.told("install output") == ["three"]
    script.end()
    assert log(node) == "one\ntwo\nthree\n"
    ended(node, successful=True)


@pytest.mark.promise("installation-continues")
def test_the_restart_is_reported_when_its_installations_have_ended(node: FakeNode) -> None:
    """The Panel would show a half installed server as installed."""
    installing(node)
    node.panel.faults["reinstalled"] = DOWN
    node.restart()
    node.panel.calls.clear()
    boot(node).value()
    node.environment.scripts[UUID].end()
    node.clock.advance(20)
    assert ("reset",) not in node.panel.calls
    node.panel.faults.clear()
    node.clock.pump([20] * 5)
    assert node.panel.calls[-2:] == [("reinstalled", UUID, True), ("reset",)]


def test_nothing_is_installed_while_the_restart_is_being_reported(node: FakeNode) -> None:
    node.panel.known[UUID] = configuration()
    (node.data / UUID).mkdir()
    reporting = node.panel.faults["reset"] = Deferred()
    boot(node).value()
    server = node.servers.get(UUID)
    refused = reinstall(node, server), Outcome.of(node.servers.create(OTHER))
    node.clock.advance(10)
    for outcome in refused:
        outcome.error(ServerBusy)
    assert (server.hold, node.unfinished()) == ("", [])
    waiting = reinstall(node, server)
    assert not waiting.over
    reporting.callback(None)
    waiting.value()
    assert node.unfinished() == [UUID]
    assert not [call for call in node.panel.calls if "installed" in call[0]]


@pytest.mark.promise("installation-continues")
@pytest.mark.parametrize(
    ("status", "successful"), [(0, True), (1, True), (137, False), (255, False)]
)
def test_a_script_that_ended_meanwhile_is_reported(
    node: FakeNode, status: int, successful: bool
) -> None:
    installing(node)
    script = node.environment.scripts[UUID]
    node.restart()
    script.say(b"all of it\n")
    script.end(status)
    boot(node).value()
    assert log(node).startswith("all of it\n")
    assert ("reinstalled", UUID, successful) in node.panel.calls
    assert (node.environment.scripts, node.unfinished(), node.scripts()) == ({}, [], [])


@pytest.mark.promise("installation-continues")
def test_a_script_is_resumed_when_the_engine_answers_again(node: FakeNode) -> None:
    installing(node)
    node.restart()
    node.environment.faults["find_installer"] = EnvironmentFailed(
        "the Docker engine does not answer"
    )
    boot(node).value()
    node.clock.pump([20] * 5)
    assert node.unfinished() == [UUID]
    node.environment.faults.clear()
    node.clock.advance(60)
    node.environment.scripts[UUID].end()
    ended(node, successful=True)


@pytest.mark.promise("installation-continues")
def test_an_installation_can_be_aborted_while_the_engine_does_not_answer(node: FakeNode) -> None:
    installing(node)
    node.restart()
    node.environment.faults["find_installer"] = EnvironmentFailed(
        "the Docker engine does not answer"
    )
    boot(node).value()
    node.installations.abort(UUID)
    ended(node, successful=False)


@pytest.mark.promise("installation-continues")
def test_an_abort_holds_when_the_node_ends_before_the_engine_has_answered(
    node: FakeNode,
) -> None:
    installing(node)
    hang = node.environment.faults["copy_output"] = Hang()
    node.installations.abort(UUID)
    node.restart()
    node.environment.faults.clear()
    boot(node).value()
    assert ("reinstalled", UUID, False) in node.panel.calls
    assert (node.environment.scripts, node.unfinished(), node.scripts()) == ({}, [], [])
    hang.release()


@pytest.mark.promise("installation-continues")
def test_a_script_whose_container_is_gone_has_failed(node: FakeNode) -> None:
    installing(node)
    node.environment.scripts.clear()
    node.restart()
    boot(node).value()
    assert "its container is gone" in node.told("daemon message")[-1]
    assert "its container is gone" in log(node)
    assert ("reinstalled", UUID, False) in node.panel.calls
    assert node.unfinished() == []


@pytest.mark.promise("installation-continues")
@pytest.mark.parametrize("where", ["create_installer", "start_installer"])
def test_a_script_that_did_not_run_yet_is_begun_again(node: FakeNode, where: str) -> None:
    server = node.server()
    hang = node.environment.faults[where] = Hang()
    given = InstallScript("img:2", "ash", "given")
    reinstall(node, server, InstallOptions(script=given)).value()
    node.restart()
    node.environment.faults.clear()
    boot(node).value()
    assert node.environment.scripts[UUID].runs
    assert node.environment.scripts[UUID].script == given
    node.environment.scripts[UUID].end()
    assert ("reinstalled", UUID, True) in node.panel.calls
    hang.release()


@pytest.mark.promise("installation-continues")
def test_a_restart_does_not_prolong_the_limit(node: FakeNode) -> None:
    installing(node)
    node.clock.advance(1000)
    node.restart()
    node.clock.advance(700)
    boot(node).value()
    node.clock.advance(99)
    assert node.unfinished() == [UUID]
    node.clock.advance(1)
    ended(node, successful=False)


def test_a_node_that_ends_while_it_cleans_up_reports_what_was_decided(node: FakeNode) -> None:
    installing(node)
    hang = node.environment.faults["remove_installer"] = Hang()
    node.environment.scripts[UUID].end()
    node.restart()
    node.environment.faults.clear()
    node.environment.scripts.clear()
    boot(node).value()
    assert ("reinstalled", UUID, True) in node.panel.calls
    assert (node.unfinished(), node.scripts()) == ([], [])
    hang.release()


def test_a_server_that_the_panel_deleted_meanwhile_leaves_nothing(node: FakeNode) -> None:
    installing(node)
    node.panel.known.clear()
    node.restart()
    boot(node).value()
    assert (node.environment.scripts, node.unfinished(), node.scripts()) == ({}, [], [])
    assert ("reset",) in node.panel.calls


def test_an_installer_without_an_installation_is_removed(node: FakeNode) -> None:
    installing(node)
    script = node.environment.scripts[UUID]
    script.end()
    node.environment.scripts[OTHER] = script
    node.restart()
    boot(node).value()
    assert node.environment.scripts == {}


def test_a_container_that_the_engine_keeps_is_removed_later(node: FakeNode) -> None:
    installing(node)
    node.environment.faults["remove_installer"] = EnvironmentFailed("the engine is away")
    node.environment.scripts[UUID].end()
    assert node.panel.calls[-1] == ("reinstalled", UUID, True)
    assert UUID in node.environment.scripts
    node.clock.pump([1, 2])
    node.environment.faults.clear()
    node.clock.pump([4, 8])
    ended(node, successful=True)
