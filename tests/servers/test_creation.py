"""Making new servers, and undoing what could not be made."""

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
    ServerNotFound,
    StorageError,
)
from wingsd.panel.http_client import PanelError, PanelRefused, PanelUnreachable
from wingsd.servers.files import ServerDirectories
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server

DOWN = PanelUnreachable("down", "x")


def create(node: FakeNode, *, start: bool = False) -> Outcome:
    return Outcome.of(node.servers.create(UUID, start_on_completion=start))


def start(server: Server) -> Outcome:
    return Outcome.of(server.power(PowerAction.START))


def empty(node: FakeNode) -> None:
    """Have a node without servers, and a Panel that wants to create one."""
    boot(node).value()
    node.panel.known[UUID] = configuration()
    node.panel.calls.clear()


def test_a_server_is_created(node: FakeNode) -> None:
    empty(node)
    server = create(node).value()
    assert node.servers.get(UUID) is server
    assert (node.data / UUID).is_dir()
    assert node.called("create", "start") == ["create"]
    assert node.panel.calls == [("describe", UUID), ("installed", UUID, True)]
    assert "installation script" in node.told("daemon message")[0]
    assert (server.hold, server.state) == ("", PowerState.OFFLINE)


def test_a_created_server_starts_with_start_on_completion(node: FakeNode) -> None:
    empty(node)
    assert create(node, start=True).value().state is PowerState.STARTING


def test_a_failed_start_does_not_fail_the_creation(node: FakeNode) -> None:
    empty(node)
    node.environment.faults["start"] = EnvironmentFailed("no port")
    server = create(node, start=True).value()
    assert node.servers.get(UUID) is server
    assert any("no port" in message for message in node.told("daemon message"))


def test_a_second_creation_is_refused_with_conflict(node: FakeNode) -> None:
    empty(node)
    hang = node.environment.faults["create"] = Hang()
    creating = create(node)
    create(node).error(Conflict)
    Outcome.of(node.servers.get(UUID).power(PowerAction.START)).error(Conflict)
    hang.release()
    creating.value()
    create(node).error(Conflict)
    assert len(node.called("create")) == 1


def test_a_server_that_the_panel_does_not_describe_is_not_created(node: FakeNode) -> None:
    empty(node)
    error = node.panel.faults["describe"] = PanelRefused("refused", "x", 429)
    assert create(node).error(PanelError) is error
    assert node.panel.calls[-1] == ("installed", UUID, False)
    assert os.listdir(node.data) == []
    with pytest.raises(ServerNotFound):
        node.servers.get(UUID)


def test_a_start_makes_a_container_that_could_not_be_made(node: FakeNode, logged: Logged) -> None:
    empty(node)
    fault = EnvironmentFailed("the image x could not be pulled")
    node.environment.faults |= {"create": fault, "recreate": fault}
    server = create(node, start=True).value()
    assert node.servers.get(UUID) is server
    assert (server.state, server.hold) == (PowerState.OFFLINE, "")
    assert node.called("start", "recreate", "remove") == []
    # For the Panel an installation that has failed could not be used any more.
    assert node.panel.calls[-1] == ("installed", UUID, True)
    reason = "The server's container could not be created: the image x could not be pulled"
    assert reason in node.told("daemon message")
    assert f"{UUID}: {reason}" in logged.lines
    assert f"[wingsd] {reason}" in Outcome.of(server.logs(10)).value()

    start(server).error(EnvironmentFailed)
    node.environment.faults.clear()
    start(server).value()
    assert server.state is PowerState.STARTING
    assert Outcome.of(server.logs(10)).value() == []


def test_a_server_whose_directory_cannot_be_made_is_here_and_a_start_makes_it(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    empty(node)
    with monkeypatch.context() as patched:
        patched.setattr(
            ServerDirectories,
            "make",
            Mock(side_effect=StorageError("/volumes cannot be made: the disk is full")),
        )
        server = create(node).value()
        assert node.panel.calls[-1] == ("installed", UUID, False)
        assert "The server's directory could not be created" in node.told("daemon message")[0]
        assert server.details().utilization.disk_bytes == 0
        start(server).error(StorageError)
    start(server).value()
    assert (node.data / UUID).is_dir()
    assert not any("measuring" in line for line in logged.lines)


def test_an_internal_error_leaves_the_server_here_too(node: FakeNode, logged: Logged) -> None:
    empty(node)
    node.environment.faults["create"] = RuntimeError("secret")  # type: ignore[assignment]
    server = create(node).value()
    assert node.servers.get(UUID) is server
    assert "internal error" in node.told("daemon message")[0]
    assert "secret" not in " ".join(node.told("daemon message"))
    assert logged.take(RuntimeError)


def test_a_variable_that_no_container_can_have_is_named_in_the_console(node: FakeNode) -> None:
    empty(node)
    node.panel.known[UUID] = configuration(environment={"STARTUP=sh": "x"})
    create(node).value()
    messages = node.told("daemon message")
    assert any("'STARTUP=sh' cannot be the name of an" in message for message in messages)
    assert node.environment.containers == {}


def test_an_unknown_server_is_not_reported_as_installed(node: FakeNode) -> None:
    empty(node)
    node.panel.faults["describe"] = ServerNotFound("unknown", "x")
    create(node).error(ServerNotFound)
    assert [call[0] for call in node.panel.calls] == ["describe"]


def test_a_server_with_an_unreported_installation_stays(node: FakeNode, logged: Logged) -> None:
    empty(node)
    node.panel.faults["installed"] = DOWN
    server = create(node).value()
    assert node.servers.get(UUID) is server
    assert any("was not reported" in line for line in logged.lines)


@pytest.mark.parametrize("where", ["describe", "create", "installed"])
def test_a_server_can_be_deleted_while_it_is_being_created(node: FakeNode, where: str) -> None:
    empty(node)
    if where == "create":
        node.environment.faults["create"] = Hang()
    else:
        node.panel.faults[where] = Deferred()
    creating = create(node)
    Outcome.of(node.servers.delete(UUID)).value()
    assert "deleted while" in str(creating.error(Conflict))
    assert os.listdir(node.data) == []
    assert node.environment.containers == {}
    assert ("installed", UUID, False) not in node.panel.calls
    assert node.told("deleted") == [""]
