"""Installations: of new servers and of servers that are here."""

from __future__ import annotations

import os
import stat
from typing import Any
from unittest import mock
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import UUID, FakeNode, Outcome, boot, configuration, do, running
from tests.servers.installing import DOWN, ended, installing, log, reinstall
from tests.support import Hang
from tests.support.logged_errors import Logged
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    PanelRefused,
    PanelUnreachable,
    ServerBusy,
    ServerNotFound,
    StateDatabaseError,
    StorageError,
)
from wingsd.panel.schemas import InstallScript
from wingsd.servers.files import ServerDirectories
from wingsd.servers.installations import InstallOptions
from wingsd.servers.operations import Hold, Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.statedb import InstallationRecord


def test_a_script_runs_with_the_line_ends_of_unix_where_any_user_can_read_it(
    node: FakeNode,
) -> None:
    server = installing(node)
    directory = node.data.parent / "tmp" / UUID
    assert node.environment.scripts[UUID].directory == str(directory)
    assert (directory / "install.sh").read_bytes() == b"echo hello\necho there\n"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert stat.S_IMODE((directory / "install.sh").stat().st_mode) == 0o644
    assert server.hold == "the server is being installed"


def test_users_see_what_happens(node: FakeNode) -> None:
    installing(node)
    script = node.environment.scripts[UUID]
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


@pytest.mark.promise("failed-installation-is-explained")
def test_the_beginning_is_announced_before_the_first_line_of_the_script(node: FakeNode) -> None:
    node.environment.first_output = b"first\n"
    installing(node)
    shown = [text for name, text in node.events if name in ("daemon message", "install output")]
    starting = "Starting installation process, this could take a few minutes..."
    assert shown[-2:] == [starting, "first"]


def test_the_log_has_everything_and_only_its_owner_reads_it(node: FakeNode) -> None:
    node.panel.script = InstallScript("img:1", "ash", "x", {"secret": "s3cret"})
    installing(node)
    script = node.environment.scripts[UUID]
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


@pytest.mark.parametrize(
    ("status", "out_of_memory", "was_lost", "words"),
    [
        (7, False, False, "exit code 7"),
        (137, True, False, "since memory ran out"),
        (1, False, True, "exit code 1"),  # the engine was away, but the script ended by itself
    ],
)
def test_another_exit_code_than_0_is_a_warning(
    node: FakeNode, status: int, out_of_memory: bool, was_lost: bool, words: str
) -> None:
    installing(node)
    script = node.environment.scripts[UUID]
    script.was_lost = was_lost
    script.end(status, out_of_memory=out_of_memory)
    for event in ("daemon message", "install output"):
        assert any(words in line for line in node.told(event))
    ended(node, successful=True)


@pytest.mark.promise("failed-installation-is-explained")
@pytest.mark.parametrize("how", ["removed", "engine", "limit", "aborted"])
def test_a_script_that_does_not_come_to_its_end_has_failed(node: FakeNode, how: str) -> None:
    installing(node)
    script = node.environment.scripts[UUID]
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


@pytest.mark.promise("failed-installation-is-explained")
@pytest.mark.parametrize("where", ["create_installer", "start_installer"])
def test_what_the_engine_refuses_is_shown_and_reported(node: FakeNode, where: str) -> None:
    node.environment.faults[where] = EnvironmentFailed("Docker refuses: no such image")
    installing(node)
    begun = ["Starting installation process, this could take a few minutes..."]
    assert node.told("daemon message") == [
        *(begun if where == "start_installer" else ()),
        "The installation failed: Docker refuses: no such image",
    ]
    assert "no such image" in log(node)
    ended(node, successful=False)


@pytest.mark.parametrize("fails", ["describe", "install_script", "directory"])
def test_a_failure_before_the_script_is_shown_and_logged(node: FakeNode, fails: str) -> None:
    server = node.server()
    if fails != "directory":
        node.panel.faults[fails] = DOWN
    else:
        (node.data / UUID).rmdir()
        (node.data / UUID).write_bytes(b"")
    reinstall(node, server).value()
    (why,) = node.told("daemon message")
    assert fails == "directory" or why == "The installation failed: no answer"
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
    assert node.called("create_installer") == []
    ended(node, successful=False)


