"""How servers come to be known, are made, and go."""

from __future__ import annotations

import os

import pytest
from twisted.internet.defer import Deferred

from tests.logs import LoggedErrors
from tests.servers.house import OTHER, UUID, House, Outcome, configuration
from wingsd.errors import (
    AlreadyHere,
    Conflict,
    EnvironmentFailed,
    NotLoaded,
    PanelError,
    PanelRefused,
    PanelUnreachable,
    StorageError,
    UnknownServer,
)
from wingsd.servers.directories import Directories
from wingsd.servers.states import PowerAction, PowerState
from wingsd.testing import Hang

DOWN = PanelUnreachable("down", "x")


def boot(house: House) -> Outcome:
    return Outcome.of(house.servers.boot())


# The node's start


def test_servers_are_loaded_the_panel_told_and_what_runs_taken_up(house: House) -> None:
    for uuid in (UUID, OTHER):
        house.panel.known[uuid] = configuration(uuid)
        (house.data / uuid).mkdir()
    house.environment.run(configuration().settings)
    boot(house).value()
    assert house.panel.calls == [("servers",), ("reset",)]
    assert house.servers.loaded
    assert [server.state.value for server in house.servers.all()] == ["running", "offline"]
    assert house.told("status") == ["running"]
    house.process().say(b"hello\n")
    assert house.told("console output") == ["hello"]
    house.process().end(1)
    assert house.servers.get(UUID).state is PowerState.OFFLINE
    with pytest.raises(UnknownServer, match="The requested resource was not found"):
        house.servers.get("00000000-0000-4000-8000-000000000000")


def test_until_then_nothing_is_known(house: House) -> None:
    house.panel.faults["servers"] = Deferred()
    boot(house)
    assert not house.servers.loaded
    with pytest.raises(NotLoaded):
        house.servers.get(UUID)
    with pytest.raises(NotLoaded):
        house.servers.all()
    Outcome.of(house.servers.create(UUID, start_on_completion=False)).error(NotLoaded)
    Outcome.of(house.servers.delete(UUID)).error(NotLoaded)
    arriving = house.servers.admit(configuration(), "it is being received")
    assert house.servers.get(UUID) is arriving


def test_what_arrived_during_the_boot_stays_as_it_is(house: House) -> None:
    waiting = house.panel.faults["servers"] = Deferred()
    house.panel.known[UUID] = configuration()
    booting = boot(house)
    arriving = house.servers.admit(configuration(), "it is being received")
    (house.data / UUID).mkdir()
    waiting.callback(None)
    booting.value()
    assert house.servers.get(UUID) is arriving


def test_a_panel_that_is_down_is_asked_for_ever(house: House, logged_errors: LoggedErrors) -> None:
    house.panel.faults["servers"] = DOWN
    booting = boot(house)
    waits = []
    for _ in range(12):
        (call,) = house.clock.getDelayedCalls()
        waits.append(call.getTime() - house.clock.seconds())
        house.clock.advance(waits[-1])
    assert waits[0] < 2
    assert 40 < waits[-1] < 80
    assert len([line for line in logged_errors.lines if "was asked" in line]) == 13
    house.panel.faults.clear()
    house.clock.advance(120)
    booting.value()
    assert house.servers.loaded


@pytest.mark.parametrize("code", [401, 403, 429])
def test_who_is_refused_reads_what_to_compare(
    house: House, logged_errors: LoggedErrors, code: int
) -> None:
    house.panel.faults["servers"] = PanelRefused("refused", "x", code)
    booting = boot(house)
    (line,) = [line for line in logged_errors.lines if "was asked" in line]
    assert ("compare `token_id`, `token`" in line) is (code != 429)
    house.panel.faults.clear()
    house.clock.advance(2)
    booting.value()


def test_a_reset_that_fails_is_told_again_and_keeps_nobody_waiting(house: House) -> None:
    house.panel.faults["reset"] = DOWN
    boot(house).value()
    house.panel.faults.clear()
    house.clock.advance(2)
    assert house.panel.calls == [("servers",), ("reset",), ("reset",)]


