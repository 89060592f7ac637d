"""Deleting servers: their containers at once, their files without a trace of others."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import attrs
import pytest

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, boot, configuration
from tests.support import Hang
from tests.support.logged_errors import Logged
from wingsd.config import StoragePool
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    PanelUnreachable,
    ServerNotFound,
    StorageError,
)
from wingsd.servers.files import ServerDirectories
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction

DOWN = PanelUnreachable("down", "x")


def delete(node: FakeNode) -> Outcome:
    return Outcome.of(node.servers.delete(UUID))


def test_a_running_server_is_deleted_and_has_not_crashed(node: FakeNode) -> None:
    node.server(configuration(OTHER))
    node.server()
    server = node.servers.get(UUID)
    (node.data / UUID / "world").touch()
    Outcome.of(server.power(PowerAction.START)).value()
    node.events.clear()
    delete(node).value()
    assert node.environment.containers == {}
    assert os.listdir(node.data) == [OTHER]
    assert node.told("deleted") == [""]
    assert node.told("daemon message") == []
    with pytest.raises(ServerNotFound):
        node.servers.get(UUID)
    delete(node).error(ServerNotFound)


def test_the_installation_log_of_a_server_is_deleted_with_it(node: FakeNode) -> None:
    logs = Path(node.config.system.log_directory) / "install"
    logs.mkdir(parents=True)
    for uuid in (UUID, OTHER):
        (logs / f"{uuid}.log").touch()
    node.server()
    delete(node).value()
    assert os.listdir(logs) == [f"{OTHER}.log"]


def test_an_installation_log_that_stays_is_logged(node: FakeNode, logged: Logged) -> None:
    (Path(node.config.system.log_directory) / "install" / f"{UUID}.log").mkdir(parents=True)
    node.server()
    delete(node).value()
    assert any("its installation log is not deleted" in line for line in logged.lines)
    assert os.listdir(node.data) == []


def test_a_server_held_by_a_transfer_is_deleted_too(node: FakeNode) -> None:
    server = node.server()
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    delete(node).value()
    server.release()
    with pytest.raises(ServerNotFound):
        node.servers.get(UUID)


def test_no_engine_delays_the_deletion_of_what_has_moved_away(node: FakeNode) -> None:
    server = node.server()
    server.disown("the server has moved to another node")
    hang = node.environment.faults["remove"] = Hang()
    delete(node).value()
    assert os.listdir(node.data) == []
    assert node.told("deleted") == [""]
    node.environment.faults.clear()
    hang.release()
    assert node.environment.containers == {}


@pytest.mark.promise("pool-files-are-untouched")
def test_files_in_a_storage_pool_are_not_deleted(node: FakeNode) -> None:
    server = node.server()
    (node.data / UUID / "world").touch()
    node.servers.share(UUID, "attic")
    server.disown("the server has moved to another node")
    delete(node).value()
    assert [*node.environment.containers] == []
    assert os.listdir(node.data / UUID) == ["world"]
    assert node.told("deleted") == [""]
    with pytest.raises(ServerNotFound):
        node.servers.get(UUID)


def test_files_can_be_put_away_instead(node: FakeNode) -> None:
    server = node.server()
    server.disown("the server has moved to another node")
    put: list[str] = []

    async def put_away() -> None:
        put.extend(os.listdir(node.data))

    Outcome.of(node.servers.delete(UUID, put_away)).value()
    assert put == os.listdir(node.data) == [UUID]
    with pytest.raises(ServerNotFound):
        node.servers.get(UUID)


def test_files_in_a_pool_stay_shared_after_a_restart(node: FakeNode) -> None:
    """So it is after a restart, until the Panel has heard of the success."""
    node.servers.share(UUID, "attic")
    node.server()
    (node.data / UUID / "world").touch()
    delete(node).value()
    assert os.listdir(node.data / UUID) == ["world"]


@pytest.mark.parametrize("how", ["it stays", "it comes back"])
def test_files_that_are_no_longer_shared_are_deleted(node: FakeNode, how: str) -> None:
    server = node.server()
    node.servers.share(UUID, "attic")
    if how == "it stays":
        node.servers.unshare(UUID)
    else:
        server.disown("the server has moved to another node")
        node.servers.admit(configuration(), "a transfer brings it")
    delete(node).value()
    assert os.listdir(node.data) == []


def test_a_server_whose_container_stays_is_not_deleted(node: FakeNode) -> None:
    server = node.server()
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    node.environment.faults["remove"] = EnvironmentFailed("the engine is away")
    delete(node).error(EnvironmentFailed)
    assert node.servers.get(UUID) is server
    assert server.hold == "the server is being transferred"
    assert os.listdir(node.data) == [UUID]
    assert node.told("deleted") == []
    node.environment.faults.clear()
    delete(node).value()


def test_a_start_creation_or_deletion_during_a_deletion_is_a_conflict(node: FakeNode) -> None:
    server = node.server()
    hang = node.environment.faults["remove"] = Hang()
    deleting = delete(node)
    delete(node).error(Conflict)
    creating = node.servers.create(UUID, start_on_completion=False)
    Outcome.of(creating).error(Conflict)
    error = Outcome.of(server.power(PowerAction.START)).error(Conflict)
    assert error.message == "server is currently being deleted"
    hang.release()
    deleting.value()
    assert node.called("start") == []


def test_a_start_under_way_is_cancelled_by_the_deletion(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["recreate"] = Hang()
    starting = Outcome.of(server.power(PowerAction.START))
    delete(node).value()
    starting.error(Conflict)
    assert node.environment.containers == {}


def test_undeleted_files_are_logged(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    node.server()
    monkeypatch.setattr(
        ServerDirectories, "set_aside", Mock(side_effect=StorageError(f"{UUID} is stuck"))
    )
    delete(node).value()
    assert any("files not deleted" in line for line in logged.lines)
    assert node.told("deleted") == [""]


def test_what_a_node_did_not_finish_deleting_goes_at_its_next_start(node: FakeNode) -> None:
    unfinished = node.data / f".deleting-{UUID}-abc" / UUID / "world"
    unfinished.mkdir(parents=True)
    (node.data / OTHER).mkdir()
    node.panel.faults["servers"] = DOWN
    boot(node)
    assert os.listdir(node.data) == [OTHER]


@pytest.mark.promise("pool-nodes-keep-apart")
def test_what_another_node_of_the_pool_is_deleting_is_left_to_that(node: FakeNode) -> None:
    config, name = node.config, f".deleting-{UUID}-abc.{OTHER}"
    transfers = attrs.evolve(
        config.system.transfers, storage_pool=StoragePool(enabled=True, pool_name="attic")
    )
    system = attrs.evolve(config.system, transfers=transfers)
    node.config = attrs.evolve(config, uuid=UUID, system=system)
    node.servers = node.make_servers()
    (node.data / name).mkdir()
    (node.data / f".deleting-{UUID}-abc.{UUID}").mkdir()
    boot(node)
    assert os.listdir(node.data) == [name]


def test_one_failure_stops_no_deletion(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    for uuid in (UUID, OTHER):
        (node.data / f".deleting-{uuid}-abc").mkdir()
    delete_one = ServerDirectories.delete

    def stuck(directories: ServerDirectories, apart: str) -> None:
        if OTHER in apart:
            raise StorageError(f"{apart} is stuck")
        delete_one(directories, apart)

    monkeypatch.setattr(ServerDirectories, "delete", stuck)
    Outcome.of(node.servers.boot()).value()
    assert os.listdir(node.data) == [f".deleting-{OTHER}-abc"]
    assert any("is stuck" in line for line in logged.lines)
