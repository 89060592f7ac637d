"""How a node comes to know its servers: at its start, by transfers; and how it deletes them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, boot, configuration
from tests.support import Hang
from tests.support.logged_errors import Logged
from tests.support.present import present
from wingsd.config import StoragePool
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    NodeTokenRefused,
    PanelUnreachable,
    ServerAlreadyExists,
    ServerNotFound,
    ServersNotLoaded,
    StorageError,
)
from wingsd.servers.files import ServerDirectories
from wingsd.servers.operations import Hold, Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server


def admitted(node: FakeNode) -> Server:
    """Return a server that a transfer brings to a node without servers."""
    boot(node).value()
    return node.servers.admit(configuration(), "it is being received")


def test_an_arriving_server_is_known_and_held(node: FakeNode) -> None:
    server = admitted(node)
    assert node.servers.get(UUID) is server
    assert server.hold == "it is being received"
    node.servers.discard(UUID)
    node.servers.discard(UUID)
    assert is_unknown(node)


def test_an_arriving_server_is_not_measured_before_its_directory_is_here(
    node: FakeNode, logged: Logged
) -> None:
    server = admitted(node)
    assert [each.details().utilization.disk_bytes for each in node.servers.all()] == [0]
    assert not any("measuring" in line for line in logged.lines)
    server.files.received(1234)
    assert server.details().utilization.disk_bytes == 1234


def test_an_unknown_size_is_measured_once_its_directory_is_here(node: FakeNode) -> None:
    server = admitted(node)
    server.details()
    (node.data / UUID).mkdir()
    (node.data / UUID / "world").write_bytes(b"x" * 1000)
    server.files.received(None)
    assert server.disk_bytes == 1000


def test_a_held_or_running_server_is_not_replaced_by_an_arriving_one(node: FakeNode) -> None:
    server = node.server()
    server.place_hold(Operation.TRANSFER_OUT, "the server is being deleted")
    with pytest.raises(ServerAlreadyExists, match="being deleted"):
        node.servers.admit(configuration(), "it is being received")
    server.release()
    Outcome.of(server.power(PowerAction.START)).value()
    with pytest.raises(ServerAlreadyExists, match="running"):
        node.servers.admit(configuration(), "it is being received")


def test_a_stopped_leftover_is_replaced_by_an_arriving_server(node: FakeNode) -> None:
    leftover = node.server()
    server = node.servers.admit(configuration(), "it is being received")
    assert node.servers.get(UUID) is server is not leftover
    Outcome.of(leftover.power(PowerAction.START)).error(Conflict)


def test_what_has_moved_away_may_come_back_though_nobody_deleted_it(node: FakeNode) -> None:
    moved = node.server()
    moved.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    moved.disown("the server has moved to another node")
    Outcome.of(moved.power(PowerAction.START)).error(Conflict)
    server = node.servers.admit(configuration(), "it is being received")
    assert node.servers.get(UUID) is server is not moved


def test_forgetting_an_arrival_keeps_its_files(node: FakeNode) -> None:
    node.server()
    node.servers.discard(UUID)
    assert os.listdir(node.data) == [UUID]
    assert node.servers.directory(UUID) == str(node.data / UUID)


DOWN = PanelUnreachable("down", "x")


def test_servers_are_loaded_the_panel_reset_and_runs_adopted(node: FakeNode) -> None:
    for uuid in (UUID, OTHER):
        node.panel.known[uuid] = configuration(uuid)
        (node.data / uuid).mkdir()
    node.environment.run(configuration().settings)
    boot(node).value()
    assert node.panel.calls == [("servers",), ("reset",)]
    assert node.servers.loaded
    assert [server.state.value for server in node.servers.all()] == ["running", "offline"]
    assert node.told("status") == ["running"]
    node.process().say(b"hello\n")
    assert node.told("console output") == ["hello"]
    node.process().end(0)
    assert node.servers.get(UUID).state is PowerState.OFFLINE
    with pytest.raises(ServerNotFound, match="does not exist on this instance"):
        node.servers.get("00000000-0000-4000-8000-000000000000")


def test_the_restart_is_reported_after_restores_that_an_earlier_daemon_has_begun(
    node: FakeNode,
) -> None:
    node.panel.known[UUID] = configuration()
    (node.data / UUID).mkdir()
    node.servers.hold_later(UUID, Hold(Operation.RESTORE, "a backup is being restored"))
    boot(node).value()
    assert node.panel.calls == [("servers",)]
    node.servers.get(UUID).operations.release(Operation.RESTORE)
    assert node.panel.calls == [("servers",), ("reset",)]


def test_before_the_boot_servers_are_not_loaded(node: FakeNode) -> None:
    node.panel.faults["servers"] = Deferred()
    boot(node)
    assert not node.servers.loaded
    with pytest.raises(ServersNotLoaded):
        node.servers.get(UUID)
    with pytest.raises(ServersNotLoaded):
        node.servers.all()
    Outcome.of(node.servers.create(UUID, start_on_completion=False)).error(ServersNotLoaded)
    Outcome.of(node.servers.delete(UUID)).error(ServersNotLoaded)
    arriving = node.servers.admit(configuration(), "it is being received")
    assert node.servers.get(UUID) is arriving


def test_a_server_that_a_transfer_takes_away_is_held_from_its_loading_on(node: FakeNode) -> None:
    for uuid in (UUID, OTHER):
        node.panel.known[uuid] = configuration(uuid)
        (node.data / uuid).mkdir()
        node.servers.reserve(uuid, "it is being transferred")
    node.servers.reserve(OTHER, "")
    boot(node).value()
    assert [each.hold for each in node.servers.all()] == ["it is being transferred", ""]
    node.servers.reserve(OTHER, "it is being transferred")
    assert node.servers.get(OTHER).hold == "it is being transferred"


def test_what_arrived_during_the_boot_stays_as_it_is(node: FakeNode) -> None:
    waiting = node.panel.faults["servers"] = Deferred()
    node.panel.known[UUID] = configuration()
    booting = boot(node)
    arriving = node.servers.admit(configuration(), "it is being received")
    (node.data / UUID).mkdir()
    waiting.callback(None)
    booting.value()
    assert node.servers.get(UUID) is arriving


def test_servers_are_requested_until_the_panel_answers(node: FakeNode, logged: Logged) -> None:
    node.panel.faults["servers"] = DOWN
    booting = boot(node)
    waits = []
    for _ in range(12):
        (call,) = node.clock.getDelayedCalls()
        waits.append(call.getTime() - node.clock.seconds())
        node.clock.advance(waits[-1])
    assert waits[0] < 2
    assert 40 < waits[-1] < 80
    assert len([line for line in logged.lines if "is repeated" in line]) == 13
    node.panel.faults.clear()
    node.clock.advance(120)
    booting.value()
    assert node.servers.loaded


def test_a_node_whose_token_is_refused_reads_what_to_do(node: FakeNode, logged: Logged) -> None:
    node.panel.faults["servers"] = NodeTokenRefused("GET /servers was answered 403: no", 403)
    booting = boot(node)
    (line,) = [line for line in logged.lines if "is repeated" in line]
    assert "the Panel does not accept this node's token: copy the node's configuration" in line
    node.panel.faults.clear()
    node.clock.advance(2)
    booting.value()


def test_a_failed_reset_is_repeated_in_the_background(node: FakeNode) -> None:
    node.panel.faults["reset"] = DOWN
    boot(node).value()
    node.panel.faults.clear()
    node.clock.advance(2)
    assert node.panel.calls == [("servers",), ("reset",), ("reset",)]


def test_an_engine_that_does_not_answer_is_asked_again(node: FakeNode, logged: Logged) -> None:
    for uuid in (UUID, OTHER):
        node.panel.known[uuid] = configuration(uuid)
        (node.data / uuid).mkdir()
        node.environment.run(configuration(uuid).settings)
    node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    boot(node).value()
    assert {server.state for server in node.servers.all()} == {PowerState.OFFLINE}
    assert len([line for line in logged.lines if "2 servers are in" in line]) == 1
    node.clock.advance(2)
    node.servers.discard(OTHER)
    node.environment.faults.clear()
    node.clock.advance(120)
    assert node.servers.get(UUID).state is PowerState.RUNNING
    assert node.environment.calls.count(("adopt", OTHER)) == 2
    assert node.clock.getDelayedCalls() == []


def test_at_most_four_servers_are_adopted_at_a_time(node: FakeNode) -> None:
    uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(10)]
    node.panel.known = {uuid: configuration(uuid) for uuid in uuids}
    hang = node.environment.faults["adopt"] = Hang()
    booting = boot(node)
    assert len(node.called("adopt")) == 4
    node.environment.faults.clear()
    hang.release()
    booting.value()
    assert len(node.called("adopt")) == 10


def test_at_the_end_containers_go_on_and_nothing_waits(node: FakeNode) -> None:
    node.environment.run(configuration().settings)
    node.server()
    node.panel.faults["servers"] = DOWN
    booting = boot(node)
    Outcome.of(node.servers.stop()).value()
    booting.value()
    node.process().say(b"nobody listens\n")
    assert node.called("detach") == ["detach"]
    assert node.events == []
    assert node.clock.getDelayedCalls() == []


def is_unknown(node: FakeNode) -> bool:
    with suppress(ServerNotFound):
        node.servers.get(UUID)
        return False
    return True


def moved_away(node: FakeNode) -> Server:
    """Return a server that has moved, and that nobody has deleted yet."""
    server = node.server()
    server.disown("the server has moved to another node")
    return server


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
    assert is_unknown(node)
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


def test_no_engine_delays_the_deletion_of_what_has_moved_away(node: FakeNode) -> None:
    moved_away(node)
    hang = node.environment.faults["remove"] = Hang()
    delete(node).value()
    assert os.listdir(node.data) == []
    assert node.told("deleted") == [""]
    node.environment.faults.clear()
    hang.release()
    assert node.environment.containers == {}


@pytest.mark.promise("pool-files-are-untouched")
def test_files_in_a_storage_pool_are_not_deleted(node: FakeNode) -> None:
    moved_away(node)
    (node.data / UUID / "world").touch()
    node.servers.share(UUID, "attic")
    delete(node).value()
    assert [*node.environment.containers] == []
    assert os.listdir(node.data / UUID) == ["world"]
    assert node.told("deleted") == [""]
    assert is_unknown(node)


def test_files_can_be_put_away_instead(node: FakeNode) -> None:
    moved_away(node)
    put: list[str] = []

    async def put_away() -> None:
        put.extend(os.listdir(node.data))

    Outcome.of(node.servers.delete(UUID, put_away)).value()
    assert put == os.listdir(node.data) == [UUID]
    assert is_unknown(node)


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
    node.restart()
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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "volumes"


@pytest.fixture
def directories(data: Path) -> ServerDirectories:
    return ServerDirectories(str(data), (os.getuid(), os.getgid()))


def test_a_directory_is_made_once(directories: ServerDirectories, data: Path) -> None:
    directories.make(UUID)
    assert (data / UUID).stat().st_mode & 0o777 == 0o755
    (data / UUID / "world").touch()
    directories.make(UUID)
    assert os.listdir(data / UUID) == ["world"]


def test_a_new_directory_belongs_to_its_owner(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def give(fd: int, *owner: int) -> None:
        given.append((os.readlink(f"/proc/self/fd/{fd}"), *owner))

    monkeypatch.setattr(os, "fchown", give)
    ServerDirectories(str(data), (12345, 54321)).make(UUID)
    assert given == [(str(data / UUID), 12345, 54321)]


def test_a_file_that_takes_the_place_of_a_new_directory_keeps_its_owner(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.mkdir()
    (foreign := tmp_path / "foreign").touch()
    given: list[object] = []
    for change in ("chown", "lchown", "fchown"):
        monkeypatch.setattr(os, change, lambda *call: given.append(call))
    monkeypatch.setattr(os, "mkdir", lambda path, mode: os.link(foreign, path))
    with pytest.raises(StorageError, match=UUID):
        ServerDirectories(str(data), (12345, 54321)).make(UUID)
    assert given == []


def test_a_symlink_in_its_place_is_no_directory(
    directories: ServerDirectories, data: Path, tmp_path: Path
) -> None:
    data.mkdir()
    (data / UUID).symlink_to(tmp_path)
    with pytest.raises(StorageError, match=UUID):
        directories.make(UUID)


def test_a_deletion_moves_the_files_first(directories: ServerDirectories, data: Path) -> None:
    directories.make(UUID)
    (data / UUID / "world").mkdir()
    (data / UUID / "world" / "region").write_bytes(b"x")
    apart = present(directories.set_aside(UUID))
    assert not (data / UUID).exists()
    directories.make(UUID)
    assert directories.unfinished() == [apart]
    directories.delete(apart)
    assert os.listdir(data) == [UUID]
    assert directories.unfinished() == []
    directories.delete(apart)


def test_what_is_deleted_may_be_of_any_depth(directories: ServerDirectories, data: Path) -> None:
    directories.make(UUID)
    # From the inside out: no path is as long as what this becomes.
    for _ in range(1500):
        (data / "outer").mkdir()
        (data / UUID).rename(data / "outer" / "inner")
        (data / "outer").rename(data / UUID)
    directories.delete(present(directories.set_aside(UUID)))
    assert os.listdir(data) == []


def test_a_missing_directory_needs_no_deletion(directories: ServerDirectories, data: Path) -> None:
    assert directories.set_aside(UUID) is None
    assert directories.unfinished() == []


def test_symlinks_go_and_what_they_point_to_stays(
    directories: ServerDirectories, data: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    directories.make(UUID)
    (data / UUID / "link").symlink_to(precious)
    (data / OTHER).symlink_to(precious)
    for uuid in (UUID, OTHER):
        directories.delete(present(directories.set_aside(uuid)))
    assert os.listdir(data) == []
    assert (precious / "file").exists()


def test_only_what_was_set_apart_is_taken_for_unfinished(
    directories: ServerDirectories, data: Path, tmp_path: Path
) -> None:
    data.mkdir()
    for name in (UUID, ".deleting-me", f".deleting-{UUID}", f"x.deleting-{UUID}-abc", ".staging"):
        (data / name).mkdir()
    (data / f".deleting-{UUID}-file").touch()
    (data / f".deleting-{UUID}-link").symlink_to(tmp_path)
    (data / f".deleting-{UUID}-abc").mkdir()
    assert directories.unfinished() == [str(data / f".deleting-{UUID}-abc")]


@pytest.mark.promise("pool-nodes-keep-apart")
def test_nodes_of_one_volume_finish_their_own_deletions(data: Path) -> None:
    owner = (os.getuid(), os.getgid())
    node, other = (ServerDirectories(str(data), owner, name) for name in (UUID, OTHER))
    node.make(UUID)
    apart = node.set_aside(UUID)
    # Of before this was a volume of several nodes.
    (data / f".deleting-{UUID}-abc").mkdir()
    assert other.unfinished() == [str(data / f".deleting-{UUID}-abc")]
    assert apart in node.unfinished()
    node.delete(apart or "")
    assert node.unfinished() == other.unfinished()


def test_a_failure_says_where_and_leaves_the_files(
    directories: ServerDirectories, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories.make(UUID)
    monkeypatch.setattr(os, "rename", Mock(side_effect=OSError(16, "Device or resource busy")))
    with pytest.raises(StorageError, match=f"{UUID} cannot be moved away.*busy.*by hand"):
        directories.set_aside(UUID)
    assert os.listdir(data) == [UUID]
