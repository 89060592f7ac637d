"""A server becomes what it was at a point of its history, and may be brought back."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.history.worlds import bad_block
from tests.restores.node import BACKUP
from tests.restores.rewinding import LATER, THEN, RewindHarness, rewinding
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.backups.points import PointBackup
from wingsd.errors import (
    Conflict,
    DiskLimitExceeded,
    FileWorkCancelled,
    HistoryDamaged,
    NoSuchPoint,
    RewindFailed,
    RewindNotActive,
    ServerBusy,
    StateDatabaseError,
    StorageError,
)
from wingsd.events import Event
from wingsd.history.names import PointName
from wingsd.history.rewriting import Difference, Rewriting
from wingsd.history.store import HistoryStore
from wingsd.moves.unchanged import UnchangedFiles
from wingsd.restores import held
from wingsd.restores.rewinding import OVER, Rewind, RewindState
from wingsd.restores.storage import RestoreStorage
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.statedb import Store
from wingsd.util.retry import Backoff

__all__ = ["rewinding"]


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_server_that_is_off_becomes_what_it_was_and_comes_back(
    rewinding: RewindHarness,
) -> None:
    done = await rewinding.rewind()
    assert (done.state, done.error, done.differing) == (RewindState.DONE, None, [])
    assert rewinding.content() == THEN
    assert rewinding.server.state is PowerState.OFFLINE
    rewinding.server.operations.check(Operation.RESTORE)
    assert rewinding.said("The server is rewound to")
    undone = await rewinding.rewind(None)
    assert undone.error is None
    assert rewinding.content() == LATER
    redone = await rewinding.rewind(None)
    assert redone.error is None
    assert rewinding.content() == THEN
    assert os.listdir(rewinding.node.staging.path) == [".lock"]


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_server_that_runs_is_stopped_for_the_exchange_and_started_again(
    rewinding: RewindHarness,
) -> None:
    await rewinding.run()

    def save(event: Event) -> None:
        if event.args == (PowerState.STOPPING.value,):
            (rewinding.home / "saved").write_bytes(b"at the end")

    rewinding.node.bus.subscribe(UUID, save)
    done = await rewinding.rewind()
    assert done.error is None
    assert rewinding.content() == THEN
    await until(lambda: rewinding.server.state is PowerState.STARTING)
    assert done.seconds_off is not None
    rewinding.node.environment.running[UUID].say(b"listening on\n")
    await until(lambda: rewinding.server.state is PowerState.RUNNING)
    undone = await rewinding.rewind(None)
    assert undone.error is None
    assert rewinding.content() == {**LATER, "saved": b"at the end"}


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_look_changes_nothing(rewinding: RewindHarness) -> None:
    await rewinding.run()
    seen = await rewinding.rewind(is_dry_run=True)
    assert seen.error is None
    assert seen.found is not None
    names = [b"", b"new", b"server.properties", b"world/level.dat"]
    assert (seen.found.paths, seen.found.size) == (names, sum(map(len, THEN.values())))
    assert seen.seconds_off is not None
    assert rewinding.server.state is PowerState.RUNNING
    assert rewinding.content() == LATER
    with pytest.raises(NoSuchPoint):
        await rewinding.rewind(None)


async def test_a_look_that_fails_does_not_say_that_nothing_differs(
    rewinding: RewindHarness, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("wingsd.restores.rewinding.difference", fail)
    seen = await rewinding.rewind(is_dry_run=True)
    assert (seen.state, seen.found) == (RewindState.FAILED, None)
    assert "an unexpected error" in str(seen.error)
    assert logged.take(RuntimeError)


@pytest.mark.parametrize("by", ["an operator", "a rewind", "a deletion", "the end of the node"])
async def test_a_look_is_cancelled(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    begun = threading.Event()

    def endless(store: HistoryStore, **_: object) -> None:
        begun.set()
        while True:
            time.sleep(0.01)
            store.check()

    rewinds = rewinding.rewinds
    with monkeypatch.context() as patch:
        patch.setattr("wingsd.restores.rewinding.difference", endless)
        look = await rewinds.begin(rewinding.server, 1, is_dry_run=True)
        await until(begun.is_set)
        with pytest.raises(ServerBusy, match="look at what would change"):
            await rewinds.begin(rewinding.server, 1, is_dry_run=True)
    if by == "an operator":
        await rewinds.cancel(UUID)
    elif by == "a rewind":
        assert (await rewinding.rewind()).error is None
        assert rewinding.content() == THEN
        assert rewinds.histories.pinned[UUID] == {2}
    elif by == "a deletion":
        await rewinds.release(UUID)
    else:
        await rewinds.stop()
    assert (look.state, look.found, look.over.called) == (RewindState.FAILED, None, True)


async def test_no_rewind_begins_while_its_server_is_deleted(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, begun = rewinding.rewinds.restores.database, list[Rewind]()
    forget = database.forget_rewind

    async def meanwhile(uuid: str) -> None:
        if not begun:
            begun.append(await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False))
        await forget(uuid)

    monkeypatch.setattr(database, "forget_rewind", meanwhile)
    await rewinding.rewinds.release(UUID)
    assert begun[0].over.called
    assert isinstance(begun[0].error, ServerBusy)
    assert rewinding.node.store.rewinds() == []


@pytest.mark.promise("rewind-changes-what-differs")
async def test_the_point_of_an_undo_is_not_removed_by_its_number(
    rewinding: RewindHarness,
) -> None:
    done = await rewinding.rewind()
    histories = rewinding.node.histories.get()
    rewinding.write({"new": b"newer"})
    await histories.make(rewinding.server)
    with pytest.raises(Conflict, match="to undo the last rewind"):
        histories.begin_delete(UUID, done.undo)
    assert (await rewinding.rewind(None)).error is None
    assert rewinding.content() == LATER


@pytest.mark.promise("rewind-changes-what-differs")
async def test_nothing_is_stopped_where_nothing_differs(rewinding: RewindHarness) -> None:
    await rewinding.rewind()
    await rewinding.run()
    runs = rewinding.server.run
    done = await rewinding.rewind()
    assert done.error is None
    assert rewinding.server.run is runs


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_server_that_does_not_stop_is_not_killed_and_keeps_its_files(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "STOP_WITHIN", 0.1)
    await rewinding.run(stubborn=True)
    failed = await rewinding.rewind()
    assert isinstance(failed.error, RewindFailed)
    assert rewinding.content() == LATER
    assert rewinding.server.state is not PowerState.OFFLINE
    assert rewinding.said("The server was not rewound, and its files are as before")


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_point_that_is_larger_than_the_disk_limit_is_refused(
    rewinding: RewindHarness,
) -> None:
    (rewinding.home / "large").write_bytes(bytes(2 << 20))
    made = await rewinding.node.histories.get().make(rewinding.server)
    assert made is not None
    (rewinding.home / "large").unlink()
    rewinding.server.files.limit = 1 << 20
    failed = await rewinding.rewind(made.number)
    assert isinstance(failed.error, DiskLimitExceeded)
    assert rewinding.content() == LATER


@pytest.mark.promise("rewind-changes-what-differs")
async def test_other_work_is_refused_meanwhile(rewinding: RewindHarness) -> None:
    begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
    with pytest.raises(ServerBusy):
        await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
    with pytest.raises(ServerBusy, match="currently being restored"):
        await rewinding.server.power(PowerAction.START)
    await rewinding.over(begun)
    with pytest.raises(RewindNotActive):
        await rewinding.rewinds.cancel(UUID)


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_rewind_is_cancelled_before_the_exchange(rewinding: RewindHarness) -> None:
    await rewinding.run()
    begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
    cancelled = await rewinding.rewinds.cancel(UUID)
    assert cancelled is begun
    await rewinding.over(begun)
    assert isinstance(begun.error, RewindFailed)
    assert rewinding.content() == LATER
    assert rewinding.server.state is PowerState.RUNNING


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_history_that_is_verified_delays_no_rewind(rewinding: RewindHarness) -> None:
    histories = rewinding.node.histories.get()

    def verify(store: HistoryStore) -> None:
        while True:
            time.sleep(0.01)
            store.check()

    def verifying() -> Deferred[Any]:
        made = Deferred.fromCoroutine(histories.use(UUID, verify))
        made.addErrback(lambda failure: failure.trap(FileWorkCancelled))
        return made

    begun, later = verifying(), list[Deferred[Any]]()

    def begin(event: Event) -> None:
        if event.args == (PowerState.STOPPING.value,):
            later.append(verifying())

    rewinding.node.bus.subscribe(UUID, begin)
    await rewinding.run()
    done = await rewinding.rewind()
    assert done.error is None
    assert rewinding.content() == THEN
    await begun
    await later[0]


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_rewind_waits_not_long_for_a_history_that_does_not_answer(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.restores.rewinding.TURN_TIMEOUT", 0.05)
    begun, goes_on = threading.Event(), threading.Event()

    def hang(_: HistoryStore) -> None:
        begun.set()
        goes_on.wait(60)

    used = Deferred.fromCoroutine(rewinding.node.histories.get().use(UUID, hang))
    await until(begun.is_set)
    with pytest.raises(ServerBusy, match="history is in use"):
        await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
    rewinding.server.operations.check(Operation.RESTORE)
    goes_on.set()
    await used


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Files that are written each time while they are read, named by the end of their paths."""
    names: list[bytes] = []
    before = UnchangedFiles.before_reading

    def meanwhile(self: UnchangedFiles, fd: int) -> os.stat_result:
        found = before(self, fd)
        path = os.readlink(b"/proc/self/fd/%d" % fd)
        if path.endswith(tuple(names)):
            os.utime(path)
        return found

    monkeypatch.setattr(UnchangedFiles, "before_reading", meanwhile)
    yield names
    names.clear()


