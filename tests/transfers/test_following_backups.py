"""Local backups follow their server to the node that it has moved to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import attrs
import pytest

from tests.support.logged_errors import Logged
from tests.support.node_in_process import NodeInProcess, NodePair, running_pair
from tests.support.present import present
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from tests.transfers.following import (
    BACKUP,
    MADE,
    OTHER,
    followed,
    has,
    is_coming,
    keep,
    move,
    move_on,
    names,
    place,
)
from wingsd.backups.received import FollowingFiles, write_all
from wingsd.config import TransfersConfig
from wingsd.errors import (
    BackupMissing,
    BackupNotForWings,
    BackupNotLeft,
    DestinationRefused,
    MoveNoSpace,
    PanelUnreachable,
    StorageError,
)
from wingsd.histories import SILENT_DAYS
from wingsd.http.request import StreamingRequest
from wingsd.panel.client import BackupRecordState
from wingsd.statedb import (
    ArrivingBackup,
    ArrivingState,
    Direction,
    LeftBackup,
    LeftState,
    Outcome,
)
from wingsd.transfers.incoming.moves import inbox
from wingsd.transfers.outgoing import left_backups
from wingsd.transfers.peer import moves
from wingsd.transfers.peer.client import PeerAddress
from wingsd.transfers.peer.moves import Following, MoveClient, MoveTrouble
from wingsd.transfers.storage.shared_volume import Marks
from wingsd.util.retry import Backoff

pytestmark = pytest.mark.promise("backups-follow-their-server")

#: Another server.
SERVER = "7d0c4b1e-51f7-4f0c-8e43-0b6a7a52c301"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_backups, "ROUND_PAUSES", Backoff(0.02, 0.05))
    monkeypatch.setattr(left_backups, "ROUND_PATIENCE", 0.5)
    monkeypatch.setattr(left_backups, "PIECE", 100_000)
    monkeypatch.setattr(moves, "PAUSES", Backoff(0.01, 0.02))
    monkeypatch.setattr(moves, "PROGRESS_EVERY", 0.01)
    monkeypatch.setattr(moves, "NO_SPACE_PAUSE", 0.01)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[NodePair]:
    yield from running_pair(tmp_path, TransfersConfig())


async def test_backups_are_at_the_destination_alone_when_they_have_followed(
    nodes: NodePair,
) -> None:
    first, second = keep(nodes.source, BACKUP), keep(nodes.source, OTHER)
    nodes.source.left_backups.start()
    await move(nodes)
    await followed(nodes.source, nodes.destination, **{BACKUP: first, OTHER: second})
    found = nodes.destination.backup_store.find(UUID, BACKUP)
    assert found is not None
    assert found.catalogue is not None
    assert (found.catalogue.made, found.catalogue.bytes) == (MADE, len(first))
    # The key of the move is not needed any more.
    nodes.source.store.prune(0)
    assert not any(map(nodes.source.store.move, range(5)))


async def test_an_answer_that_is_lost_costs_only_time(nodes: NodePair) -> None:
    data, lost = keep(nodes.source, BACKUP), Counter[bytes]()

    def lose(request: StreamingRequest) -> bool:
        """Lose the first two answers to each kind of request."""
        lost[request.method] += b"/backups/" in request.path
        return b"/backups/" in request.path and lost[request.method] <= 2

    nodes.destination.lose = lose
    nodes.source.left_backups.start()
    await move(nodes)
    await followed(nodes.source, nodes.destination, **{BACKUP: data})
    assert lost.keys() >= {b"GET", b"PATCH", b"DELETE"}


@pytest.mark.parametrize("name", ["source", "destination"])
async def test_either_node_may_be_started_again_meanwhile(nodes: NodePair, name: str) -> None:
    data = keep(nodes.source, BACKUP, 800_000)
    nodes.source.left_backups.start()
    part = nodes.destination.backup_directory / f".{BACKUP}.tar.gz.part"
    pieces = 0

    def lose(request: StreamingRequest) -> bool:
        nonlocal pieces
        pieces += request.method == b"PATCH"
        return pieces >= 2

    nodes.destination.lose = lose
    await move(nodes)
    await until(lambda: part.exists() and pieces >= 2)
    await nodes.restart(name)
    nodes.destination.lose = lambda _: False
    await nodes.destination.backups.settle()
    assert part.stat().st_size > 0
    await nodes.destination.recover()
    nodes.source.left_backups.start()
    await followed(nodes.source, nodes.destination, **{BACKUP: data})


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_the_log_says_which_ones_a_silent_node_does_not_send(
    nodes: NodePair, logged: Logged
) -> None:
    keep(nodes.source, BACKUP)
    await move(nodes)
    arriving, database = nodes.destination.arriving_backups, nodes.destination.database
    (entry,) = nodes.destination.store.transfers()
    began = database.now()

    def said() -> bool:
        return any(BACKUP in each and "backups delete" in each for each in logged.lines)

    async def wait(first: int, last: int) -> None:
        for day in range(first, last):
            database.now = partial(float, began + day * 24 * 3600)
            await arriving.clear()

    await wait(0, SILENT_DAYS + 1)
    await arriving.status(entry, BACKUP, "", is_ordered=False)
    await wait(SILENT_DAYS + 1, 2 * SILENT_DAYS + 2)
    assert not said()
    await wait(2 * SILENT_DAYS + 2, 2 * SILENT_DAYS + 4)
    assert said()
    await nodes.destination.backups.delete(UUID, BACKUP)


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_one_that_is_deleted_on_its_way_is_deleted_at_both_nodes(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    await move(nodes)
    await nodes.destination.backups.delete(UUID, BACKUP)
    with pytest.raises(BackupMissing):
        await nodes.destination.backups.delete(UUID, BACKUP)
    nodes.source.left_backups.start()
    await until(lambda: names(nodes.source) == [])
    await until(lambda: nodes.source.store.left() == [])
    assert not nodes.destination.backup_directory.exists() or names(nodes.destination) == []


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_one_that_is_deleted_while_it_arrives_does_not_come_back(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP, 800_000)
    seen: list[int] = []

    def lose(request: StreamingRequest) -> bool:
        seen.append(request.method == b"PATCH")
        return sum(seen) >= 3

    nodes.destination.lose = lose
    nodes.source.left_backups.start()
    await move(nodes)
    await until(lambda: sum(seen) >= 3)
    assert list(nodes.destination.backup_directory.glob(".*part")) != []
    await nodes.destination.backups.delete(UUID, BACKUP)
    assert list(nodes.destination.backup_directory.glob(".*part")) == []
    nodes.destination.lose = lambda _: False
    await until(lambda: nodes.source.store.left() == [])
    assert names(nodes.source) == []
    assert place(nodes.destination, BACKUP).exists() is False


async def test_a_full_disk_costs_only_time(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that does not fit nothing is on the disk."""
    data, wanted = keep(nodes.source, BACKUP), set[int]()
    is_full = True

    def require_space(_: object, __: int, ___: str, size: int) -> None:
        wanted.add(size)
        if is_full:
            raise MoveNoSpace("the disk is full")

    monkeypatch.setattr(inbox, "_require_space", require_space)
    nodes.destination.arriving_backups._reserve = 1
    nodes.source.left_backups.start()
    await move(nodes)
    await until(lambda: nodes.source.left_backups.troubles != {})
    assert place(nodes.source, BACKUP).exists()
    assert wanted == {len(data)}
    assert list(nodes.destination.backup_directory.glob(".*part")) == []
    is_full = False
    await followed(nodes.source, nodes.destination, **{BACKUP: data})


