"""Deleting servers: their containers at once, their files without a trace of others."""

from __future__ import annotations

import os

import attrs
import pytest

from tests.servers.harness import OTHER, UUID, House, Outcome, configuration
from tests.support import Hang
from tests.support.logged_errors import LoggedErrors
from wingsd.config import StoragePool
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    ServerNotFound,
    StorageError,
)
from wingsd.panel.errors import PanelUnreachable
from wingsd.servers.files import ServerDirectories
from wingsd.servers.power_states import PowerAction

DOWN = PanelUnreachable("down", "x")


def boot(house: House) -> Outcome:
    return Outcome.of(house.servers.boot())


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
    with pytest.raises(ServerNotFound):
        house.servers.get(UUID)
    delete(house).error(ServerNotFound)


def test_a_server_held_by_a_transfer_is_deleted_too(house: House) -> None:
    server = house.server()
    server.place_hold("the server is being transferred")
    delete(house).value()
    server.release()
    with pytest.raises(ServerNotFound):
        house.servers.get(UUID)


def test_no_engine_delays_the_deletion_of_what_has_moved_away(house: House) -> None:
    server = house.server()
    server.disown("the server has moved to another node")
    hang = house.environment.faults["remove"] = Hang()
    delete(house).value()
    assert os.listdir(house.data) == []
    assert house.told("deleted") == [""]
    house.environment.faults.clear()
    hang.release()
    assert house.environment.containers == {}


def test_of_what_is_in_a_pool_no_file_goes(house: House) -> None:
    server = house.server()
    (house.data / UUID / "world").touch()
    house.servers.share(UUID, "attic")
    server.disown("the server has moved to another node")
    delete(house).value()
    assert [*house.environment.containers] == []
    assert os.listdir(house.data / UUID) == ["world"]
    assert house.told("deleted") == [""]
    with pytest.raises(ServerNotFound):
        house.servers.get(UUID)


def test_that_the_panel_still_has_it_here_at_the_start_does_not_make_them_its_own(
    house: House,
) -> None:
    """So it is after a restart, until the Panel has heard of the success."""
    house.servers.share(UUID, "attic")
    house.server()
    (house.data / UUID / "world").touch()
    delete(house).value()
    assert os.listdir(house.data / UUID) == ["world"]


@pytest.mark.parametrize("how", ["it stays", "it comes back"])
def test_once_they_are_its_own_again_they_go_with_it(house: House, how: str) -> None:
    server = house.server()
    house.servers.share(UUID, "attic")
    if how == "it stays":
        house.servers.unshare(UUID)
    else:
        server.disown("the server has moved to another node")
        house.servers.admit(configuration(), "a transfer brings it")
    delete(house).value()
    assert os.listdir(house.data) == []


def test_a_server_whose_container_stays_is_not_deleted(house: House) -> None:
    server = house.server()
    server.place_hold("the server is being transferred")
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
    creating = house.servers.create(UUID, start_on_completion=False)
    Outcome.of(creating).error(Conflict)
    error = Outcome.of(server.power(PowerAction.START)).error(Conflict)
    assert error.message == "the server is being deleted"
    hang.release()
    deleting.value()
    assert house.called("start") == []


def test_a_start_under_way_is_called_off(house: House) -> None:
    server = house.server()
    house.environment.faults["recreate"] = Hang()
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

    monkeypatch.setattr(ServerDirectories, "set_aside", stuck)
    delete(house).value()
    assert any("its files are kept" in line for line in logged_errors.lines)
    assert house.told("deleted") == [""]


def test_what_a_node_did_not_finish_deleting_goes_at_its_next_start(house: House) -> None:
    unfinished = house.data / f".deleting-{UUID}-abc" / UUID / "world"
    unfinished.mkdir(parents=True)
    (house.data / OTHER).mkdir()
    house.panel.faults["servers"] = DOWN
    boot(house)
    assert os.listdir(house.data) == [OTHER]


def test_what_another_node_of_the_pool_is_deleting_is_left_to_that(house: House) -> None:
    config, name = house.config, f".deleting-{UUID}-abc.{OTHER}"
    transfers = attrs.evolve(
        config.system.transfers, storage_pool=StoragePool(enabled=True, pool_name="attic")
    )
    system = attrs.evolve(config.system, transfers=transfers)
    house.config = attrs.evolve(config, uuid=UUID, system=system)
    house.servers = house.make_servers()
    (house.data / name).mkdir()
    (house.data / f".deleting-{UUID}-abc.{UUID}").mkdir()
    boot(house)
    assert os.listdir(house.data) == [name]


def test_what_cannot_be_deleted_keeps_nothing_else(
    house: House, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    for uuid in (UUID, OTHER):
        (house.data / f".deleting-{uuid}-abc").mkdir()
    delete_one = ServerDirectories.delete

    def stuck(directories: ServerDirectories, apart: str) -> None:
        if OTHER in apart:
            raise StorageError(f"{apart} is stuck")
        delete_one(directories, apart)

    monkeypatch.setattr(ServerDirectories, "delete", stuck)
    Outcome.of(house.servers.boot()).value()
    assert os.listdir(house.data) == [f".deleting-{OTHER}-abc"]
    assert any("is stuck" in line for line in logged_errors.lines)