def test_an_engine_that_does_not_answer_is_asked_again(
    house: House, logged_errors: LoggedErrors
) -> None:
    for uuid in (UUID, OTHER):
        house.panel.known[uuid] = configuration(uuid)
        (house.data / uuid).mkdir()
        house.environment.run(configuration(uuid).settings)
    house.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    boot(house).value()
    assert {server.state for server in house.servers.all()} == {PowerState.OFFLINE}
    assert len([line for line in logged_errors.lines if "2 servers run" in line]) == 1
    house.clock.advance(2)
    house.servers.forget(OTHER)
    house.environment.faults.clear()
    house.clock.advance(120)
    assert house.servers.get(UUID).state is PowerState.RUNNING
    assert house.environment.calls.count(("adopt", OTHER)) == 2
    assert house.clock.getDelayedCalls() == []


def test_a_few_at_a_time_are_looked_for(house: House) -> None:
    uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(10)]
    house.panel.known = {uuid: configuration(uuid) for uuid in uuids}
    hang = house.environment.faults["adopt"] = Hang()
    booting = boot(house)
    assert len(house.called("adopt")) == 4
    house.environment.faults.clear()
    hang.release()
    booting.value()
    assert len(house.called("adopt")) == 10


def test_what_is_suspended_and_runs_is_stopped(house: House) -> None:
    house.environment.run(configuration().settings)
    house.server(configuration(suspended=True))
    assert house.servers.get(UUID).state is PowerState.OFFLINE


def test_at_the_end_containers_go_on_and_nothing_waits(house: House) -> None:
    house.environment.run(configuration().settings)
    house.server()
    house.panel.faults["servers"] = DOWN
    booting = boot(house)
    Outcome.of(house.servers.stop()).value()
    booting.value()
    house.process().say(b"nobody listens\n")
    assert house.called("detach") == ["detach"]
    assert house.events == []
    assert house.clock.getDelayedCalls() == []


# Creation


def create(house: House, *, start: bool = False) -> Outcome:
    return Outcome.of(house.servers.create(UUID, start_on_completion=start))


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


@pytest.mark.parametrize("where", ["describe", "directory", "create"])
def test_a_creation_that_fails_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    empty(house)
    error: PanelError | StorageError | EnvironmentFailed = PanelRefused("refused", "x", 429)
    if where == "describe":
        house.panel.faults[where] = error
    elif where == "directory":
        error = StorageError("full")

        def full(*_: object) -> bool:
            raise error

        monkeypatch.setattr(Directories, "make", full)
    else:
        error = house.environment.faults[where] = EnvironmentFailed("no image")
    assert create(house).error(type(error)) is error
    assert house.panel.calls[-1] == ("installed", UUID, False)
    assert os.listdir(house.data) == []
    assert house.environment.containers == {}
    with pytest.raises(UnknownServer):
        house.servers.get(UUID)


def test_what_was_there_before_stays_when_a_creation_fails(house: House) -> None:
    empty(house)
    (house.data / UUID).mkdir()
    house.environment.faults["create"] = EnvironmentFailed("no image")
    create(house).error(EnvironmentFailed)
    assert os.listdir(house.data) == [UUID]


def test_a_panel_that_does_not_know_the_server_is_told_nothing_of_it(house: House) -> None:
    empty(house)
    house.panel.faults["describe"] = UnknownServer("unknown", "x")
    create(house).error(UnknownServer)
    assert [call[0] for call in house.panel.calls] == ["describe"]


def test_a_panel_that_cannot_be_told_loses_no_server(
    house: House, logged_errors: LoggedErrors
) -> None:
    empty(house)
    house.panel.faults["installed"] = DOWN
    server = create(house).value()
    assert house.servers.get(UUID) is server
    assert any("was not told" in line for line in logged_errors.lines)


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


# Deletion


def delete(house: House) -> Outcome:
    return Outcome.of(house.servers.delete(UUID))


