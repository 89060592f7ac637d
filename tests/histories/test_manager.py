"""All histories of a node: when points are made, of which servers, and what is kept of them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed

from tests.history.worlds import FAST, bad_block, trusted
from tests.servers.harness import OTHER, UUID, FakeNode, Outcome, configuration, do
from tests.support.logged_errors import Logged
from tests.support.small_disk import small_disk
from tests.support.workers import HeldWorkers, SynchronousWorkers
from wingsd.api.files import read_files
from wingsd.archive.compress import Compression
from wingsd.backups.points import IgnoreList
from wingsd.config import HistoryConfig, ServerHistoryConfig
from wingsd.errors import (
    BadRequest,
    EnvironmentFailed,
    FileMissing,
    FileWorkCancelled,
    HistoryDamaged,
    MoveBusy,
    PastInUse,
    PastReadOnly,
    PointNamed,
    ServerBusy,
    StorageError,
)
from wingsd.files.guard import Progress
from wingsd.files.tasks import Lane
from wingsd.filesystem.directory import OpenFile
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.histories import ANSWERS_WITHIN, SILENT_DAYS, manager
from wingsd.histories.manager import HELD_PAUSE, QUIET_PAUSE, Histories
from wingsd.history.capture import HistorySource
from wingsd.history.format import Point, PointLabel
from wingsd.history.names import PointName
from wingsd.history.store import HistoryStore
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.statedb import (
    POINT,
    ArrivingBackup,
    ArrivingState,
    Direction,
    LeftBackup,
    LeftState,
    RewindRecord,
    history_place,
)
from wingsd.threadio import Outflow, OutflowClosed, Workers
from wingsd.transfers.incoming.arriving_histories import ArrivingHistories
from wingsd.transfers.incoming.moves.inbox import ANSWERED_WITHIN
from wingsd.transfers.outgoing.left_histories import LeftHistories
from wingsd.util.serialization import Span

EVERY = 300
NOW = 1_700_000_000.0


class HistoryNode(FakeNode):
    """A node with histories, whose clock is the test's."""

    def __init__(self, directory: Path, **history: Any) -> None:
        place = directory / "history"
        place.mkdir()
        settings = {"every": Span("5m"), "directory": str(place)} | history
        super().__init__(directory, history=HistoryConfig(**settings))
        self.data.joinpath(UUID).mkdir()

    def _open(self, *args: Any) -> None:
        super()._open(*args)
        parts = self.daemon.histories
        parts.file_systems = trusted(self.data)
        parts.now = parts.database.now = lambda: NOW + self.clock.seconds()

    @property
    def histories(self) -> Histories:
        return self.daemon.histories.get()

    def begin(self) -> None:
        """Begin to make points, as the end of the daemon's start does."""
        self.daemon.histories.start()

    def write(self, text: str, uuid: str = UUID) -> None:
        (self.data / uuid / "world.dat").write_text(text)

    def numbers(self, uuid: str = UUID) -> list[int]:
        """Return the points that there are, the newest first."""
        found: list[manager.PointInfo] = Outcome.of(self.histories.points(uuid)).value()
        return [each.point.number for each in found]

    def change(self, **history: Any) -> None:
        """Have other settings in force, as after a reload."""
        config = self.daemon.histories.config
        system = attrs.evolve(
            config.system, history=attrs.evolve(config.system.history, **history)
        )
        self.daemon.histories.use(attrs.evolve(config, system=system))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HistoryNode]:
    made = HistoryNode(tmp_path)
    kernel = attrs.evolve(FAST, wall_time=lambda: int(made.daemon.histories.now() * 10**9))
    monkeypatch.setattr(manager, "HistorySource", partial(HistorySource, kernel=kernel))
    yield made
    Outcome.of(made.daemon.histories.stop()).value()
    made.close()


def run(node: FakeNode) -> Server:
    """Return a server whose program runs."""
    server = node.server()
    do(server, PowerAction.START).value()
    return server


@pytest.mark.promise("history-points")
def test_a_point_is_made_of_a_running_server_each_time(node: HistoryNode) -> None:
    run(node)
    node.write("first")
    node.begin()
    assert node.numbers() == [1]
    node.clock.advance(EVERY - 10)
    node.write("second")
    assert node.numbers() == [1]
    node.clock.advance(10)
    assert node.numbers() == [2, 1]
    state = node.histories.state(UUID)
    assert state is not None
    assert (state.points, state.looked, state.trouble) == (2, NOW + EVERY, "")
    assert state.bytes > 0
    found = Outcome.of(node.histories.points(UUID)).value()
    assert [each.point.label for each in found] == [PointLabel.RUNNING] * 2


