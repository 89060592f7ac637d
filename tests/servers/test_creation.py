"""Making new servers, and undoing what could not be made."""

from __future__ import annotations

import os

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import UUID, House, Outcome, configuration
from tests.support import Hang
from tests.support.logged_errors import LoggedErrors
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    ServerNotFound,
    StorageError,
)
from wingsd.panel.errors import PanelError, PanelRefused, PanelUnreachable
from wingsd.servers.files import ServerDirectories
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server

DOWN = PanelUnreachable("down", "x")


def boot(house: House) -> Outcome:
    return Outcome.of(house.servers.boot())


def create(house: House, *, start: bool = False) -> Outcome:
    return Outcome.of(house.servers.create(UUID, start_on_completion=start))


def start(server: Server) -> Outcome:
    return Outcome.of(server.power(PowerAction.START))


def empty(house: House) -> None:
    """Have a node without servers, and a Panel that wants to create one."""
    boot(house).value()
    house.panel.known[UUID] = configuration()
    house.panel.calls.clear()


def test_a_server_is_created(house: House) -> None:
    empty(house)
    server = create(house).value()
    assert house.servers.get(UUID) is server
    assert (house.data / UUID).is_dir()
    assert house.called("create", "start") == ["create"]
    assert house.panel.calls == [("describe", UUID), ("installed", UUID, True)]
    assert "installation script" in house.told("daemon message")[0]
    assert (server.hold, server.state) == ("", PowerState.OFFLINE)


def test_it_is_started_when_that_is_asked_for(house: House) -> None:
    empty(house)
    assert create(house, start=True).value().state is PowerState.STARTING


def test_a_start_that_fails_fails_no_creation(house: House) -> None:
    empty(house)
    house.environment.faults["start"] = EnvironmentFailed("no port")
    server = create(house, start=True).value()
    assert house.servers.get(UUID) is server
    assert any("no port" in message for message in house.told("daemon message"))


def test_a_server_is_created_once(house: House) -> None:
    empty(house)
    hang = house.environment.faults["create"] = Hang()
    creating = create(house)
    create(house).error(Conflict)
    Outcome.of(house.servers.get(UUID).power(PowerAction.START)).error(Conflict)
    hang.release()
    creating.value()
    create(house).error(Conflict)
    assert len(house.called("create")) == 1


def test_a_server_that_the_panel_does_not_describe_is_not_created(house: House) -> None:
    empty(house)
    error = house.panel.faults["describe"] = PanelRefused("refused", "x", 429)
    assert create(house).error(PanelError) is error
    assert house.panel.calls[-1] == ("installed", UUID, False)
    assert os.listdir(house.data) == []
    with pytest.raises(ServerNotFound):
        house.servers.get(UUID)


def test_a_server_whose_container_cannot_be_made_is_here_and_a_start_makes_it(
    house: House, logged_errors: LoggedErrors
) -> None:
    empty(house)
    fault = EnvironmentFailed("the image x could not be pulled")
    house.environment.faults |= {"create": fault, "recreate": fault}
    server = create(house, start=True).value()
    assert house.servers.get(UUID) is server
    assert (server.state, server.hold) == (PowerState.OFFLINE, "")
    assert house.called("start", "recreate", "remove") == []
    # For the Panel an installation that has failed could not be used any more.
    assert house.panel.calls[-1] == ("installed", UUID, True)
    reason = "The server's container could not be made: the image x could not be pulled"
    assert reason in house.told("daemon message")
    assert f"{UUID}: {reason}" in logged_errors.lines
    assert f"[wingsd] {reason}" in Outcome.of(server.logs(10)).value()

    start(server).error(EnvironmentFailed)
    house.environment.faults.clear()
    start(server).value()
    assert server.state is PowerState.STARTING
    assert Outcome.of(server.logs(10)).value() == []


def test_a_server_whose_directory_cannot_be_made_is_here_and_a_start_makes_it(
    house: House, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    empty(house)

    def full(*_: object) -> None:
        raise StorageError("/volumes cannot be made: the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ServerDirectories, "make", full)
        server = create(house).value()
        assert house.panel.calls[-1] == ("installed", UUID, False)
        assert "The server's directory could not be made" in house.told("daemon message")[0]
        assert server.details().utilization.disk_bytes == 0
        start(server).error(StorageError)
    start(server).value()
    assert (house.data / UUID).is_dir()
    assert not any("measuring" in line for line in logged_errors.lines)


def test_an_internal_error_leaves_the_server_here_too(
    house: House, logged_errors: LoggedErrors
) -> None:
    empty(house)
    house.environment.faults["create"] = RuntimeError("secret")  # type: ignore[assignment]
    server = create(house).value()
    assert house.servers.get(UUID) is server
    assert "internal error" in house.told("daemon message")[0]
    assert "secret" not in " ".join(house.told("daemon message"))
    assert logged_errors.take(RuntimeError)


def test_a_variable_that_no_container_can_have_is_named_in_the_console(house: House) -> None:
    empty(house)
    house.panel.known[UUID] = configuration(environment={"STARTUP=sh": "x"})
    create(house).value()
    messages = house.told("daemon message")
    assert any("'STARTUP=sh' cannot be the name of an" in message for message in messages)
    assert house.environment.containers == {}


def test_a_panel_that_does_not_know_the_server_is_told_nothing_of_it(house: House) -> None:
    empty(house)
    house.panel.faults["describe"] = ServerNotFound("unknown", "x")
    create(house).error(ServerNotFound)
    assert [call[0] for call in house.panel.calls] == ["describe"]


def test_a_panel_that_cannot_be_told_loses_no_server(
    house: House, logged_errors: LoggedErrors
) -> None:
    empty(house)
    house.panel.faults["installed"] = DOWN
    server = create(house).value()
    assert house.servers.get(UUID) is server
    assert any("was not reported" in line for line in logged_errors.lines)


@pytest.mark.parametrize("where", ["describe", "create", "installed"])
def test_a_server_can_be_deleted_while_it_is_being_created(house: House, where: str) -> None:
    empty(house)
    if where == "create":
        house.environment.faults["create"] = Hang()
    else:
        house.panel.faults[where] = Deferred()
    creating = create(house)
    Outcome.of(house.servers.delete(UUID)).value()
    assert "deleted while" in str(creating.error(Conflict))
    assert os.listdir(house.data) == []
    assert house.environment.containers == {}
    assert ("installed", UUID, False) not in house.panel.calls
    assert house.told("deleted") == [""]