@pytest.mark.promise("rewind-changes-what-differs")
async def test_nothing_is_rewound_while_something_writes_though_nothing_else_changes(
    rewinding: RewindHarness, written: list[bytes]
) -> None:
    written.append(b"level.dat")
    rewinding.write({"world/level.dat": b"written by something else"})
    failed = await rewinding.rewind()
    assert isinstance(failed.error, RewindFailed)
    assert 'something writes to "world/level.dat"' in str(failed.error)
    assert rewinding.content() == {**LATER, "world/level.dat": b"written by something else"}


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_file_that_is_written_all_the_time_is_rewound_when_the_server_is_stopped(
    rewinding: RewindHarness, written: list[bytes]
) -> None:
    await rewinding.rewind()
    rewinding.rewinds.pin(UUID, 1)
    await rewinding.node.histories.get().make(rewinding.server)
    await rewinding.run()
    written.append(b"level.dat")
    rewinding.write({"world/level.dat": b"broken again"})

    def end(event: Event) -> None:
        if event.args == (PowerState.STOPPING.value,):
            written.clear()

    rewinding.node.bus.subscribe(UUID, end)
    seen = await rewinding.rewind(is_dry_run=True)
    assert seen.found is not None
    assert (seen.found.entries, seen.unsettled) == (0, [b"world/level.dat"])
    done = await rewinding.rewind()
    assert done.error is None
    assert rewinding.content() == THEN
    undone = await rewinding.rewind(None)
    assert undone.error is None
    assert rewinding.content() == {**THEN, "world/level.dat": b"broken again"}