def test_a_directory_of_somebody_else_gets_no_script(node: FakeNode) -> None:
    (node.data.parent / "elsewhere").mkdir()
    (node.data.parent / "tmp").symlink_to(node.data.parent / "elsewhere")
    installing(node)
    assert "system.tmp_directory" in node.told("daemon message")[0]
    assert list((node.data.parent / "elsewhere").iterdir()) == []
    assert node.panel.calls[-1] == ("reinstalled", UUID, False)


def test_a_fault_of_the_node_itself_is_in_its_log_only(node: FakeNode, logged: Logged) -> None:
    node.environment.faults["create_installer"] = RuntimeError("secret")  # type: ignore[assignment]
    installing(node)
    assert "secret" not in " ".join(node.told("daemon message"))
    assert logged.take(RuntimeError)
    ended(node, successful=False)


def test_a_log_that_cannot_be_written_does_not_fail_the_installation(
    node: FakeNode, logged: Logged
) -> None:
    (node.data.parent / "logs").write_text("not a directory")
    installing(node)
    node.environment.scripts[UUID].end()
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
    node.environment.scripts[UUID].end()
    ended(node, successful=True)


def test_a_server_that_does_not_stop_is_killed_after_10_seconds(node: FakeNode) -> None:
    server = running(node, stubborn=True)
    reinstall(node, server).value()
    node.clock.advance(9)
    assert UUID not in node.environment.scripts
    node.clock.advance(1)
    assert node.environment.scripts[UUID].runs


