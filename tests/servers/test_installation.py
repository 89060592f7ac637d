"""Installations of servers that are here: what the script gets, its end, and what users see."""

from __future__ import annotations

import os
import stat
from typing import Any
from unittest import mock

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, boot, configuration, do, running
from tests.support import Hang
from tests.support.logged_errors import Logged
from wingsd.errors import Conflict, EnvironmentFailed, ServerBusy
from wingsd.panel.http_client import PanelUnreachable
from wingsd.panel.schemas import InstallScript
from wingsd.servers.installation import InstallOptions
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.statedb import InstallationRecord

DOWN = PanelUnreachable("the request to the Panel failed", "no answer")


def reinstall(
    node: FakeNode, server: Server, options: InstallOptions = InstallOptions()
) -> Outcome:
    return Outcome.of(node.installations.repeat(server, options, reinstall=True))


def installing(node: FakeNode) -> Server:
    """Return a server whose script runs."""
    server = node.server()
    reinstall(node, server).value()
    return server


def log(node: FakeNode, *, output: bool = True) -> str:
    return str(Outcome.of(node.installations.log(UUID, output=output)).value())


def ended(node: FakeNode, *, successful: bool) -> None:
    """Check how it was reported, and that nothing is left of it."""
    reports = [call for call in node.panel.calls if call[0] == "reinstalled"]
    assert reports[-1] == ("reinstalled", UUID, successful)
    assert node.told("install completed") == [""]
    assert (node.installer.scripts, node.unfinished(), node.scripts()) == ({}, [], [])
    assert node.servers.get(UUID).hold == ""


def test_a_script_runs_with_the_line_ends_of_unix_where_any_user_can_read_it(
    node: FakeNode,
) -> None:
    server = installing(node)
    directory = node.data.parent / "tmp" / UUID
    assert node.installer.scripts[UUID].directory == str(directory)
    assert (directory / "install.sh").read_bytes() == b"echo hello\necho there\n"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert stat.S_IMODE((directory / "install.sh").stat().st_mode) == 0o644
    assert server.hold == "the server is being installed"


def test_users_see_what_happens(node: FakeNode) -> None:
    installing(node)
    script = node.installer.scripts[UUID]
    script.say(b"one\r\nt")
    script.say(b"wo\r\nlast")
    script.end()
    assert node.told("install started") == [""]
    lines = ["Downloading [=>] 1 MB/2 MB", "one", "two", "last"]
    assert node.told("install output") == lines
    assert node.told("daemon message") == [
        "Starting installation process, this could take a few minutes...",
        "Installation process completed.",
    ]
    pulls = " ".join(node.told("console output"))
    assert "Pulling Docker container image, this could take a few minutes to complete..." in pulls
    assert "Finished pulling Docker container image" in pulls
    ended(node, successful=True)


def test_the_log_has_everything_and_only_its_owner_reads_it(node: FakeNode) -> None:
    node.panel.script = InstallScript("img:1", "ash", "x", {"secret": "s3cret"})
    installing(node)
    script = node.installer.scripts[UUID]
    script.say(b"one\r\ntwo\r\n")
    script.end(3)
    path = node.data.parent / "logs" / "install" / f"{UUID}.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = log(node, output=False)
    head, _, output = text.partition("|\n| Script Output\n| ------------------------------\n")
    assert head.startswith(
        "Pterodactyl Server Installation Log\n\n|\n| Details\n| ------------------------------\n"
        f"  Server UUID:          {UUID}\n  Container Image:      img:1\n"
        "  Container Entrypoint: ash\n\n|\n| Environment Variables\n"
    )
    assert "  SECRET=s3cret\n" in head
    assert output.startswith(
        "one\r\ntwo\r\n[wingsd] The installation script ended with exit code 3"
    )
    assert log(node) == output


def test_another_exit_code_than_0_is_a_warning(node: FakeNode) -> None:
    installing(node)
    node.installer.scripts[UUID].end(7)
    assert any("exit code 7" in line for line in node.told("daemon message"))
    assert any("exit code 7" in line for line in node.told("install output"))
    ended(node, successful=True)