@pytest.mark.promise("rewind-changes-what-differs")
async def test_a_file_that_cannot_be_read_is_replaced_and_named(rewinding: RewindHarness) -> None:
    with bad_block(rewinding.home / "world" / "level.dat", 0):
        seen = await rewinding.rewind(is_dry_run=True)
        assert (seen.lost, seen.unsettled) == ([b"world/level.dat"], [])
        assert seen.found is not None
        assert b"world/level.dat" in seen.found.paths
        done = await rewinding.rewind()
    assert (done.error, done.differing) == (None, [])
    assert rewinding.said('"world/level.dat" cannot be read: its present contents are not kept')
    assert rewinding.content() == THEN


@pytest.mark.promise("rewind-changes-what-differs")
async def test_files_that_are_damaged_in_the_history_are_left_on_demand(
    rewinding: RewindHarness,
) -> None:
    await rewinding.run()
    copy = Path(rewinding.node.histories.path(UUID), "tree", "world", "level.dat")
    copy.write_bytes(b"decay" * 1000)
    failed = await rewinding.rewind()
    assert isinstance(failed.error, HistoryDamaged)
    assert '"world/level.dat" cannot be rebuilt; wingsctl rewind --skip' in str(failed.error)
    assert rewinding.content() == LATER
    assert rewinding.server.state is PowerState.RUNNING
    seen = await rewinding.rewind(is_dry_run=True)
    assert seen.found is not None
    assert seen.found.damaged == [b"world/level.dat"]
    begun = await rewinding.rewinds.begin(
        rewinding.server, 1, is_dry_run=False, skips_damaged=True
    )
    done = await rewinding.over(begun)
    assert (done.error, done.differing) == (None, [])
    assert rewinding.content() == {**THEN, "world/level.dat": LATER["world/level.dat"]}
    assert rewinding.said('"world/level.dat" is damaged in the history, and is left as before')


