"""Backups are deleted by their own server, with what is left of them."""

from __future__ import annotations

import os
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, DeferredLock

from tests.backups.conftest import Make
from tests.backups.harness import BACKUP, OTHER, SERVER, BackupNode
from tests.support.logged_errors import Logged
from tests.support.present import present
from tests.support.reactor import until
from wingsd.backups.at_rest import DroppedBackups
from wingsd.backups.store import StoredBackup
from wingsd.config import PELICAN
from wingsd.errors import BackupMissing, PanelUnreachable, StorageError
from wingsd.statedb import Direction, Outcome

STRANGER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"


@pytest.mark.promise("backup-is-for-its-server")
async def test_a_backup_is_deleted_by_its_own_server_alone(node: BackupNode) -> None:
    await node.make()
    with pytest.raises(BackupMissing):
        await node.made.delete(STRANGER, BACKUP)
    assert len(node.left()) == 2
    await node.made.delete(SERVER, BACKUP)
    assert node.left() == []
    with pytest.raises(BackupMissing):
        await node.made.delete(SERVER, BACKUP)


async def test_a_backup_of_wings_is_deleted_like_ones_own(node: BackupNode) -> None:
    node.backups.mkdir()
    (node.backups / f"{BACKUP}.tar.gz").write_bytes(b"by wings")
    await node.made.delete(SERVER, BACKUP)
    assert node.left() == []


@pytest.mark.promise("deletion-cancels-a-backup")
async def test_a_backup_that_is_being_made_is_cancelled(node: BackupNode) -> None:
    await node.begin_slowly()
    with pytest.raises(BackupMissing):
        await node.made.delete(STRANGER, BACKUP)
    await node.made.delete(SERVER, BACKUP)
    assert (node.left(), dict(node.made.making)) == ([], {})


async def test_the_server_of_a_backup_is_known_without_being_named(node: BackupNode) -> None:
    await node.make(OTHER)
    await node.begin_slowly()
    for backup in (BACKUP, OTHER):
        assert await node.made.owner("", backup) == SERVER
    await node.made.cancel(BACKUP)
    (node.backups / f"{STRANGER}.tar.gz").write_bytes(b"by wings")
    assert await node.made.owner("", STRANGER) == ""
    assert await node.made.owner(SERVER, STRANGER) == SERVER


@pytest.mark.promise("deletion-cancels-a-backup")
async def test_a_download_of_a_deleted_backup_goes_on(node: BackupNode) -> None:
    await node.make()
    opened = present(node.store.open(SERVER, BACKUP))
    await node.made.delete(SERVER, BACKUP)
    with opened[1] as file:
        assert len(file.read(1 << 20)) == opened[0].size


async def test_all_of_one_server_are_deleted(make_node: Make) -> None:
    node = make_node(write_limit=4096)
    await node.make()
    node.backups.joinpath(SERVER).mkdir()
    for place in (f"{SERVER}/{STRANGER}.tar.gz", f"{STRANGER}.tar.gz"):
        (node.backups / place).write_bytes(b"by wings")
    (node.home / "a").write_bytes(os.urandom(100_000))
    await node.begin(OTHER)
    assert await node.made.delete_all(SERVER) == 2
    # Nothing tells that this one is the server's.
    assert node.left() == [f"{STRANGER}.tar.gz"]


async def test_a_deletion_is_reported(node: BackupNode) -> None:
    await node.make()
    assert await node.made.owner(SERVER, BACKUP) == SERVER
    await node.made.delete_and_report(SERVER, BACKUP)
    await node.made.delete_and_report(SERVER, BACKUP)
    assert [path for path, _ in node.panel.calls[1:]] == [f"/backups/{BACKUP}/deletion"] * 2
    assert node.panel.bodies[1:] == [{"successful": True}, {"successful": False}]
    assert [(each.name, each.args) for each in node.published] == [("backup deleted", (BACKUP,))]
    with pytest.raises(BackupMissing):
        assert await node.made.owner(SERVER, BACKUP) == SERVER


# Dropped by the Panel

DAY = 24 * 3600.0


@attrs.define(eq=False)
class Left:
    """A node that a server has left, with two backups that its Panel has dropped.

    `lacks` is how the Panel answers for each; `here` are the servers of the node.
    """

    node: BackupNode
    dropped: DroppedBackups
    lacks: dict[str, bool | None]
    here: set[str] = attrs.field(factory=set)
    lock: DeferredLock = attrs.field(factory=DeferredLock)
    loaded: bool = True
    now: float = 1000.0
    asked: list[str] = attrs.field(factory=list)

    async def lacks_backup(self, backup: str) -> bool:
        self.asked.append(backup)
        if self.lacks[backup] is None:
            raise PanelUnreachable("the Panel did not answer", "refused")
        return self.lacks[backup] is True

    def knows(self, server: str) -> bool:
        return server in self.here

    async def days(self, count: int) -> list[str]:
        """Run the daily check `days` times; return the archives that are left."""
        for _ in range(count):
            self.now += DAY + 1
            await self.dropped.clear()
        return [each.uuid for each in self.node.store.all()]