def test_a_running_server_is_deleted_and_has_not_crashed(house: House) -> None:
    house.server(configuration(OTHER))
    house.server()
    server = house.servers.get(UUID)
    (house.data / UUID / "world").touch()
    Outcome.of(server.power(PowerAction.START)).value()
    house.events.clear()
    delete(house).value()
    assert house.environment.containers == {}
    assert os.listdir(house.data) == [OTHER]
    assert house.told("deleted") == [""]
    assert house.told("daemon message") == []
    with pytest.raises(UnknownServer):
        house.servers.get(UUID)
    delete(house).error(UnknownServer)


def test_a_server_held_by_a_transfer_is_deleted_too(house: House) -> None:
    server = house.server()
    server.take("the server is being transferred")
    delete(house).value()
    server.let_go()
    with pytest.raises(UnknownServer):
        house.servers.get(UUID)


def test_a_server_whose_container_stays_is_not_deleted(house: House) -> None:
    server = house.server()
    server.take("the server is being transferred")
    house.environment.faults["remove"] = EnvironmentFailed("the engine is away")
    delete(house).error(EnvironmentFailed)
    assert house.servers.get(UUID) is server
    assert server.hold == "the server is being transferred"
    assert os.listdir(house.data) == [UUID]
    assert house.told("deleted") == []
    house.environment.faults.clear()
    delete(house).value()


def test_during_a_deletion_it_does_not_start_nor_go_twice(house: House) -> None:
    server = house.server()
    hang = house.environment.faults["remove"] = Hang()
    deleting = delete(house)
    delete(house).error(Conflict)
    create(house).error(Conflict)
    error = Outcome.of(server.power(PowerAction.START)).error(Conflict)
    assert error.message == "the server is being deleted"
    hang.release()
    deleting.value()
    assert house.called("start") == []


def test_a_start_under_way_is_called_off(house: House) -> None:
    server = house.server()
    house.environment.faults["renew"] = Hang()
    starting = Outcome.of(server.power(PowerAction.START))
    delete(house).value()
    starting.error(Conflict)
    assert house.environment.containers == {}


def test_files_that_cannot_go_are_named(
    house: House, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    house.server()

    def stuck(*_: object) -> str:
        raise StorageError(f"{UUID} is stuck")

    monkeypatch.setattr(Directories, "set_apart", stuck)
    delete(house).value()
    assert any("its files stay" in line for line in logged_errors.lines)
    assert house.told("deleted") == [""]


def test_what_a_node_did_not_finish_deleting_goes_at_its_next_start(house: House) -> None:
    unfinished = house.data / f".deleting-{UUID}-abc" / UUID / "world"
    unfinished.mkdir(parents=True)
    (house.data / OTHER).mkdir()
    house.panel.faults["servers"] = DOWN
    boot(house)
    assert os.listdir(house.data) == [OTHER]


# Transfers


def test_an_arriving_server_is_known_and_held(house: House) -> None:
    boot(house).value()
    server = house.servers.admit(configuration(), "it is being received")
    assert house.servers.get(UUID) is server
    assert server.hold == "it is being received"
    house.servers.forget(UUID)
    house.servers.forget(UUID)
    with pytest.raises(UnknownServer):
        house.servers.get(UUID)


def test_what_is_in_use_here_does_not_arrive(house: House) -> None:
    server = house.server()
    server.take("the server is being deleted")
    with pytest.raises(AlreadyHere, match="being deleted"):
        house.servers.admit(configuration(), "it is being received")
    server.let_go()
    Outcome.of(server.power(PowerAction.START)).value()
    with pytest.raises(AlreadyHere, match="running"):
        house.servers.admit(configuration(), "it is being received")


def test_a_leftover_makes_room(house: House) -> None:
    leftover = house.server()
    server = house.servers.admit(configuration(), "it is being received")
    assert house.servers.get(UUID) is server is not leftover


def test_a_failed_arrival_touches_no_files(house: House) -> None:
    house.server()
    house.servers.forget(UUID)
    assert os.listdir(house.data) == [UUID]
    assert house.servers.directory(UUID) == str(house.data / UUID)