@pytest.mark.promise("rewind-survives-death")
@pytest.mark.parametrize("ends", ["recorded", "deleted", "killed"])
async def test_a_server_is_held_until_the_end_of_its_rewind_is_recorded(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr("wingsd.restores.rewinding.BACKOFF", Backoff(0.01, 0.01))
    await rewinding.run()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "end_rewind", full)
        begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
        await until(lambda: rewinding.said("The end of the rewind cannot be recorded"))
        assert rewinding.content() == THEN
        with pytest.raises(ServerBusy):
            await rewinding.server.power(PowerAction.START)
        assert begun.state not in OVER
        with pytest.raises(RewindNotActive, match="its end cannot be recorded yet"):
            await rewinding.rewinds.cancel(UUID)
        if ends == "deleted":
            await rewinding.rewinds.release(UUID)
            return
        if ends == "killed":
            await rewinding.rewinds.stop()
            await rewinding.die()
    if ends == "killed":
        await rewinding.enter()
    await until(lambda: rewinding.server.state is PowerState.STARTING)
    assert rewinding.said("The server is rewound to")
    assert rewinding.content() == THEN


@pytest.mark.promise("rewind-survives-death")
async def test_an_exchange_that_fails_is_tried_again_until_it_is_complete(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rewinding.run()
    faults = [StorageError("the disk failed")]
    apply = Rewriting.apply

    def failing(self: Rewriting) -> None:
        if faults:
            raise faults.pop()
        apply(self)

    monkeypatch.setattr(Rewriting, "apply", failing)
    done = await rewinding.rewind()
    assert done.error is None
    assert rewinding.said("The rewind has stopped halfway, and is tried again")
    assert rewinding.content() == THEN
    await until(lambda: rewinding.server.state is PowerState.STARTING)


async def never(_: object) -> None:
    await Deferred()


@pytest.mark.promise("rewind-survives-death")
async def test_the_next_daemon_completes_an_exchange_that_was_begun(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rewinding.run()
    with monkeypatch.context() as patch:
        patch.setattr(Rewind, "_exchange", never)
        begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
        await until(lambda: begun._is_committed)
        assert rewinding.content() == LATER
        await rewinding.die()
    await rewinding.enter()
    assert rewinding.content() == THEN
    await until(lambda: rewinding.server.state is PowerState.STARTING)
    assert rewinding.said("This node was restarted meanwhile.")
    undone = await rewinding.rewind(None)
    assert undone.error is None
    assert rewinding.content() == LATER


@pytest.mark.promise("rewind-survives-death")
async def test_the_next_daemon_drops_what_was_prepared_and_starts_the_server(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rewinding.run()
    with monkeypatch.context() as patch:
        patch.setattr(Rewind, "_commit", lambda self, store: Difference(2))
        patch.setattr(Rewind, "_finish", never)
        begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
        await until(lambda: begun._is_committed)
        await rewinding.die()
    await rewinding.enter()
    assert rewinding.content() == LATER
    assert rewinding.said("The server was not rewound, and its files are as before")
    await until(lambda: os.listdir(rewinding.node.staging.path) == [".lock"])
    await until(lambda: rewinding.server.state is PowerState.STARTING)
    assert (await rewinding.rewind()).error is None
    assert rewinding.content() == THEN


def killed(*_: object) -> None:
    raise CancelledError


@pytest.mark.promise("rewind-survives-death")
@pytest.mark.parametrize("is_begun", [False, True])
async def test_what_is_undone_after_a_kill_is_the_last_rewind_that_changed_something(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch, is_begun: bool
) -> None:
    """It is killed before its exchange, or when that has begun and nothing says so yet."""
    await rewinding.rewind()
    rewinding.write({"new": b"came still later"})
    present = rewinding.content()
    database = rewinding.rewinds.restores.database
    with monkeypatch.context() as patch:
        if is_begun:
            patch.setattr(database, "set_undo", killed)
        else:
            patch.setattr(Rewriting, "commit", killed)
        begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
        await until(lambda: not rewinding.rewinds._tasks._running)
        assert begun._is_committed is is_begun
        await rewinding.die()
    await rewinding.enter()
    await until(lambda: not rewinding.rewinds._tasks._running)
    assert (await rewinding.rewind(None)).error is None
    assert rewinding.content() == (present if is_begun else LATER)


@pytest.mark.promise("rewind-survives-death")
async def test_a_disk_that_fails_at_the_start_leaves_the_server_held_until_it_is_complete(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rewinding.run()
    apply, fails = Rewriting.apply, True

    def failing(self: Rewriting) -> None:
        if fails:
            raise StorageError("the disk failed")
        apply(self)

    monkeypatch.setattr(Rewriting, "apply", failing)
    begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
    await until(lambda: begun._is_committed)
    await rewinding.die()
    await rewinding.enter()
    await until(lambda: rewinding.said("The rewind has stopped halfway, and is tried again"))
    with pytest.raises(ServerBusy):
        await rewinding.server.power(PowerAction.START)
    fails = False
    await until(lambda: rewinding.server.state is PowerState.STARTING)
    assert rewinding.content() == THEN


@pytest.mark.promise("rewind-survives-death")
@pytest.mark.parametrize("is_begun", [True, False])
async def test_an_exchange_that_cannot_be_seen_at_the_start_is_completed_when_it_can(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch, is_begun: bool
) -> None:
    await rewinding.run()
    with monkeypatch.context() as patch:
        patch.setattr(Rewind, "_exchange", never)
        begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
        await until(lambda: begun._is_committed)
        await rewinding.die()
    place = Path(rewinding.node.staging.path, f"{UUID}.rewind")
    there = place.rename(place.with_suffix(".there"))
    place.symlink_to(place)
    await rewinding.enter()
    await until(lambda: rewinding.said("The rewind has stopped halfway, and is tried again"))
    assert rewinding.content() == LATER
    with pytest.raises(ServerBusy):
        await rewinding.server.power(PowerAction.START)
    if not is_begun:
        (there / "plan").unlink()
    place.unlink()
    there.rename(place)
    await until(lambda: rewinding.server.state is PowerState.STARTING)
    assert rewinding.content() == (THEN if is_begun else LATER)


@pytest.mark.promise("rewind-survives-death")
async def test_a_plan_that_may_not_be_durable_leaves_the_server_as_before(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rewinding.run()
    flush, place = os.fsync, rewinding.node.restores.storage.rewind_place(UUID)

    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(fd)

    parts = rewinding.node.restores
    parts.storage = attrs.evolve(parts.storage, durable=True)
    monkeypatch.setattr(os, "fsync", failing)
    failed = await rewinding.rewind()
    assert "the disk failed" in str(failed.error)
    assert rewinding.said("The server was not rewound, and its files are as before")
    assert rewinding.content() == LATER
    await until(lambda: rewinding.server.state is PowerState.STARTING)


async def test_a_rewind_that_fails_leaves_the_one_before_to_be_undone(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        failed = await rewinding.rewind()
        assert "the disk is full" in str(failed.error)
        assert failed.undo is None

    def full(*args: Any, **options: Any) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Rewriting, "commit", full)
        await fail()
        with pytest.raises(NoSuchPoint):
            await rewinding.rewind(None)
    former = (await rewinding.rewind()).undo
    assert former is not None
    rewinding.write({"new": b"came still later"})
    with monkeypatch.context() as patch:
        patch.setattr(Rewriting, "commit", full)
        await fail()
    assert rewinding.node.histories.get().pinned == {UUID: {former}}
    undone = await rewinding.rewind(None)
    assert (undone.error, undone.point) == (None, former)
    assert rewinding.content() == LATER


async def test_a_history_that_begins_again_undoes_nothing(rewinding: RewindHarness) -> None:
    """Its directory was lost, or set to another one: its points have the same numbers."""
    assert (await rewinding.rewind()).undo == 2
    await rewinding.die()
    shutil.rmtree(rewinding.directory / "history" / UUID)
    await rewinding.enter()
    for number in range(1, 4):
        rewinding.write({"new": b"%d" % number})
        made = await rewinding.node.histories.get().make(rewinding.server)
        assert made is not None
        assert made.number == number
    with pytest.raises(NoSuchPoint, match="nothing can be undone"):
        await rewinding.rewind(None)
    assert rewinding.content()["new"] == b"3"
    assert rewinding.node.histories.get().pinned == {}


@pytest.mark.promise("rewind-survives-death")
async def test_a_rewind_that_cannot_be_completed_is_given_up_and_undone(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rewinding.run()
    with monkeypatch.context() as patch:
        patch.setattr(Rewriting, "_put_into_place", broken)
        begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
        await until(lambda: rewinding.said("The rewind has stopped halfway, and is tried again"))
        await rewinding.rewinds.cancel(UUID)
        await rewinding.over(begun)
    assert begun.state is RewindState.FAILED
    assert rewinding.server.state is PowerState.OFFLINE
    assert rewinding.content() == {"world/level.dat": b"broken"}
    assert rewinding.node.store.due_starts() == []
    assert (await rewinding.rewind(None)).error is None
    assert rewinding.content() == LATER


@pytest.mark.promise("rewind-survives-death")
async def test_a_rewind_that_could_not_begin_is_not_completed_with_an_earlier_plan(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Rewriting, "_put_into_place", broken)
        begun = await rewinding.rewinds.begin(rewinding.server, 1, is_dry_run=False)
        await until(lambda: rewinding.said("The rewind has stopped halfway, and is tried again"))
        patch.setattr(RestoreStorage, "withdraw", unwritable)
        await rewinding.rewinds.cancel(UUID)
        await rewinding.over(begun)
        with pytest.raises(StorageError):
            await rewinding.rewinds.begin(rewinding.server, None, is_dry_run=False)
    played = {"new": b"of days of play"}
    rewinding.write(played)
    await rewinding.die()
    await rewinding.enter()
    assert rewinding.content() == {"world/level.dat": b"broken"} | played
    rewinding.server.operations.check(Operation.RESTORE)
    assert (await rewinding.rewind(None)).error is None
    assert rewinding.content() == LATER


def full(*_: object, **__: object) -> None:
    raise StateDatabaseError("the disk is full")


def unwritable(*_: object) -> None:
    raise StorageError("the file system is read-only")


def broken(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


async def backed_up(rewinding: RewindHarness) -> PointBackup:
    """Return a backup that is the point 1, without the properties."""

    def name(store: HistoryStore) -> PointName:
        point = store.points()[-1]
        ignored = ("server.properties",)
        given = PointName(BACKUP, 1, point.root.hex(), 1.5, "backup", ignored=ignored)
        store.name(given)
        return given

    return PointBackup(UUID, await rewinding.node.histories.get().use(UUID, name))


@pytest.mark.promise("rewind-survives-death")
@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
async def test_the_next_daemon_completes_or_drops_a_restore_and_reports_it(
    rewinding: RewindHarness, monkeypatch: pytest.MonkeyPatch, is_begun: bool, truncate: bool
) -> None:
    await rewinding.run()
    found = await backed_up(rewinding)
    present = rewinding.content()
    with monkeypatch.context() as patch:
        if is_begun:
            patch.setattr(Rewind, "_exchange", never)
        else:
            patch.setattr(Rewind, "_stop", never)
        begun = await rewinding.rewinds.restore(rewinding.server, found, truncate=truncate)
        if is_begun:
            await until(lambda: begun._is_committed)
        else:
            await until(lambda: begun.found is not None)
        assert rewinding.content() == present
        await rewinding.die()
    await rewinding.enter()
    backup = {"world/level.dat": THEN["world/level.dat"]}
    restored = backup if truncate else LATER | backup
    assert rewinding.content() == (restored if is_begun else present)
    await until(lambda: rewinding.reports != [])
    assert rewinding.reports == [is_begun]
    if is_begun:
        await until(lambda: rewinding.said("Completed server restoration from local backup."))
        await until(lambda: rewinding.server.state is PowerState.STARTING)
        assert (await rewinding.rewind(None)).error is None
        assert rewinding.content() == present
    else:
        assert rewinding.said("this node was restarted meanwhile; restore the backup again")


async def test_a_backup_that_does_not_fit_into_the_disk_limit_is_not_restored(
    rewinding: RewindHarness,
) -> None:
    found = await backed_up(rewinding)
    rewinding.server.files.limit = 6000
    (rewinding.home / "new").write_bytes(bytes(5000))
    for truncate in (False, True):
        begun = await rewinding.rewinds.restore(rewinding.server, found, truncate=truncate)
        await rewinding.over(begun)
        assert (begun.error is None) is truncate
    await until(lambda: rewinding.reports == [False, True])
    assert rewinding.content() == {"world/level.dat": THEN["world/level.dat"]}