def test_memory_that_ran_out_is_named(node: FakeNode) -> None:
    installing(node)
    node.installer.scripts[UUID].end(137, out_of_memory=True)
    assert any("since memory ran out" in line for line in node.told("daemon message"))
    ended(node, successful=True)


@pytest.mark.parametrize("how", ["removed", "engine", "limit", "aborted"])
def test_a_script_that_does_not_come_to_its_end_has_failed(node: FakeNode, how: str) -> None:
    installing(node)
    script = node.installer.scripts[UUID]
    script.say(b"begun\n")
    match how:
        case "removed":
            script.end(None)
            text = "its container was removed"
        case "engine":
            script.was_lost = True
            script.end(137)
            text = "the engine or the machine was stopped"
        case "limit":
            node.clock.advance(1799)
            assert node.unfinished() == [UUID]
            node.clock.advance(1)
            text = "not ended within 30 min"
        case _:
            node.installations.abort(UUID)
            text = "The installation was aborted."
    assert text in node.told("daemon message")[-1]
    assert text in node.told("install output")[-1]
    assert log(node).startswith("begun\n[wingsd] ")
    assert text in log(node)
    ended(node, successful=False)


def test_an_engine_that_was_away_does_not_fail_a_script_that_ended_by_itself(
    node: FakeNode,
) -> None:
    installing(node)
    node.installer.scripts[UUID].was_lost = True
    node.installer.scripts[UUID].end(1)
    ended(node, successful=True)


@pytest.mark.parametrize("where", ["create", "start"])
def test_what_the_engine_refuses_is_shown_and_reported(node: FakeNode, where: str) -> None:
    node.installer.faults[where] = EnvironmentFailed("Docker refuses: no such image")
    installing(node)
    assert node.told("daemon message") == [
        "The installation failed: Docker refuses: no such image"
    ]
    assert "no such image" in log(node)
    ended(node, successful=False)


def test_a_panel_that_gives_no_script_is_named(node: FakeNode) -> None:
    server = node.server()
    node.panel.faults["install_script"] = DOWN
    reinstall(node, server).value()
    assert node.told("daemon message") == ["The installation failed: no answer"]
    ended(node, successful=False)


@pytest.mark.parametrize("fails", ["describe", "directory"])
def test_a_failure_before_the_script_is_shown_and_logged(node: FakeNode, fails: str) -> None:
    server = node.server()
    if fails == "describe":
        node.panel.faults[fails] = DOWN
    else:
        (node.data / UUID).rmdir()
        (node.data / UUID).write_bytes(b"")
    reinstall(node, server).value()
    (why,) = node.told("daemon message")
    assert why in log(node)
    ended(node, successful=False)


@pytest.mark.parametrize(
    ("script", "why"), [("a\0b", "a NUL"), ("a\ud800b", "half of a surrogate pair")]
)
def test_a_script_that_is_no_text_is_refused(node: FakeNode, script: str, why: str) -> None:
    # The image's name is in the log, and could not be encoded either.
    node.panel.script = InstallScript("img\udfff:1", "ash", script)
    installing(node)
    assert why in node.told("daemon message")[0]
    assert "create" not in node.installer.calls
    ended(node, successful=False)


def test_a_directory_of_somebody_else_gets_no_script(node: FakeNode) -> None:
    (node.data.parent / "elsewhere").mkdir()
    (node.data.parent / "tmp").symlink_to(node.data.parent / "elsewhere")
    installing(node)
    assert "system.tmp_directory" in node.told("daemon message")[0]
    assert list((node.data.parent / "elsewhere").iterdir()) == []
    assert node.panel.calls[-1] == ("reinstalled", UUID, False)


def test_a_fault_of_the_node_itself_is_in_its_log_only(node: FakeNode, logged: Logged) -> None:
    node.installer.faults["create"] = RuntimeError("secret")  # type: ignore[assignment]
    installing(node)
    assert "secret" not in " ".join(node.told("daemon message"))
    assert logged.take(RuntimeError)
    ended(node, successful=False)


def test_a_log_that_cannot_be_written_does_not_fail_the_installation(
    node: FakeNode, logged: Logged
) -> None:
    (node.data.parent / "logs").write_text("not a directory")
    installing(node)
    node.installer.scripts[UUID].end()
    assert any("installation log" in line for line in logged.lines)
    ended(node, successful=True)