async def test_what_the_disk_has_changed_comes_again(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = keep(nodes.source, BACKUP)
    write = write_all
    written: list[int] = []

    def damages(descriptor: int, block: bytes) -> None:
        written.append(len(block))
        write(descriptor, bytes(len(block)) if len(written) == 1 else block)

    monkeypatch.setattr(inbox, "write_all", damages)
    nodes.source.left_backups.start()
    await move(nodes)
    await followed(nodes.source, nodes.destination, **{BACKUP: data})
    assert sum(written) > len(data)


async def test_a_damaged_backup_stays(nodes: NodePair, logged: Logged) -> None:
    data = keep(nodes.source, BACKUP)
    place(nodes.source, BACKUP).write_bytes(bytes(len(data)))
    nodes.source.left_backups.start()
    await move(nodes)
    await until(lambda: nodes.source.left_backups.troubles != {})
    (trouble,) = nodes.source.left_backups.troubles.values()
    assert "checksum" in trouble
    assert place(nodes.source, BACKUP).exists()
    assert not place(nodes.destination, BACKUP).exists()


async def test_nodes_with_one_directory_of_backups_share_them(
    tmp_path: Path, nodes: NodePair
) -> None:
    shared = str(tmp_path / "shared")
    for name in ("source", "destination"):
        await nodes.restart(name, backup_directory=shared)
    nodes.source.servers.get_or_add(nodes.configuration)
    data = keep(nodes.source, BACKUP)
    nodes.source.left_backups.start()
    await move(nodes)
    await until(lambda: nodes.source.store.left() == [])
    assert not is_coming(nodes.destination, BACKUP)
    assert has(nodes.destination, BACKUP, data)
    assert [each for each in names(nodes.source) if not each.startswith(".")] == [
        f"{BACKUP}.catalogue.json",
        f"{BACKUP}.tar.gz",
    ]


@pytest.mark.parametrize("name", ["source", "destination"])
async def test_a_node_where_it_is_off_is_left_alone(nodes: NodePair, name: str) -> None:
    await nodes.restart(name, TransfersConfig(backups_follow=False))
    nodes.source.servers.get_or_add(nodes.configuration)
    keep(nodes.source, BACKUP)
    nodes.source.left_backups.start()
    await move(nodes)
    assert nodes.source.store.left() == []
    assert nodes.destination.store.coming() == []
    assert place(nodes.source, BACKUP).exists()


# What its source may do, and what the Panel says


@pytest.mark.promise("source-key-is-for-one-move")
async def test_the_key_is_for_the_backups_of_the_commit_alone(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    await move(nodes)
    (left,) = nodes.source.store.left()
    record = present(nodes.source.store.move(left.transfer))
    for each, backup in ((attrs.evolve(record, key="0" * 64), BACKUP), (record, OTHER)):
        client = MoveClient(
            PeerAddress(each.url, reactor, ""),
            reactor,
            5,
            None,
            each,
            MoveTrouble(reactor),
            1,
        )
        for ask in (
            partial(client.backup, backup, "", is_ordered=True),
            partial(client.patch, backup, 0, b"data", bool, target=f"/backups/{backup}?"),
        ):
            with pytest.raises(DestinationRefused):
                await ask()
        client.abort()
    assert is_coming(nodes.destination, BACKUP)
    assert not place(nodes.destination, OTHER).exists()


async def test_the_panel_that_ordered_the_move_decides(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    await move(nodes)
    arriving = nodes.destination.arriving_backups
    (direct,) = nodes.destination.store.transfers()
    ordered = attrs.evolve(direct, direct=False)
    silent = AsyncMock(side_effect=PanelUnreachable("it is silent", ""))
    for backup_record, expected in (
        (AsyncMock(return_value=BackupRecordState.THERE), Following.SEND),
        (AsyncMock(return_value=BackupRecordState.MISSING), Following.MISSING),
        (AsyncMock(return_value=BackupRecordState.UNKNOWN), Following.UNKNOWN),
        (silent, Following.UNKNOWN),
    ):
        nodes.destination.panel.backup_record = backup_record
        for transfer, is_ordered, state in (
            (direct, False, Following.SEND),
            (ordered, False, expected),
            (ordered, True, Following.SEND),
        ):
            found = await arriving.status(transfer, BACKUP, "", is_ordered=is_ordered)
            assert found.state == state.value
        backup_record.assert_awaited_once_with(BACKUP)


async def test_one_that_is_being_verified_is_not_called_here(nodes: NodePair) -> None:
    data = keep(nodes.source, BACKUP)
    await move(nodes)
    arriving = nodes.destination.arriving_backups
    keep(nodes.destination, BACKUP)
    (entry,) = nodes.destination.store.transfers()
    body: Any = None
    arriving._pieces._bodies[UUID, BACKUP] = body
    found = await arriving.status(entry, BACKUP, "", is_ordered=False)
    assert found.state == Following.UNKNOWN.value
    arriving._pieces._bodies.clear()
    nodes.destination.store.end_coming(ArrivingState.HERE, BACKUP, UUID)
    # The last piece is answered late: it stays, also when another question has noted it.
    came = present(nodes.destination.store.arriving(entry.id, BACKUP))
    await arriving._arrived(came, was_here=False)
    assert place(nodes.destination, BACKUP).exists()
    assert has(nodes.source, BACKUP, data)


@pytest.mark.parametrize("size", [5, 300_000])
async def test_another_file_of_a_backup_stays_where_it_is(nodes: NodePair, size: int) -> None:
    data = keep(nodes.source, BACKUP)
    await move(nodes)
    other = keep(nodes.destination, BACKUP, size)
    nodes.source.left_backups.start()
    await until(lambda: "file of it already" in str(nodes.source.left_backups.troubles))
    assert has(nodes.source, BACKUP, data)
    assert has(nodes.destination, BACKUP, other)
    # Without it, the backup comes.
    place(nodes.destination, BACKUP).unlink()
    await followed(nodes.source, nodes.destination, **{BACKUP: data})


async def test_the_same_file_at_the_destination_is_compared_and_not_sent(nodes: NodePair) -> None:
    data = keep(nodes.source, BACKUP)
    await move(nodes)
    nodes.destination.backup_directory.mkdir(exist_ok=True)
    place(nodes.destination, BACKUP).write_bytes(data)
    nodes.source.left_backups.start()
    await followed(nodes.source, nodes.destination, **{BACKUP: data})


async def test_a_whole_part_is_no_backup_until_it_is_in_its_place(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = keep(nodes.source, BACKUP)
    files = nodes.destination.arriving_backups.files
    complete, failed = FollowingFiles.complete, []

    def completes(self: FollowingFiles, *args: Any, **named: Any) -> None:
        failed.append(1)
        if len(failed) < 3:
            raise StorageError("no space left on device")
        complete(self, *args, **named)

    monkeypatch.setattr(type(files), "complete", completes)
    nodes.source.left_backups.start()
    await move(nodes)
    await until(lambda: len(failed) == 2)
    assert has(nodes.source, BACKUP, data)
    await followed(nodes.source, nodes.destination, **{BACKUP: data})


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_one_that_was_ended_while_its_last_piece_came_stays_at_the_source(
    nodes: NodePair,
) -> None:
    data = keep(nodes.source, BACKUP)
    database: Any = nodes.destination.database
    end = database.end_coming

    def ends(state: ArrivingState, *args: Any) -> Any:
        if state is ArrivingState.HERE:  # just before it is recorded
            nodes.destination.store.end_coming(ArrivingState.STAYS, BACKUP)
        return end(state, *args)

    database.end_coming = ends
    nodes.source.left_backups.start()
    await move(nodes)
    await until(lambda: "does not take it" in str(nodes.source.left_backups.troubles))
    assert has(nodes.source, BACKUP, data)
    assert not place(nodes.destination, BACKUP).exists()


@pytest.mark.promise("source-key-is-for-one-move")
async def test_a_key_ends_only_the_backups_of_its_own_server(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    await move(nodes)
    store = nodes.destination.store
    theirs = store.begin(1, SERVER, Direction.IN, "RECEIVE")
    store.end(2, theirs, Outcome.SUCCESS)
    store.add_arriving([ArrivingBackup(BACKUP, theirs, SERVER, "tar.gz", 5, 1.0)])
    nodes.source.left_backups.start()
    await until(lambda: not is_coming(nodes.destination, BACKUP))
    assert present(store.arriving(theirs, BACKUP)).state is ArrivingState.COMING


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_one_that_comes_while_its_server_is_deleted_does_not_stay(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    store: Any = nodes.destination.backup_store
    every = store.all

    def lists(server: str = "") -> Any:
        found = every(server)
        nodes.source.reactor.callFromThread(nodes.source.left_backups.start)
        while not place(nodes.destination, BACKUP).exists() and gate:
            gate.pop()
            time.sleep(0.02)
        return found

    gate = [1] * 50
    await move(nodes)
    store.all = lists
    assert await nodes.destination.backups.delete_all(UUID) == 1
    await until(lambda: nodes.source.store.left() == [])
    assert not place(nodes.destination, BACKUP).exists()


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_one_that_is_not_waited_for_leaves_what_was_here_before(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    await move(nodes)
    data = keep(nodes.destination, BACKUP)
    await nodes.destination.backups.end_coming("", BACKUP, ArrivingState.STAYS)
    assert not is_coming(nodes.destination, BACKUP)
    found = present(nodes.destination.backup_store.find(UUID, BACKUP))
    assert found.catalogue is not None
    assert has(nodes.destination, BACKUP, data)


# Directories that several nodes have


async def test_a_backup_that_is_in_the_directory_of_the_first_and_third_node_stays(
    tmp_path: Path, nodes: NodePair
) -> None:
    shared = str(tmp_path / "shared")
    await nodes.restart("source", backup_directory=shared)
    nodes.source.servers.get_or_add(nodes.configuration)
    (tmp_path / "third").mkdir()
    third = NodeInProcess(tmp_path / "third", nodes.workers, backup_directory=shared)
    data = keep(nodes.source, BACKUP)
    await move_on(nodes.source, nodes.destination)
    await move_on(nodes.destination, third)
    nodes.destination.left_backups.start()
    await until(lambda: nodes.destination.store.left() == [])
    nodes.source.left_backups.start()
    await until(lambda: "file of it already" in str(nodes.source.left_backups.troubles))
    assert has(third, BACKUP, data)
    await third.close()


async def test_questions_of_other_nodes_leave_the_marks_in_a_shared_directory(
    tmp_path: Path, nodes: NodePair
) -> None:
    shared = str(tmp_path / "shared")
    for name in ("source", "destination"):
        await nodes.restart(name, backup_directory=shared)
    nodes.source.servers.get_or_add(nodes.configuration)
    data = keep(nodes.source, BACKUP)
    await move(nodes)
    arriving: Any = nodes.destination.arriving_backups
    status = arriving.status

    async def asked(*args: Any, **named: Any) -> Any:
        # The next transfer of the server, and a question of another node about the same backup.
        marks = nodes.destination.volume.backup_marks
        marks.leave(UUID)
        marks.remove(UUID)
        marks.put(BACKUP, "f" * 32)
        marks.remove(BACKUP, "f" * 32)
        return await status(*args, **named)

    arriving.status = asked
    nodes.source.left_backups.start()
    await until(lambda: nodes.source.store.left() == [])
    assert has(nodes.source, BACKUP, data)


@pytest.mark.promise("backups-follow-their-server")
async def test_a_disk_that_takes_no_mark_can_be_left(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    data = keep(nodes.source, BACKUP)

    def fails(*_: object) -> None:
        raise StorageError("read-only file system")

    monkeypatch.setattr(Marks, "put", fails)
    nodes.source.left_backups.start()
    await move(nodes)
    await until(lambda: has(nodes.destination, BACKUP, data))
    await until(lambda: "read-only" in str(nodes.source.left_backups.troubles))
    assert has(nodes.source, BACKUP, data)


# Moves do not depend on it


async def test_a_disk_of_backups_that_cannot_be_read_keeps_no_server(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(nodes.source, BACKUP)

    def fails(*_: object) -> None:
        raise StorageError("input/output error")

    monkeypatch.setattr(nodes.source.backup_store, "all", fails)
    await move(nodes)
    assert nodes.source.store.left() == []
    assert nodes.destination.store.coming() == []


async def test_two_files_of_one_backup_are_one(nodes: NodePair) -> None:
    data = keep(nodes.source, BACKUP)
    directory = nodes.source.backup_directory / UUID
    directory.mkdir()
    (directory / f"{BACKUP}.tar.gz").write_bytes(data)
    await move(nodes)
    assert len(nodes.source.store.left()) == 1
    assert is_coming(nodes.destination, BACKUP)


# Servers that move on, or come back


async def test_a_server_that_comes_back_has_its_backups_at_home(
    nodes: NodePair,
) -> None:
    first = keep(nodes.source, BACKUP)
    await move_on(nodes.source, nodes.destination)
    second = keep(nodes.destination, OTHER)
    # The first one has not been sent yet.
    nodes.destination.left_backups.start()
    await move_on(nodes.destination, nodes.source)
    await followed(nodes.destination, nodes.source, **{BACKUP: first, OTHER: second})
    assert nodes.source.store.left() == []


async def test_one_that_has_followed_comes_back_with_its_server(nodes: NodePair) -> None:
    data = keep(nodes.source, BACKUP)
    for node in (nodes.source, nodes.destination):
        node.left_backups.start()
    await move_on(nodes.source, nodes.destination)
    await followed(nodes.source, nodes.destination, **{BACKUP: data})
    await move_on(nodes.destination, nodes.source)
    await followed(nodes.destination, nodes.source, **{BACKUP: data})


async def test_what_a_killed_daemon_was_removing_is_at_home_when_its_server_is_back(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    data = keep(nodes.source, BACKUP)

    async def fails(each: LeftBackup) -> None:
        raise StorageError("the daemon is killed")

    left: Any = nodes.source.left_backups
    left._remove_file = fails
    left.start()
    await move_on(nodes.source, nodes.destination)
    await until(lambda: [each.state for each in nodes.source.store.left()] == [LeftState.DONE])
    await move_on(nodes.destination, nodes.source)
    await nodes.restart("source")
    await nodes.source.recover()
    await nodes.source.servers.boot()
    nodes.source.left_backups.start()
    await nodes.source.left_backups.clear()
    assert nodes.source.store.left() == []
    assert has(nodes.source, BACKUP, data)
    nodes.destination.left_backups.start()
    await followed(nodes.destination, nodes.source, **{BACKUP: data})


async def test_backups_on_their_way_follow_a_server_that_moves_on(
    tmp_path: Path, nodes: NodePair
) -> None:
    (tmp_path / "third").mkdir()
    third = NodeInProcess(tmp_path / "third", nodes.workers)
    first = keep(nodes.source, BACKUP)
    await move_on(nodes.source, nodes.destination)
    second = keep(nodes.destination, OTHER)
    await move_on(nodes.destination, third)
    assert is_coming(third, BACKUP)
    nodes.destination.left_backups.start()
    await until(lambda: has(third, OTHER, second))
    assert nodes.destination.left_backups.troubles
    nodes.source.left_backups.start()
    await followed(nodes.source, third, **{BACKUP: first, OTHER: second})
    await followed(nodes.destination, third)
    await third.close()


# An operator's orders


async def test_one_that_an_operator_keeps_is_not_sent_until_it_is_ordered(
    nodes: NodePair,
) -> None:
    data = keep(nodes.source, BACKUP)
    await move(nodes)
    left = nodes.source.left_backups
    assert (await left.keep(BACKUP)).state is LeftState.KEPT
    assert not is_coming(nodes.destination, BACKUP)
    left.start()
    other = keep(nodes.source, OTHER)
    assert (await left.send(BACKUP)).state is LeftState.ORDERED
    await until(lambda: has(nodes.destination, BACKUP, data))
    await until(lambda: nodes.source.store.left() == [])
    assert has(nodes.source, OTHER, other)
    with pytest.raises(BackupNotLeft):
        await left.keep(OTHER)


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_one_that_an_operator_deletes_is_not_expected_any_more(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    await move(nodes)
    await nodes.source.left_backups.delete(BACKUP)
    assert names(nodes.source) == []
    # Its destination hears of it, also later.
    assert is_coming(nodes.destination, BACKUP)
    with pytest.raises(BackupNotLeft):
        await nodes.source.left_backups.keep(BACKUP)
    nodes.source.left_backups.start()
    await until(lambda: nodes.source.store.left() == [])
    assert not is_coming(nodes.destination, BACKUP)


async def test_one_that_was_deleted_on_its_way_is_not_lost_by_an_order_to_send_it(
    nodes: NodePair,
) -> None:
    data = keep(nodes.source, BACKUP)
    await move(nodes)
    await nodes.destination.backups.delete(UUID, BACKUP)
    await nodes.source.left_backups.send(BACKUP)
    nodes.source.left_backups.start()
    await until(lambda: [each.state for each in nodes.source.store.left()] == [LeftState.KEPT])
    assert has(nodes.source, BACKUP, data)
    assert not place(nodes.destination, BACKUP).exists()


async def test_one_that_follows_is_not_rewritten_for_wings(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    await move(nodes)
    with pytest.raises(BackupNotForWings):
        await nodes.source.backup_rewrites.begin(BACKUP)


async def test_a_destination_that_is_away_is_asked_once_in_a_turn(
    nodes: NodePair, logged: Logged
) -> None:
    for backup in (BACKUP, OTHER):
        keep(nodes.source, backup)
    await move(nodes)
    left: Any = nodes.source.left_backups
    asked: list[str] = []
    ask = left._ask

    async def asks(each: LeftBackup, client: MoveClient) -> Any:
        asked.append(each.place)
        return await ask(each, client)

    left._ask = asks
    await nodes.destination.http.close()
    left.start()
    await until(lambda: len(left.troubles) == 2)
    left.stop()
    assert len(set(asked)) == 1


@pytest.mark.promise("backup-on-its-way-is-known")
async def test_one_that_is_gone_is_not_expected_any_more(nodes: NodePair) -> None:
    keep(nodes.source, BACKUP)
    data = keep(nodes.source, OTHER)
    await move(nodes)
    place(nodes.source, BACKUP).unlink()
    nodes.source.left_backups.start()
    await until(lambda: has(nodes.destination, OTHER, data))
    await until(lambda: nodes.source.store.left() == [])
    assert not is_coming(nodes.destination, BACKUP)


async def test_one_that_cannot_be_removed_is_removed_by_the_next_daemon(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    data = keep(nodes.source, BACKUP)

    def fails(found: object) -> None:
        raise StorageError("operation not permitted")

    monkeypatch.setattr(nodes.source.backup_store, "remove", fails)
    nodes.source.left_backups.start()
    await move(nodes)
    await until(lambda: has(nodes.destination, BACKUP, data))
    await until(lambda: [each.state for each in nodes.source.store.left()] == [LeftState.DONE])
    monkeypatch.undo()
    await nodes.restart("source")
    nodes.source.left_backups.start()
    await followed(nodes.source, nodes.destination, **{BACKUP: data})