def test_a_server_that_is_off_and_unchanged_gets_no_point_and_is_seldom_looked_at(
    node: HistoryNode,
) -> None:
    node.server()
    node.write("as it is")
    node.begin()
    node.clock.advance(EVERY)
    looked = node.histories.seconds
    made = node.histories.made
    node.write("changed by its user")
    node.clock.pump([EVERY] * int(QUIET_PAUSE // EVERY - 1))
    assert (node.numbers(), made) == ([1], 1)
    node.clock.advance(EVERY)
    assert node.numbers() == [2, 1]
    assert node.histories.seconds >= looked


def test_a_point_of_a_server_that_is_off_is_stopped(node: HistoryNode) -> None:
    server = node.server()
    point: Point = Outcome.of(node.histories.make(server)).value()
    assert point.label is PointLabel.STOPPED


def test_a_point_is_not_stopped_while_the_engine_does_not_say_what_runs(
    node: HistoryNode,
) -> None:
    server = node.server()
    server._adopted = False
    node.environment.faults["adopt"] = EnvironmentFailed("the engine does not answer")
    point: Point = Outcome.of(node.histories.make(server)).value()
    assert point.label is PointLabel.RUNNING


def test_a_server_that_is_started_meanwhile_has_a_running_point(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = node.server()
    made = HistoryStore.make

    def start_and_make(store: HistoryStore, source: HistorySource, *args: Any) -> Point | None:
        do(server, PowerAction.START).value()
        return made(store, source, *args)

    monkeypatch.setattr(HistoryStore, "make", start_and_make)
    point: Point = Outcome.of(node.histories.make(server)).value()
    assert point.label is PointLabel.RUNNING


def test_a_point_is_made_soon_after_a_server_stops(node: HistoryNode) -> None:
    server = run(node)
    node.begin()
    node.clock.advance(EVERY / 2)
    node.write("saved at its end")
    do(server, PowerAction.STOP)
    node.clock.advance(manager.STOPPED_PAUSE)
    assert node.numbers() == [2, 1]
    newest = Outcome.of(node.histories.points(UUID)).value()[0].point
    assert newest.label is PointLabel.STOPPED


@pytest.mark.parametrize("operation", [Operation.RESTORE, Operation.INSTALL, Operation.MOVED])
def test_a_server_that_is_held_gets_no_point(node: HistoryNode, operation: Operation) -> None:
    server = run(node)
    server.operations.hold = None
    server.place_hold(operation, "it is held")
    node.begin()
    node.clock.advance(20 * EVERY)
    assert node.numbers() == []
    assert not node.histories.is_late(UUID)
    server.release()
    node.clock.advance(HELD_PAUSE)
    assert node.numbers() == [1]


def test_a_hold_cancels_the_point_that_is_being_made(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = run(node)
    node.write("as it is")
    made = HistoryStore.make

    def hold_and_make(store: HistoryStore, source: HistorySource, *args: Any) -> Point | None:
        server.place_hold(Operation.RESTORE, "a backup is restored")
        return made(store, source, *args)

    with monkeypatch.context() as patch:
        patch.setattr(HistoryStore, "make", hold_and_make)
        Outcome.of(node.histories.make(server)).error(FileWorkCancelled)
    assert node.numbers() == []
    assert not server.operations.runs(Operation.POINT)


def test_a_directory_that_was_exchanged_meanwhile_is_no_point(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = node.server()
    scan = HistorySource.scan

    def exchange(source: HistorySource, scratch: str) -> Any:
        os.rename(server.directory, f"{server.directory}.old")
        os.mkdir(server.directory)
        return scan(source, scratch)

    monkeypatch.setattr(HistorySource, "scan", exchange)
    error = Outcome.of(node.histories.make(server)).error(StorageError)
    assert "was replaced while it was read" in str(error)
    assert node.numbers() == []


def test_the_work_of_one_server_comes_one_after_another(node: HistoryNode) -> None:
    node.server()
    held: Any = HeldWorkers()
    node.histories._parts.workers = held
    seen: list[str] = []

    def work(name: str) -> Callable[[HistoryStore], None]:
        return lambda store: seen.append(name)

    first, second = (Outcome.of(node.histories.use(UUID, work(name))) for name in ("a", "b"))
    other = Outcome.of(node.histories.use(OTHER, work("of another")))
    assert len(held.held) == 2
    held.held.pop().do()
    held.held.pop().do()
    assert (seen, first.over, other.over, second.over) == (["of another", "a"], True, True, False)
    held.held.pop().do()
    assert seen == ["of another", "a", "b"]


def read_world(
    node: HistoryNode,
    server: Server,
    lane: Lane,
    meanwhile: Callable[[], object] = lambda: None,
    **options: Any,
) -> Outcome:
    """Read a file of the newest point, and do something `meanwhile`."""

    def work(root: ServerRoot) -> bytes:
        meanwhile()
        top = ServerPath((b".history",))
        with root.directory(top) as points:
            newest = max(entry.name for entry in points.entries())
        with root.open_file(ServerPath((b".history", newest, b"world.dat"))) as file:
            return file.read_at(0, 100)

    return Outcome.of(node.histories.read(server, lane, work, **options))


def test_users_read_the_past_while_no_other_work_has_the_history(node: HistoryNode) -> None:
    server = run(node)
    node.write("first")
    node.begin()
    held: Any = HeldWorkers()
    lane = Lane(held, each=2, waiting=8)

    def take_long() -> None:
        node.clock.advance(EVERY)
        assert [each.over for each in read] == [False, True]

    read = [read_world(node, server, lane, take_long), read_world(node, server, lane)]
    # The point that is due is not put off by those who read, or wait for that.
    node.write("second")
    held.held.pop().do()
    read[1].error(PastInUse)
    assert read[0].value() == b"first"
    assert node.numbers() == [2, 1]
    again = read_world(node, server, lane, cancelled=lambda: True)
    held.held.pop().do()
    again.error(FileWorkCancelled)


def test_users_wait_for_each_other_as_long_as_for_a_history(node: HistoryNode) -> None:
    server = run(node)
    node.write("first")
    node.begin()
    held: Any = HeldWorkers()
    lane = Lane(held, each=1, waiting=32)
    long: Deferred[None] = Deferred()
    Deferred.fromCoroutine(occupied(lane, long))
    waiting = read_world(node, server, lane)
    node.clock.advance(manager.WAIT_WITHIN - 1)
    later, change = read_world(node, server, lane), read_world(node, server, lane, writes=True)
    assert not waiting.over
    node.clock.advance(1)
    waiting.error(PastInUse)
    assert (later.over, change.over) == (False, False)
    # The history is in use when it is their turn: all of the time counts.
    using = Outcome.of(node.histories.use(UUID, HistoryStore.points, held))
    long.callback(None)
    node.clock.advance(manager.WAIT_WITHIN - 1)
    later.error(PastInUse)
    assert not change.over
    held.held.pop().do()
    assert using.over
    held.held.pop().do()
    assert change.value() == b"first"


def test_a_past_that_is_found_meanwhile_is_read(node: HistoryNode) -> None:
    """As in the first moment after the start of a node."""
    server = node.server()
    node.write("first")
    held: Any = HeldWorkers()
    lane = Lane(held, each=1, waiting=8)
    files = SimpleNamespace(short=lane, long=lane, past=lane)
    context: Any = SimpleNamespace(files=files, histories=node.daemon.histories)

    def read(root: ServerRoot) -> list[bytes]:
        with root.directory(ServerPath((b".history",))) as points:
            return [entry.name for entry in points.entries()]

    def reading(paths: tuple[ServerPath, ...]) -> Outcome:
        return Outcome.of(read_files(context, server, lane, read, paths, lambda: False))

    assert not server.files.has_past
    found, other = reading((ServerPath((b".history",)),)), reading(())
    node.begin()
    assert server.files.has_past
    for _ in range(3):
        held.held.pop(0).do()
    assert len(found.value()) == 1
    other.error(PastReadOnly)  # work that does not say that it reads the past


async def occupied(lane: Lane, until: Deferred[None]) -> None:
    async with lane.turn(UUID):
        await until


@pytest.mark.root
def test_open_copies_take_no_space_from_points(node: HistoryNode, tmp_path: Path) -> None:
    server = run(node)
    lane = Lane(cast(Workers, SynchronousWorkers()), each=2, waiting=8)
    with small_disk(tmp_path / "mounted", 16):
        node.change(directory=str(tmp_path / "mounted"))
        node.write("x" * (3 << 20))
        node.begin()

        def most() -> int:
            work = partial(node.histories._max_size, UUID)
            found: int = Outcome.of(node.histories.use(UUID, work)).value()
            return found

        def opened(root: ServerRoot) -> OpenFile:
            with root.directory(ServerPath((b".history",))) as points:
                (point,) = (entry.name for entry in points.entries())
            return root.open_file(ServerPath((b".history", point, b"world.dat")))

        before = most()
        reading = Outcome.of(node.histories.read(server, lane, opened))
        file: OpenFile = reading.value()
        assert os.fstatvfs(file.fileno()).f_bfree * 4096 < 11 << 20
        assert most() == before
        Outcome.of(node.histories.read(server, lane, opened)).error(PastInUse)
        file.close()
        assert most() == before
        Outcome.of(node.histories.read(server, lane, opened)).value().close()


def test_users_are_shown_points_as_long_as_there_are_some(node: HistoryNode) -> None:
    server = node.server()
    lane = Lane(cast(Workers, SynchronousWorkers()), each=2, waiting=8)
    node.begin()
    assert server.files.has_past
    assert server.files.with_root(lambda root: root.past_entry()) is not None
    node.change(every=Span("0"))
    assert not server.files.has_past
    assert server.files.with_root(lambda root: root.past_entry()) is None
    node.change(every=Span("5m"))
    assert server.files.has_past
    Outcome.of(node.histories.remove(UUID)).value()
    assert not server.files.has_past
    read_world(node, server, lane).error(FileMissing)
    assert not os.path.exists(node.histories.path(UUID))


def test_no_server_waits_for_long_work_on_the_history_of_another(node: HistoryNode) -> None:
    node.server()
    node.server(configuration(OTHER))
    held: Any = HeldWorkers()
    reading = Outcome.of(node.histories.use(UUID, HistoryStore.verify, held))
    node.begin()
    assert (node.numbers(OTHER), reading.over) == ([1], False)
    held.held.pop().do()
    node.clock.advance(HELD_PAUSE)
    assert node.numbers() == [1]


def test_a_point_that_takes_long_goes_on_beside_those_of_other_servers(
    node: HistoryNode,
) -> None:
    uuids = [UUID, OTHER, *(f"{each}2222222-6e2b-4c43-9d57-0c4c5e1c7f10" for each in "23")]
    for uuid in uuids:
        node.server(configuration(uuid))
    held: Any = HeldWorkers()
    node.histories._is_measured = True
    workers = node.histories._parts.workers
    node.histories._parts.workers = held
    node.begin()
    held.held.pop(1).do()  # what removals have left
    for under_way, seconds in enumerate(manager.LONG_AFTER, start=1):
        node.clock.advance(seconds - 1)
        assert len(held.held) == under_way
        node.clock.advance(1)
    assert len(held.held) == 3
    node.clock.advance(10 * manager.LONG_AFTER[-1])  # no fourth one beside these
    assert len(held.held) == 3
    held.held.pop(2).do()  # two disks hang
    assert len(held.held) == 3
    held.held.pop(2).do()
    assert len(held.held) == 2
    held.held.pop(0).do()
    held.held.pop(0).do()
    node.histories._parts.workers = workers
    assert [node.numbers(uuid) for uuid in uuids] == [[1]] * 4


def test_who_waits_while_a_history_is_removed_shares_its_turns_with_those_after_it(
    node: HistoryNode,
) -> None:
    node.write("as it is")
    Outcome.of(node.histories.make(node.server())).value()
    held: Any = HeldWorkers()
    workers, node.histories._parts.workers = node.histories._parts.workers, held
    removing = Outcome.of(node.histories.remove(UUID))
    waiting = Outcome.of(node.histories.use(UUID, HistoryStore.points))
    held.held.pop().do()
    assert removing.over
    (first,) = held.held
    later = Outcome.of(node.histories.use(UUID, HistoryStore.points))
    assert held.held == [first]
    first.do()
    held.held.pop().do()
    assert (waiting.value(), later.value()) == ([], [])
    node.histories._parts.workers = workers


def test_who_gives_up_waiting_stops_the_work_and_keeps_the_turn_until_its_end(
    node: HistoryNode,
) -> None:
    node.server()
    held: Any = HeldWorkers()
    node.histories._parts.workers = held
    begun: list[int] = []

    def give_up(store: HistoryStore) -> None:
        first.deferred.cancel()
        begun.append(len(held.held))
        store.check()

    first = Outcome.of(node.histories.use(UUID, give_up))
    waiting = Outcome.of(node.histories.use(UUID, HistoryStore.points))
    third = Outcome.of(node.histories.use(UUID, HistoryStore.points))
    waiting.deferred.cancel()
    waiting.error(CancelledError)
    held.held.pop().do()
    first.error(CancelledError)
    assert (begun, len(held.held)) == ([0], 1)
    held.held.pop().do()
    assert third.value() == []


def test_what_no_thread_has_begun_keeps_a_history_from_nobody(node: HistoryNode) -> None:
    server = node.server()
    Outcome.of(node.histories.make(server)).value()
    busy: Any = HeldWorkers()
    read = read_world(node, server, Lane(busy, each=8, waiting=8))
    waiting = Outcome.of(node.histories.points(UUID))
    node.clock.advance(manager.WAIT_WITHIN)
    read.error(PastInUse)
    assert [each.point.number for each in waiting.value()] == [1]
    first = Outcome.of(node.histories.use(UUID, HistoryStore.points, busy))
    second = Outcome.of(node.histories.use(UUID, HistoryStore.points))
    node.histories.interrupt(UUID)
    first.error(FileWorkCancelled)
    second.error(FileWorkCancelled)
    assert node.numbers() == [1]
    for each in busy.held:
        each.do()
    assert node.numbers() == [1]


def test_the_daemons_end_stops_what_is_under_way_and_does_not_wait_for_ever(
    node: HistoryNode,
) -> None:
    server = node.server()
    held: Any = HeldWorkers()
    node.histories._parts.workers = held
    node.histories._is_measured = True
    making = Outcome.of(node.histories.make(server))
    (work,) = node.histories._histories[UUID].works
    assert work.begins()
    ending = Outcome.of(node.histories.stop())
    assert not ending.over
    node.clock.advance(manager.STOP_WITHIN)
    assert ending.over
    held.held.pop().do()
    assert making.over


def test_what_the_policy_does_not_keep_is_removed_but_not_what_is_pinned(
    node: HistoryNode,
) -> None:
    server = node.server()
    node.change(keep={"1h": 2})
    for number in range(1, 6):
        node.clock.advance(1800)
        node.histories.pinned[UUID] = {2}
        node.write(str(number))
        Outcome.of(node.histories.make(server)).value()
    assert node.numbers() == [5, 4, 2]


@pytest.mark.promise("point-backups-follow")
def test_a_point_that_is_a_backup_which_follows_stays_until_it_has_its_name(
    node: HistoryNode,
) -> None:
    server, database = node.server(), node.daemon.histories.database
    node.change(keep={"1h": 2})
    entry: Any = database.begin(UUID, Direction.IN, "RECEIVE")
    backup = ArrivingBackup(OTHER, entry.result, UUID, POINT, 0, 0.0, newest=2)
    database.add_arriving([backup])

    def make(number: int) -> list[int]:
        node.clock.advance(1800)
        node.write(str(number))
        Outcome.of(node.histories.make(server)).value()
        return node.numbers()

    assert [make(number) for number in range(1, 6)][-1] == [5, 4, 2]
    database.end_coming(ArrivingState.DELETED, OTHER, UUID)
    assert make(6) == [6, 5]


def test_a_clock_that_is_wrong_for_some_time_does_not_take_all_points(node: HistoryNode) -> None:
    server, parts = node.server(), node.daemon.histories
    node.change(keep={"1h": 60})
    for number in range(1, 11):
        node.clock.advance(60)
        node.write(str(number))
        Outcome.of(node.histories.make(server)).value()
    right, parts.now = parts.now, lambda: NOW + 40 * 24 * 3600
    Outcome.of(node.histories.make(server)).value()
    parts.now = right
    Outcome.of(node.histories.make(server)).value()
    assert node.numbers() == [*range(10, manager.THINNED, -1)]


@pytest.mark.promise("history-is-bounded")
def test_a_history_that_is_full_says_so_once_and_goes_on_with_more_space(
    node: HistoryNode,
) -> None:
    run(node)
    node.change(max_size=1)
    (node.data / UUID / "large").write_bytes(os.urandom(2 << 20))
    node.begin()
    node.clock.pump([EVERY] * 3)
    (line,) = [each for each in node.told("daemon message") if "history" in each]
    assert "No point of the server's history could be made" in line
    (entry,) = node.told("explained")
    assert entry.startswith("history.full ")
    state = node.histories.state(UUID)
    assert state is not None
    assert state.trouble
    node.clock.advance(2 * EVERY + manager.LATE_AFTER)
    assert node.histories.is_late(UUID)
    node.change(max_size=100)
    node.clock.advance(EVERY)
    assert (node.numbers(), state.trouble) == ([1], "")
    assert not node.histories.is_late(UUID)


@pytest.mark.promise("history-is-bounded")
def test_the_reserve_of_the_disk_stays_free(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = node.server()
    config = node.daemon.histories.config
    transfers = attrs.evolve(config.system.transfers, disk_reserve=1)
    system = attrs.evolve(config.system, transfers=transfers)
    node.daemon.histories.use(attrs.evolve(config, system=system))
    node.change(keep={"1h": 3600})
    real = os.statvfs(node.data)
    size = 1 << 20

    def full(free: int) -> Callable[[Any], os.statvfs_result]:
        blocks = (4096, 4096, 1 << 20, free // 4096, free // 4096, *real[5:])
        return lambda path: os.statvfs_result(blocks)

    def make(free: int) -> Outcome:
        (node.data / UUID / "world").write_bytes(os.urandom(size))
        node.clock.advance(10)
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", full(free))
            return Outcome.of(node.histories.make(server))

    for _ in range(3):
        make(20 * size).value()
    assert node.numbers() == [3, 2, 1]
    # what is left beside the reserve is less than a point takes, so the oldest one goes
    make(size + size // 2).value()
    assert node.numbers() == [4, 3, 2]
    error = make(size // 2).error(StorageError)
    assert "MiB must stay free (system.transfers.disk_reserve)" in str(error)
    assert node.numbers() == [4, 3, 2]


def test_a_directory_that_is_not_there_is_named_and_not_made(node: HistoryNode) -> None:
    run(node)
    place = Path(node.histories.directory)
    place.rmdir()
    node.begin()
    (line,) = node.told("daemon message")
    assert f"{place} (system.history.directory) does not exist" in line
    assert not place.exists()
    place.mkdir()
    node.clock.advance(EVERY)
    assert node.numbers() == [1]


@pytest.mark.root
def test_a_disk_that_is_read_only_or_gone_is_named_and_the_server_runs_on(
    node: HistoryNode, tmp_path: Path
) -> None:
    server = run(node)
    place = tmp_path / "mounted"
    with small_disk(place, 64):
        (place / "history").mkdir()
        node.change(directory=str(place / "history"))
        node.begin()
        assert node.numbers() == [1]
        subprocess.run(["/bin/mount", "-o", "remount,ro", str(place)], check=True)
        node.write("changed")
        node.clock.advance(EVERY)
        state = node.histories.state(UUID)
        assert state is not None
        assert "read-only" in state.trouble
        subprocess.run(["/bin/mount", "-o", "remount,rw", str(place)], check=True)
        node.clock.advance(EVERY)
        assert (node.numbers(), state.trouble) == ([2, 1], "")
    node.write("changed again")
    node.clock.advance(EVERY)
    assert "does not exist: mount its file system" in state.trouble
    assert os.listdir(place) == []
    assert server.state is PowerState.STARTING


def test_a_history_that_another_process_uses_is_tried_again(node: HistoryNode) -> None:
    run(node)
    path = node.histories.path(UUID)
    other = HistoryStore(path)
    node.begin()
    state = node.histories.state(UUID)
    assert state is not None
    assert state.trouble
    other.close()
    node.clock.advance(EVERY)
    assert (node.numbers(), state.trouble) == ([1], "")


def test_after_a_restart_a_point_is_due_when_it_would_have_been(node: HistoryNode) -> None:
    server = run(node)
    Outcome.of(node.histories.make(server)).value()
    Outcome.of(node.daemon.histories.stop()).value()
    node.clock.advance(100)
    node.restart()
    node.server()
    node.begin()
    node.write("changed since")
    assert node.numbers() == [1]
    state = node.histories.state(UUID)
    assert state is not None
    assert (state.newest, state.points) == (NOW, 1)
    assert state.bytes > 0
    node.clock.advance(EVERY - 100)
    assert node.numbers() == [2, 1]


def test_a_reload_switches_histories_on_and_off(node: HistoryNode) -> None:
    run(node)
    node.change(every=Span("0"))
    node.begin()
    node.clock.advance(2 * EVERY)
    assert node.numbers() == []
    own = {UUID: ServerHistoryConfig(every=Span("10m"))}
    node.change(servers=own)
    node.clock.advance(manager.NOTICED_WITHIN)
    assert node.numbers() == [1]
    node.write("changed")
    node.clock.advance(300)
    assert node.numbers() == [1]
    node.clock.advance(300)
    assert node.numbers() == [2, 1]
    node.change(servers={})
    node.write("changed again")
    node.clock.advance(1200)
    assert node.numbers() == [2, 1]
    assert node.histories.states() == {}


def test_a_node_without_histories_makes_none_and_imports_nothing(tmp_path: Path) -> None:
    node = HistoryNode(tmp_path, every=Span("0"))
    node.server()
    node.begin()
    node.daemon.histories.use(node.config)
    node.clock.advance(7200)
    assert node.daemon.histories.made is None
    Outcome.of(node.daemon.histories.stop()).value()
    node.close()


def test_a_history_goes_with_its_server_but_not_with_one_that_moved(node: HistoryNode) -> None:
    server = node.server()
    other = node.server(configuration(OTHER))
    node.begin()
    histories = node.histories
    assert Outcome.of(node.daemon.histories.all()).value() == sorted([UUID, OTHER])
    other.disown("it has moved to another node")
    Outcome.of(node.servers.delete(OTHER)).value()
    Outcome.of(node.servers.delete(server.uuid)).value()
    assert Outcome.of(node.daemon.histories.all()).value() == [OTHER]
    assert os.listdir(histories.directory) == [OTHER]
    assert histories.states() == {}


def test_a_history_of_a_server_that_has_left_is_removed_unless_another_node_uses_it(
    node: HistoryNode,
) -> None:
    for server in [node.server(configuration(uuid)) for uuid in (UUID, OTHER)]:
        uuid = server.uuid
        node.write("as it is", uuid)
        Outcome.of(node.histories.make(server)).value()
        os.utime(Path(node.histories.path(uuid), "catalogue"), (NOW, NOW))
        server.disown("it has moved to another node")
        Outcome.of(node.servers.delete(uuid)).value()
    days = node.daemon.histories.config.system.transfers.live.keep_source_days
    for day in range(max(days, 1) + 2):
        Outcome.of(node.daemon.histories.clear()).value()
        node.clock.advance(24 * 3600)
        made = NOW + day * 24 * 3600
        os.utime(Path(node.histories.path(OTHER), "catalogue"), (made, made))
    assert Outcome.of(node.daemon.histories.all()).value() == [OTHER]


def test_a_history_whose_source_is_silent_for_long_is_not_waited_for(node: HistoryNode) -> None:
    server, parts = node.server(), node.daemon.histories
    entry: Any = parts.database.begin(UUID, Direction.IN, "RECEIVE")
    Outcome.of(parts.expect(entry.result, UUID, 10, 5)).value()
    node.write("as it is")
    Outcome.of(node.histories.make(server)).value()
    unused: Any = None
    arriving = ArrivingHistories(parts.database, parts, parts.servers, unused, cast("Any", {}), 0)
    record: Any = SimpleNamespace(id=entry.result, server=UUID)

    def state(*, is_ordered: bool = False) -> str:
        found = Outcome.of(arriving.status(record, 0, 0, is_ordered=is_ordered)).value()
        return str(found.state)

    def wait(days: int) -> None:
        for _ in range(days):
            node.clock.advance(24 * 3600)
            Outcome.of(parts.clear()).value()

    wait(SILENT_DAYS)
    assert state() == "send"
    wait(SILENT_DAYS + 1)
    assert state() == "send"  # its age counts since then
    part = Path(node.histories.path(UUID), "arriving-11-5")
    part.write_bytes(b"half")
    wait(SILENT_DAYS + 3)
    assert not part.exists()
    assert state() == "unknown"
    assert node.histories.floors == {UUID: frozenset()}
    assert state(is_ordered=True) == "send"


def test_a_damaged_history_is_named_by_its_check(node: HistoryNode) -> None:
    server = node.server()
    for text in ("one", "two"):
        node.write(text)
        Outcome.of(node.histories.make(server)).value()
    newest = Path(node.histories.path(UUID)) / "tree" / "world.dat"
    newest.write_text("eno")
    found = Outcome.of(node.histories.verify(UUID)).value()
    assert b"world.dat" in found[2]
    state = node.histories.state(UUID)
    assert state is not None
    assert state.damaged == len(found)


def test_a_point_that_takes_longer_than_its_time_is_followed_by_as_long_a_pause(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(node)
    made, began = HistoryStore.make, list[float]()

    def slow(store: HistoryStore, *args: Any) -> Point | None:
        began.append(node.clock.seconds())
        node.clock.rightNow += 2 * EVERY  # which is also the time that a thread takes
        return made(store, *args)

    monkeypatch.setattr(HistoryStore, "make", slow)
    node.begin()
    node.clock.pump([EVERY / 10] * 90)
    assert [each - began[0] for each in began[:3]] == pytest.approx(
        [0, 4 * EVERY, 8 * EVERY], abs=EVERY / 5
    )
    assert not node.histories.is_late(UUID)


def test_each_history_is_verified_once_in_its_interval(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.server()
    node.server(configuration(OTHER))
    node.change(every=Span("1d"), check_interval=2)
    read: list[str] = []

    def verify(store: HistoryStore) -> dict[int, tuple[bytes, ...]]:
        read.append(os.path.basename(store.directory))
        return {}

    monkeypatch.setattr(HistoryStore, "verify", verify)
    node.begin()
    node.clock.pump([3600] * 47)
    assert sorted(read) == sorted([UUID, OTHER])
    node.clock.pump([3600] * 4)
    assert sorted(read) == sorted([UUID, OTHER] * 2)
    node.servers.get(UUID).place_hold(Operation.RESTORE, "it is rewound")
    node.clock.pump([3600] * 49)
    assert sorted(read) == sorted([UUID, OTHER] * 2 + [OTHER])
    node.servers.get(UUID).operations.release(Operation.RESTORE)
    node.clock.pump([3600] * 2)
    assert sorted(read) == sorted([UUID, OTHER] * 3)
    node.change(check_interval=0)
    node.clock.pump([3600] * 100)
    assert len(read) == 6


def test_an_error_that_nobody_foresaw_ends_no_clock(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    run(node)

    def fail(*args: Any) -> None:
        raise RuntimeError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(HistoryStore, "make", fail)
        node.begin()
    assert len(logged.take(RuntimeError)) == 1
    node.clock.advance(EVERY)
    assert node.numbers() == [1]


@pytest.mark.promise("history-follows-its-server")
def test_a_history_whose_disk_is_not_there_is_not_taken_for_one_that_has_followed(
    node: HistoryNode,
) -> None:
    node.server()
    node.write("as it is")
    Outcome.of(node.histories.make(node.server())).value()
    parts, readers = node.daemon.histories, None
    left = LeftHistories(parts.database, parts, cast("Any", readers), cast("Any", node.clock))
    row = LeftBackup(history_place(UUID), UUID, 5, 0, None, 1, LeftState.FOLLOWS, newest=2)
    home = Path(node.histories.directory)
    aside = home.with_name("unmounted")
    home.rename(aside)
    for each in (left._next(row, 2, 0), node.histories.has(UUID)):
        with pytest.raises(StorageError, match="mount its file system"):
            Outcome.of(each).value()
    # its mount point, which has nothing
    home.mkdir()
    with pytest.raises(StorageError, match="is missing: mount the file system"):
        Outcome.of(left._next(row, 2, 0)).value()
    home.rmdir()
    aside.rename(home)
    assert Outcome.of(left._next(row, 1, 0)).value() is None


@pytest.mark.promise("history-follows-its-server")
def test_points_of_an_earlier_stay_are_known_when_their_disk_is_there_again(
    node: HistoryNode,
) -> None:
    server, parts = node.server(), node.daemon.histories
    for text in ("first", "second"):
        node.write(text)
        Outcome.of(node.histories.make(server)).value()
    home = Path(node.histories.directory)
    aside = home.with_name("unmounted")
    home.rename(aside)
    Outcome.of(parts.expect(1, UUID, 10, 5)).value()
    unused: Any = None
    arriving = ArrivingHistories(parts.database, parts, parts.servers, unused, cast("Any", {}), 0)
    record: Any = SimpleNamespace(id=1, server=UUID)
    status = partial(arriving.status, record, 0, 0, is_ordered=False)
    with pytest.raises(StorageError, match="mount its file system"):
        Outcome.of(status()).value()
    aside.rename(home)
    node.write("third")
    Outcome.of(node.histories.make(server)).value()
    assert node.numbers() == [11, 2]
    for _ in range(2):
        found = Outcome.of(status()).value()
        assert (found.state, found.base, found.floor) == ("send", 11, 2)


@pytest.mark.promise("point-backups-follow")
def test_a_server_that_has_not_changed_gets_the_point_that_a_history_needs(
    node: HistoryNode,
) -> None:
    server, parts = node.server(), node.daemon.histories
    node.write("as it is")
    Outcome.of(node.histories.make(server)).value()
    Outcome.of(parts.expect(1, UUID, 10, 5)).value()
    needed = Outcome.of(node.histories.make(server)).value()
    assert needed is not None
    assert needed.number == 11
    assert Outcome.of(node.histories.make(server)).value() is None


def test_a_delta_is_taken_in_once_however_often_its_source_asks_meanwhile(
    node: HistoryNode,
) -> None:
    server, parts = node.server(), node.daemon.histories
    Outcome.of(parts.expect(1, UUID, 10, 5)).value()
    node.write("as it is")
    Outcome.of(node.histories.make(server)).value()
    unused: Any = None
    arriving = ArrivingHistories(parts.database, parts, parts.servers, unused, cast("Any", {}), 0)
    record: Any = SimpleNamespace(id=1, server=UUID)
    held: Any = HeldWorkers()
    node.histories._parts.workers = held
    for _ in range(3):
        asked = Outcome.of(arriving.status(record, 0, 0, is_ordered=False))
        node.clock.advance(ANSWERED_WITHIN)
        asked.error(MoveBusy)
    asked = Outcome.of(arriving.status(record, 0, 0, is_ordered=False))
    (taking,) = held.held
    taking.do()
    assert asked.value().base == 11


def test_a_history_that_is_removed_takes_the_undo_of_a_rewind_with_it(node: HistoryNode) -> None:
    server, database = node.server(), node.daemon.histories.database
    node.write("as it is")
    Outcome.of(node.histories.make(server)).value()
    node.histories.pinned[UUID] = {1}

    async def removed() -> list[RewindRecord]:
        await database.begin_rewind(UUID, 1, NOW)
        await database.set_undo(UUID, 1)
        await node.histories.remove(UUID)
        return await database.rewinds()

    (record,) = Outcome.of(removed()).value()
    assert (record.undo, node.histories.pinned) == (None, {})


def name(node: HistoryNode, server: Server, name: str) -> None:
    """Make a point with a name."""

    def give(store: HistoryStore) -> None:
        point = store.points()[0]
        store.name(PointName(name, point.number, point.root.hex(), NOW, "test"))

    Outcome.of(node.histories.make(server, then=give)).value()


def unname(node: HistoryNode, name: str, workers: Any = None) -> Outcome:
    """Delete a backup."""
    given: Any = workers or SynchronousWorkers()
    return Outcome.of(node.histories.unname(UUID, name, given))


def names(node: HistoryNode) -> list[str]:
    """Return the backups that there are."""
    return [*Outcome.of(node.daemon.histories.names(UUID)).value()]


@pytest.mark.promise("backup-is-a-point")
def test_a_backup_is_deleted_soon_or_stays(node: HistoryNode) -> None:
    server = node.server()
    for each in ("a", "b"):
        node.write(each)
        name(node, server, each)
    held: Any = HeldWorkers()
    # The thread of another user's work has begun, and does not end.
    node.histories._parts.workers = held
    used = Outcome.of(node.histories.use(UUID, HistoryStore.points))
    (work,) = node.histories._histories[UUID].works
    assert work.begins()
    refused = unname(node, "a")
    node.clock.advance(manager.WAIT_WITHIN - 1)
    assert not refused.over
    node.clock.advance(1)
    error = refused.error(ServerBusy)
    assert "delete the backup again" in str(error.detail)
    held.held.pop().do()
    used.error(FileWorkCancelled)
    # Nor is it deleted by a thread that begins late.
    late: Any = HeldWorkers()
    refused = unname(node, "a", late)
    node.clock.advance(manager.WAIT_WITHIN)
    refused.error(ServerBusy)
    late.held.pop().do()
    assert names(node) == ["a", "b"]
    # What no user waits for is interrupted.
    verifying = Outcome.of(node.histories.verify(UUID))
    making = Outcome.of(node.histories.make(server, is_repeated=True))
    assert unname(node, "a").value()
    verifying.error(FileWorkCancelled)
    making.error(FileWorkCancelled)
    assert names(node) == ["b"]
    # The next one goes on with the points that are still there.
    node.change(keep={}, every=Span("0"))
    assert unname(node, "b").value()
    while held.held:
        held.held.pop(0).do()
    node.histories._parts.workers = cast("Workers", SynchronousWorkers())
    assert (names(node), node.numbers()) == ([], [2])


@pytest.mark.parametrize("error", [StorageError("the disk is full"), FileWorkCancelled()])
def test_a_backup_whose_point_cannot_be_removed_yet_is_deleted(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    server = node.server()
    node.change(keep={"1h": 1}, every=Span("0"))
    for each in ("a", "b"):
        node.clock.advance(7200)
        node.write(each)
        name(node, server, each)

    def fail(store: HistoryStore, number: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(HistoryStore, "remove", fail)
        assert unname(node, "a").value()
    assert (names(node), node.numbers()) == (["b"], [2, 1])
    node.clock.advance(7200)
    node.write("c")
    workers = node.histories._parts.workers
    Outcome.of(node.histories.make(server, None, workers, thins=False)).value()
    assert node.numbers() == [3, 2, 1]
    # One that an earlier run of the daemon could not remove goes with the next backup.
    Outcome.of(node.histories.make(server, None, workers)).value()
    assert node.numbers() == [3, 2]


def test_a_point_goes_with_its_last_name_where_no_rule_keeps_it(node: HistoryNode) -> None:
    server = node.server()
    node.change(keep={"1h": 1}, every=Span("0"))
    for each in ("a", "b", "c"):
        node.clock.advance(7200)
        node.write(each)
        name(node, server, each)
    assert node.numbers() == [3, 2, 1]
    assert not unname(node, "d").value()
    assert unname(node, "a").value()
    assert node.numbers() == [3, 2]
    node.change(keep={"30d": 300}, every=Span("5m"))
    assert unname(node, "b").value()
    assert node.numbers() == [3, 2]
    Outcome.of(node.histories.delete(UUID, 2)).value()
    Outcome.of(node.histories.delete(UUID, 3)).error(PointNamed)


def test_no_point_goes_with_its_name_while_the_history_follows(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next node may have it, and gets the older points by it."""
    server = node.server()
    node.change(keep={"1h": 1}, every=Span("0"))
    for each in ("a", "b", "c"):
        node.clock.advance(7200)
        node.write(each)
        name(node, server, each)
    row = LeftBackup(history_place(UUID), UUID, 5, 0, None, 1, LeftState.FOLLOWS, newest=3)
    left = node.daemon.histories.database
    monkeypatch.setattr(left, "histories_left", lambda server: succeed([row]), raising=False)
    assert unname(node, "b").value()
    assert (names(node), node.numbers()) == (["a", "c"], [3, 2, 1])


def test_a_history_with_backups_stays_when_its_server_goes(node: HistoryNode) -> None:
    server = node.server()
    node.write("as it is")
    node.begin()
    name(node, server, "a")
    name(node, server, "b")
    Outcome.of(node.servers.delete(UUID)).value()
    assert Outcome.of(node.daemon.histories.all()).value() == [UUID]
    node.clock.advance(40 * 24 * 3600)
    Outcome.of(node.daemon.histories.clear()).value()
    assert node.numbers() == [1]
    assert unname(node, "a").value()
    assert node.numbers() == [1]
    assert unname(node, "b").value()
    assert Outcome.of(node.daemon.histories.all()).value() == []


def test_a_history_that_has_backups_alone_is_verified_and_counted(node: HistoryNode) -> None:
    server = node.server()
    node.change(every=Span("0"))
    node.write("as it is")
    node.begin()
    name(node, server, "a")
    assert node.histories.totals().count == 1
    Path(node.daemon.histories.path(UUID), "tree/world.dat").write_text("CHANGED!")
    for _ in range(8 * 24):
        node.clock.advance(3600)
    assert node.histories.totals().damaged == 1
    assert unname(node, "a").value()
    assert node.histories.totals().count == 0


def test_damaged_names_of_one_server_hide_no_backups_of_others(node: HistoryNode) -> None:
    points = node.daemon.point_backups
    name(node, node.server(), "a")
    other = Path(node.daemon.histories.path(OTHER))
    other.mkdir()
    (other / "names").write_text("no names")
    (found,) = Outcome.of(points.readable()).value()
    assert Outcome.of(points.readable(OTHER)).value() == []
    assert (found.server, found.name.name) == (UUID, "a")
    assert Outcome.of(points.find("", "a")).value() == found
    for asked in (points.find("", "b"), points.all(OTHER), points.find(OTHER, "a")):
        Outcome.of(asked).error(HistoryDamaged)
    # Nobody knows whether it has backups: it stays until an operator removes it.
    Outcome.of(node.histories.forget(OTHER)).value()
    assert other.exists()
    Outcome.of(node.histories.remove(OTHER)).value()
    assert not other.exists()
    Outcome.of(points.check_new(UUID, "b", IgnoreList(["a" * 70_000]))).error(BadRequest)


def test_slow_downloads_of_a_server_hold_neither_threads_nor_copies_of_more_than_two(
    node: HistoryNode,
) -> None:
    servers = [node.server(), node.server(configuration(OTHER))]
    contents = os.urandom(6 << 20)
    points = node.daemon.point_backups
    for server in servers:
        Path(server.directory, "world.dat").write_bytes(contents)
        Outcome.of(points.make(server, "b", IgnoreList(), Progress())).value()

    def download(uuid: str) -> tuple[Outflow, Outcome]:
        (found,) = Outcome.of(points.all(uuid)).value()
        outflow = Outflow(cast(Any, node.clock))
        return outflow, Outcome.of(points.send(found, Compression("none"), outflow))

    # Their users read nothing yet. Had a thread to wait for that, it would be this one.
    (first, sent), (gone, closed), (_, third) = (download(UUID) for _ in range(3))
    other, also_sent = download(OTHER)
    copies = node.histories.copies._copies
    ours = [each for each in copies if each.history == node.histories.path(UUID)]
    assert (len(ours), len(copies)) == (2, 3)
    assert all(each.size > len(contents) for each in copies)
    gone.close()
    closed.error(OutflowClosed)
    for outflow, outcome in ((first, sent), (other, also_sent)):
        pieces: list[bytes] = []
        outflow.start(pieces.append, lambda: None)
        node.clock.advance(0)
        outcome.value()
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
            file = archive.extractfile("world.dat")
            assert file is not None
            assert file.read() == contents
    assert (len(copies), third.over) == (1, False)


@pytest.mark.promise("backup-is-a-point")
def test_a_backup_of_a_file_that_cannot_be_read_fails(node: HistoryNode) -> None:
    server, points = node.server(), node.daemon.point_backups
    (node.data / UUID / "logs").mkdir()
    node.write("as it is")

    def make(backup: str, *ignored: str) -> Outcome:
        return Outcome.of(points.make(server, backup, IgnoreList(ignored), Progress()))

    (node.data / UUID / "logs/latest.log").write_text("a log")
    with bad_block(node.data / UUID / "logs/latest.log", 0):
        error = make("a").error(StorageError)
        assert '"logs/latest.log" cannot be read' in str(error)
        assert names(node) == []
        state = node.histories.state(UUID)
        assert state is not None
        assert state.trouble == ""
        assert make("b", "logs").value().unsettled == []
        assert make("c", "*.txt").error(StorageError)
    assert make("d").value().name.files == 2
    assert names(node) == ["b", "d"]


def test_a_disk_of_histories_that_hangs_keeps_nobody_waiting(node: HistoryNode) -> None:
    histories, points = node.daemon.histories, node.daemon.point_backups
    name(node, node.server(), "a")
    disk, held = histories.disk, HeldWorkers()
    histories.disk = cast(Any, held)
    asked = [
        Outcome.of(each)
        for each in (points.find(UUID, "a"), points.find("", "a"), histories.has(UUID))
    ]
    node.clock.advance(ANSWERS_WITHIN - 1)
    assert not any(each.over for each in asked)
    node.clock.advance(1)
    for each in asked:
        assert "does not answer" in str(each.error(StorageError))
    histories.disk = disk
    for work in held.held:
        work.do()
    assert Outcome.of(points.find(UUID, "a")).value() is not None