# Reinstallation


def test_a_running_server_is_stopped_and_its_settings_are_fetched(node: FakeNode) -> None:
    server = running(node)
    node.panel.calls.clear()
    node.panel.known[UUID] = configuration(environment={"version": "2"})
    reinstall(node, server).value()
    assert server.state is PowerState.OFFLINE
    assert node.panel.calls == [("describe", UUID), ("install_script", UUID)]
    assert server.configuration.settings.environment == {"version": "2"}
    node.installer.scripts[UUID].end()
    ended(node, successful=True)


def test_a_server_that_does_not_stop_is_killed_after_10_seconds(node: FakeNode) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    reinstall(node, server).value()
    node.clock.advance(9)
    assert UUID not in node.installer.scripts
    node.clock.advance(1)
    assert node.installer.scripts[UUID].runs


def test_during_a_power_action_it_is_refused_with_the_text_of_wings(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["start"] = Hang()
    do(server, PowerAction.START)
    error = reinstall(node, server).error(ServerBusy)
    assert error.message == (
        "Cannot execute server reinstall event while another power action is running."
    )
    assert node.unfinished() == []


def test_while_a_script_runs_the_server_is_not_started_or_installed(node: FakeNode) -> None:
    server = installing(node)
    error = do(server, PowerAction.START).error(ServerBusy)
    assert error.message == "server is currently installing"
    reinstall(node, server).error(ServerBusy)


@pytest.mark.parametrize("truncate", [False, True])
def test_files_stay_unless_they_are_to_be_deleted(node: FakeNode, truncate: bool) -> None:
    server = node.server()
    (node.data / UUID / "world").mkdir()
    reinstall(node, server, InstallOptions(truncate=truncate)).value()
    assert (node.data / UUID / "world").exists() is not truncate
    assert (node.data / UUID).is_dir()


def test_a_script_does_not_run_among_files_that_cannot_be_deleted(node: FakeNode) -> None:
    server = node.server()
    (node.data / UUID / "world").mkdir()
    with mock.patch.object(os, "rename", side_effect=OSError(16, "Device or resource busy")):
        reinstall(node, server, InstallOptions(truncate=True)).value()
    assert any("cannot be moved away" in line for line in node.told("daemon message"))
    ended(node, successful=False)
    assert (node.data / UUID / "world").exists()


def test_a_script_that_is_given_runs_in_place_of_the_eggs(node: FakeNode) -> None:
    server = node.server()
    given = InstallScript("img:2", "ash", "given")
    reinstall(node, server, InstallOptions(script=given)).value()
    assert node.installer.scripts[UUID].script == given
    assert ("install_script", UUID) not in node.panel.calls


def test_a_server_that_is_deleted_before_it_begins_is_not_installed(node: FakeNode) -> None:
    server = node.server()
    recording: Deferred[None] = Deferred()
    record = node.installations.record

    async def slow(*args: Any, **options: Any) -> InstallationRecord:
        recorded = await record(*args, **options)
        await recording
        return recorded

    with mock.patch.object(node.installations, "record", slow):
        asked = reinstall(node, server)
        Outcome.of(node.servers.delete(UUID)).value()
        recording.callback(None)
    asked.error(ServerBusy)
    assert (node.installer.scripts, node.unfinished()) == ({}, [])


def test_only_what_is_being_installed_can_be_aborted(node: FakeNode) -> None:
    node.server()
    with pytest.raises(Conflict, match="server is not installing"):
        node.installations.abort(UUID)


# Restarts of the node


def test_a_script_that_runs_on_is_watched_by_the_next_node(node: FakeNode) -> None:
    installing(node)
    script = node.installer.scripts[UUID]
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


def test_the_restart_is_reported_when_its_installations_have_ended(node: FakeNode) -> None:
    """The Panel would show a half installed server as installed."""
    installing(node)
    node.panel.faults["reinstalled"] = DOWN
    node.restart()
    node.panel.calls.clear()
    boot(node).value()
    node.installer.scripts[UUID].end()
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


@pytest.mark.parametrize(
    ("status", "successful"), [(0, True), (1, True), (137, False), (255, False)]
)
def test_a_script_that_ended_meanwhile_is_reported(
    node: FakeNode, status: int, successful: bool
) -> None:
    installing(node)
    script = node.installer.scripts[UUID]
    node.restart()
    script.say(b"all of it\n")
    script.end(status)
    boot(node).value()
    assert log(node).startswith("all of it\n")
    assert ("reinstalled", UUID, successful) in node.panel.calls
    assert (node.installer.scripts, node.unfinished(), node.scripts()) == ({}, [], [])


def test_a_script_is_resumed_when_the_engine_answers_again(node: FakeNode) -> None:
    installing(node)
    node.restart()
    node.installer.faults["find"] = EnvironmentFailed("the Docker engine does not answer")
    boot(node).value()
    node.clock.pump([20] * 5)
    assert node.unfinished() == [UUID]
    node.installer.faults.clear()
    node.clock.advance(60)
    node.installer.scripts[UUID].end()
    ended(node, successful=True)


def test_an_installation_can_be_aborted_while_the_engine_does_not_answer(node: FakeNode) -> None:
    installing(node)
    node.restart()
    node.installer.faults["find"] = EnvironmentFailed("the Docker engine does not answer")
    boot(node).value()
    node.installations.abort(UUID)
    ended(node, successful=False)


def test_an_abort_holds_when_the_node_ends_before_the_engine_has_answered(
    node: FakeNode,
) -> None:
    installing(node)
    hang = node.installer.faults["copy_output"] = Hang()
    node.installations.abort(UUID)
    node.restart()
    node.installer.faults.clear()
    boot(node).value()
    assert ("reinstalled", UUID, False) in node.panel.calls
    assert (node.installer.scripts, node.unfinished(), node.scripts()) == ({}, [], [])
    hang.release()


def test_a_script_whose_container_is_gone_has_failed(node: FakeNode) -> None:
    installing(node)
    node.installer.scripts.clear()
    node.restart()
    boot(node).value()
    assert "its container is gone" in node.told("daemon message")[-1]
    assert "its container is gone" in log(node)
    assert ("reinstalled", UUID, False) in node.panel.calls
    assert node.unfinished() == []


@pytest.mark.parametrize("where", ["create", "start"])
def test_a_script_that_did_not_run_yet_is_begun_again(node: FakeNode, where: str) -> None:
    server = node.server()
    hang = node.installer.faults[where] = Hang()
    given = InstallScript("img:2", "ash", "given")
    reinstall(node, server, InstallOptions(script=given)).value()
    node.restart()
    node.installer.faults.clear()
    boot(node).value()
    assert node.installer.scripts[UUID].runs
    assert node.installer.scripts[UUID].script == given
    node.installer.scripts[UUID].end()
    assert ("reinstalled", UUID, True) in node.panel.calls
    hang.release()


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
    hang = node.installer.faults["remove"] = Hang()
    node.installer.scripts[UUID].end()
    node.restart()
    node.installer.faults.clear()
    node.installer.scripts.clear()
    boot(node).value()
    assert ("reinstalled", UUID, True) in node.panel.calls
    assert (node.unfinished(), node.scripts()) == ([], [])
    hang.release()


def test_a_server_that_the_panel_deleted_meanwhile_leaves_nothing(node: FakeNode) -> None:
    installing(node)
    node.panel.known.clear()
    node.restart()
    boot(node).value()
    assert (node.installer.scripts, node.unfinished(), node.scripts()) == ({}, [], [])
    assert ("reset",) in node.panel.calls


def test_an_installer_without_an_installation_is_removed(node: FakeNode) -> None:
    installing(node)
    script = node.installer.scripts[UUID]
    script.end()
    node.installer.scripts[OTHER] = script
    node.restart()
    boot(node).value()
    assert node.installer.scripts == {}


def test_a_container_that_the_engine_keeps_is_removed_later(node: FakeNode) -> None:
    installing(node)
    node.installer.faults["remove"] = EnvironmentFailed("the engine is away")
    node.installer.scripts[UUID].end()
    assert node.panel.calls[-1] == ("reinstalled", UUID, True)
    assert UUID in node.installer.scripts
    node.clock.pump([1, 2])
    node.installer.faults.clear()
    node.clock.pump([4, 8])
    ended(node, successful=True)
