"""Installations over a restart of the node, and those that Wings began."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, boot, configuration, do
from tests.servers.installing import DOWN, ended, installing, log, reinstall
from tests.support import Hang
from tests.support.environment import FakeScript
from wingsd.errors import EnvironmentFailed, ServerBusy
from wingsd.panel.schemas import InstallScript
from wingsd.servers.installations import InstallOptions, take_installing
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
    ended(node, successful=successful)


def silently_restarted(node: FakeNode) -> None:
    """Restart a node in an installation, whose engine does not answer."""
    installing(node)
    node.restart()
    node.environment.faults["find_installer"] = EnvironmentFailed("the engine does not answer")
    boot(node).value()


@pytest.mark.promise("installation-continues")
def test_a_script_is_resumed_when_the_engine_answers_again(node: FakeNode) -> None:
    silently_restarted(node)
    node.clock.pump([20] * 5)
    assert node.unfinished() == [UUID]
    node.environment.faults.clear()
    node.clock.advance(60)
    node.environment.scripts[UUID].end()
    ended(node, successful=True)


@pytest.mark.promise("installation-continues")
def test_an_installation_can_be_aborted_while_the_engine_does_not_answer(node: FakeNode) -> None:
    silently_restarted(node)
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
    ended(node, successful=False)


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


def begun_by_wings(node: FakeNode, output: bytes = b"") -> FakeScript:
    """Return the installer that Wings has left running, of a server that the Panel lists."""
    node.panel.known[UUID] = configuration()
    (node.data / UUID).mkdir()
    script = FakeScript(
        UUID,
        InstallScript("egg/image", "bash", ""),
        "",
        output,
        has_started=True,
        is_foreign=True,
    )
    node.environment.scripts[UUID] = script
    return script


def reported(node: FakeNode) -> list[tuple[object, ...]]:
    return [call for call in node.panel.calls if call[0] in ("installed", "reinstalled", "reset")]


def test_its_script_runs_on_and_is_reported_before_the_restart(node: FakeNode) -> None:
    script = begun_by_wings(node, b"one\n")
    boot(node).value()
    error = do(node.servers.get(UUID), PowerAction.START).error(ServerBusy)
    assert error.message == "server is currently installing"
    script.say(b"two\n")
    assert node.told("install output") == ["two"]
    assert reported(node) == []
    script.end()
    assert reported(node) == [("installed", UUID, True), ("reset",)]
    assert log(node) == "one\ntwo\n"
    assert "Container Image:      egg/image" in log(node, output=False)
    assert (node.environment.scripts, node.servers.get(UUID).hold) == ({}, "")


def test_the_log_of_an_earlier_one_tells_a_reinstallation(node: FakeNode) -> None:
    logs = Path(node.config.system.log_directory) / "install"
    logs.mkdir(parents=True)
    (logs / f"{UUID}.log").write_text("of the first installation\n")
    script = begun_by_wings(node, b"of the second\n")
    boot(node).value()
    script.end()
    assert reported(node) == [("reinstalled", UUID, True), ("reset",)]
    assert log(node) == "of the second\n"


def test_it_goes_on_over_a_restart_of_this_node(node: FakeNode) -> None:
    script = begun_by_wings(node)
    boot(node).value()
    node.restart()
    script.say(b"meanwhile\n")
    boot(node).value()
    script.end()
    assert reported(node) == [("installed", UUID, True), ("reset",)]
    assert log(node) == "meanwhile\n"


def test_one_that_ended_meanwhile_leaves_its_log_and_counts_as_installed(node: FakeNode) -> None:
    script = begun_by_wings(node, b"all done\n")
    script.end()
    boot(node).value()
    assert reported(node) == [("reset",)]
    assert (log(node), node.environment.scripts) == ("all done\n", {})


def test_one_of_a_server_that_is_not_this_nodes_any_more_is_removed(node: FakeNode) -> None:
    begun_by_wings(node)
    node.panel.known.clear()
    boot(node).value()
    assert (node.environment.scripts, reported(node)) == ({}, [("reset",)])


def test_an_engine_that_does_not_answer_is_asked_again(node: FakeNode) -> None:
    script = begun_by_wings(node)
    node.environment.faults["installers"] = EnvironmentFailed("the engine is away")
    boot(node).value()
    node.clock.advance(2)
    node.environment.faults.clear()
    node.clock.pump([2, 4])
    script.end()
    assert reported(node) == [("reset",), ("installed", UUID, True)]


# What Calagopus' nodes have recorded


@pytest.mark.parametrize("reinstall", [True, False])
def test_the_record_of_calagopus_tells_which_it_is(node: FakeNode, *, reinstall: bool) -> None:
    path = Path(node.config.system.root_directory) / "installing.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [False, {"script": "x"}]
    path.write_text(json.dumps({UUID: [reinstall, {"script": "y"}], OTHER: others}))
    script = begun_by_wings(node)
    boot(node).value()
    script.end()
    kind = "reinstalled" if reinstall else "installed"
    assert reported(node) == [(kind, UUID, True), ("reset",)]
    assert json.loads(path.read_text()) == {OTHER: others}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"%s": 1}', '{"%s": []}', "[" * 9999])
def test_a_record_that_calagopus_did_not_write_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "installing.json"
    path.write_text(content.replace("%s", UUID))
    assert take_installing(str(tmp_path), UUID) is None
    assert path.read_text() == content.replace("%s", UUID)