async def left_by(make_node: Make) -> Left:
    node = make_node(PELICAN)
    for backup in (BACKUP, OTHER):
        await node.make(backup)
    store = node.database_store
    entry = store.begin(1, SERVER, Direction.OUT, "ASK")
    places = [each.place for each in node.store.all()]
    store.set_terms(entry, dropped=places)
    store.end(2, entry, Outcome.SUCCESS)
    fake: Any = None
    made = Left(node, fake, {BACKUP: True, OTHER: True})
    fake = made
    node.database.now = lambda: made.now
    made.dropped = DroppedBackups(node.made, fake, fake, made.lock, days=2, deletes=True)
    await made.dropped.clear()
    return made


@pytest.mark.promise("dropped-backups-are-kept-for-days")
async def test_what_the_panel_dropped_is_deleted_after_the_days_and_two_answers(
    make_node: Make, logged: Logged
) -> None:
    left = await left_by(make_node)
    assert await left.days(1) == [BACKUP, OTHER]
    assert await left.days(1) == []
    assert left.node.left() == []
    assert left.node.database_store.dropped() == []
    assert sum("deleted" in line and BACKUP in line for line in logged.lines) == 1


@pytest.mark.promise("dropped-backups-are-kept-for-days")
async def test_what_the_panel_has_or_may_have_stays(make_node: Make) -> None:
    left = await left_by(make_node)
    left.lacks |= {BACKUP: False, OTHER: None}
    assert await left.days(9) == [BACKUP, OTHER]
    # It must be without it twice, from then on, on different days.
    left.lacks |= {BACKUP: True, OTHER: True}
    assert await left.days(1) == [BACKUP]
    left.now += 60
    await left.dropped.clear()
    assert left.node.store.find("", BACKUP) is not None
    assert await left.days(1) == []


@pytest.mark.promise("dropped-backups-are-kept-for-days")
async def test_backups_of_a_server_that_came_back_stay(make_node: Make) -> None:
    left = await left_by(make_node)
    left.here.add(SERVER)
    assert await left.days(1) == [BACKUP, OTHER]
    left.here.clear()
    assert await left.days(9) == [BACKUP, OTHER]


@pytest.mark.promise("dropped-backups-are-kept-for-days")
async def test_one_that_cannot_be_deleted_does_not_keep_the_others(
    make_node: Make, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await left_by(make_node)
    remove = left.node.store.remove

    def failing(found: StoredBackup) -> None:
        if found.uuid == min(BACKUP, OTHER):
            raise StorageError("the backup could not be deleted: operation not permitted")
        remove(found)

    monkeypatch.setattr(left.node.store, "remove", failing)
    assert await left.days(2) == [min(BACKUP, OTHER)]
    (line,) = [line for line in logged.lines if "not permitted" in line]
    assert "is not deleted today" in line
    monkeypatch.undo()
    assert await left.days(1) == []


@pytest.mark.promise("dropped-backups-are-kept-for-days")
@pytest.mark.parametrize("why", ["backups are kept since", "servers are not loaded"])
async def test_nothing_is_deleted_for_now(make_node: Make, why: str) -> None:
    left = await left_by(make_node)
    left.dropped = attrs.evolve(left.dropped, deletes=why != "backups are kept since")
    left.loaded = why != "servers are not loaded"
    asked = len(left.asked)
    assert await left.days(9) == [BACKUP, OTHER]
    assert len(left.asked) == asked


async def test_a_backup_in_use_is_deleted_when_that_is_over_unless_its_server_comes_back(
    make_node: Make,
) -> None:
    left = await left_by(make_node)
    await left.lock.acquire()
    days = Deferred.fromCoroutine(left.days(2))
    await until(lambda: bool(left.lock.waiting))
    left.node.database_store.begin(3, SERVER, Direction.IN, "RECEIVE")
    left.lock.release()
    assert await days == [BACKUP, OTHER]


async def test_one_that_was_deleted_by_hand_is_forgotten(make_node: Make) -> None:
    left = await left_by(make_node)
    await left.node.made.delete(SERVER, BACKUP)
    assert await left.days(1) == [OTHER]
    assert len(left.node.database_store.dropped()) == 1
