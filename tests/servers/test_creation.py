"""Servers that the Panel makes on this node, and what becomes of them when that fails."""

from __future__ import annotations

import os
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import UUID, FakeNode, Outcome, boot, configuration
from tests.support import Hang
from tests.support.logged_errors import Logged
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    PanelRefused,
    PanelUnreachable,
    ServerNotFound,
    StateDatabaseError,
    StorageError,
)
from wingsd.servers.files import ServerDirectories
from wingsd.servers.installations import InstallOptions
from wingsd.servers.power_states import PowerState
from wingsd.servers.server import Server


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


def test_a_created_server_starts_with_start_on_completion(node: FakeNode) -> None:
    assert created(node, start=True).state is PowerState.STARTING


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