def test_during_a_power_action_it_is_refused_with_the_text_of_wings(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["start"] = Hang()
    do(server, PowerAction.START)
    error = reinstall(node, server).error(ServerBusy)
    assert error.message == (
        "Cannot execute server reinstall event while another power action is running."
    )
    assert node.unfinished() == []


@pytest.mark.parametrize("truncate", [False, True])
def test_files_stay_unless_they_are_to_be_deleted(node: FakeNode, truncate: bool) -> None:
    server = node.server()
    (node.data / UUID / "world").mkdir()
    reinstall(node, server, InstallOptions(truncate=truncate)).value()
    assert (node.data / UUID / "world").exists() is not truncate
    assert (node.data / UUID).is_dir()


@pytest.mark.promise("failed-installation-is-explained")
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
    assert node.environment.scripts[UUID].script == given
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
    assert (node.environment.scripts, node.unfinished()) == ({}, [])


def test_only_what_is_being_installed_can_be_aborted(node: FakeNode) -> None:
    node.server()
    with pytest.raises(Conflict, match="server is not installing"):
        node.installations.abort(UUID)


# Restarts of the node


def create(
    node: FakeNode, *, start: bool = False, options: InstallOptions = InstallOptions()
) -> Outcome:
    creating = node.servers.create(UUID, start_on_completion=start, options=options)
    return Outcome.of(creating)


def empty(node: FakeNode) -> None:
    """Have a node without servers, and a Panel that wants to create one."""
    boot(node).value()
    node.panel.known[UUID] = configuration()
    node.panel.calls.clear()


def created(node: FakeNode, *, start: bool = False) -> Server:
    """Return a server that has been created, and whose script has ended."""
    empty(node)
    create(node, start=start).value()
    node.environment.scripts[UUID].end()
    return node.servers.get(UUID)


def test_a_server_is_created_by_its_script(node: FakeNode) -> None:
    server = created(node)
    assert (node.data / UUID).is_dir()
    assert node.panel.calls == [
        ("describe", UUID),
        ("install_script", UUID),
        ("installed", UUID, True),
    ]
    assert (server.hold, server.state) == ("", PowerState.OFFLINE)
    assert node.called("create", "start") == []


def test_one_that_a_transfer_takes_first_is_started_where_that_ends(node: FakeNode) -> None:
    empty(node)
    create(node, start=True).value()
    server = node.servers.get(UUID)
    taken = Hold(Operation.TRANSFER_OUT, "the transfer waited for the installation")
    ended = server.operations.ended(Operation.INSTALL)
    ended.addCallback(lambda _: setattr(server.operations, "hold", taken))
    node.environment.scripts[UUID].end()
    assert server.operations.hold is taken
    assert (server.state, server.starts_if_it_stays) == (PowerState.OFFLINE, True)


def test_a_failed_start_does_not_fail_the_creation(node: FakeNode) -> None:
    node.environment.faults["start"] = EnvironmentFailed("no port")
    created(node, start=True)
    assert ("installed", UUID, True) in node.panel.calls
    assert any("no port" in message for message in node.told("daemon message"))


@pytest.mark.parametrize("how", ["by the egg", "by the Panel"])
def test_a_script_that_is_not_wanted_is_not_run(node: FakeNode, how: str) -> None:
    empty(node)
    options = InstallOptions()
    if how == "by the egg":
        node.panel.known[UUID] = configuration(skip_egg_scripts=True)
    else:
        options = InstallOptions(skip_script=True)
    create(node, start=True, options=options).value()
    assert node.panel.calls[:2] == [("describe", UUID), ("installed", UUID, True)]
    assert (node.environment.scripts, node.told("install started")) == ({}, [])
    assert (node.data / UUID).is_dir()
    assert node.servers.get(UUID).state is PowerState.STARTING


def test_without_docker_nothing_is_installed_and_the_console_says_so(node: FakeNode) -> None:
    empty(node)
    node.environment.enabled = False
    create(node).value()
    assert node.panel.calls[-1] == ("installed", UUID, True)
    assert "Nothing was installed" in node.told("daemon message")[0]


def test_a_second_creation_is_refused_with_conflict(node: FakeNode) -> None:
    empty(node)
    create(node).value()
    create(node).error(Conflict)
    node.environment.scripts[UUID].end()
    create(node).error(Conflict)
    assert node.called("create_installer") == ["create_installer"]


def test_a_creation_that_cannot_be_recorded_is_refused(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(node)

    def full(*_: object, **__: object) -> None:
        raise StateDatabaseError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(node.store, "begin_installation", full)
        create(node).error(StateDatabaseError)
    assert node.panel.calls == []
    create(node).value()


@pytest.mark.parametrize(
    "error", [PanelRefused("refused", "x", 429), PanelUnreachable("down", "x")]
)
def test_a_server_that_the_panel_does_not_describe_is_reported_as_failed(
    node: FakeNode, error: Exception, logged: Logged
) -> None:
    empty(node)
    node.panel.faults["describe"] = error
    create(node).value()
    assert node.panel.calls[-1] == ("installed", UUID, False)
    assert any(f"{UUID}: not created: {error}" in line for line in logged.lines)
    assert (os.listdir(node.data), node.unfinished()) == ([], [])
    with pytest.raises(ServerNotFound):
        node.servers.get(UUID)


def test_a_server_that_the_panel_does_not_know_is_not_reported(node: FakeNode) -> None:
    empty(node)
    node.panel.faults["describe"] = ServerNotFound("unknown", "x")
    create(node).value()
    assert [call[0] for call in node.panel.calls] == ["describe"]
    assert node.unfinished() == []


@pytest.mark.promise("failed-installation-is-explained")
def test_a_server_whose_directory_cannot_be_made_is_here_and_not_installed(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(node)
    with monkeypatch.context() as patched:
        full = Mock(side_effect=StorageError("/volumes cannot be made: the disk is full"))
        patched.setattr(ServerDirectories, "make", full)
        create(node).value()
    assert node.panel.calls[-1] == ("installed", UUID, False)
    assert "the disk is full" in node.told("daemon message")[0]
    assert node.servers.get(UUID).hold == ""


@pytest.mark.promise("deletion-stops-an-installation")
@pytest.mark.parametrize(
    "where", ["describe", "install_script", "create_installer", "start_installer"]
)
def test_a_server_can_be_deleted_while_it_is_being_created(node: FakeNode, where: str) -> None:
    empty(node)
    if where.endswith("_installer"):
        node.environment.faults[where] = Hang()
    else:
        node.panel.faults[where] = Deferred()
    create(node).value()
    Outcome.of(node.servers.delete(UUID)).value()
    assert os.listdir(node.data) == []
    assert (node.environment.scripts, node.unfinished(), node.scripts()) == ({}, [], [])
    assert not [call for call in node.panel.calls if call[0] == "installed"]
    assert node.told("deleted") == [""]
    node.environment.faults.clear()
    node.panel.faults.clear()
    create(node).value()
