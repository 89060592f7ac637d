"""Backups that their servers have left here: dropped by the Panel, they are deleted in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, DeferredLock

from tests.backups.conftest import Make
from tests.backups.harness import BACKUP, OTHER, SERVER, BackupNode
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor, until
from wingsd.backups.store import StoredBackup
from wingsd.config import PELICAN, LiveMovesConfig, TransfersConfig
from wingsd.errors import PanelUnreachable, StorageError
from wingsd.panel.client import BackupRecordState
from wingsd.statedb import Direction, LeavingBackup, LeftState, Outcome
from wingsd.transfers.outgoing.left_backups import LeftBackups
from wingsd.transfers.storage.shared_volume import Volume

pytestmark = pytest.mark.promise("dropped-backups-are-kept-for-days")


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Make]:
    """Make one node, with the arguments of `BackupNode` but the first."""
    made: list[BackupNode] = []

    def make(*arguments: Any, **options: Any) -> BackupNode:
        made.append(BackupNode(tmp_path, *arguments, **options))
        return made[-1]

    yield make
    for node in made:
        node.close()


DAY = 24 * 3600.0


@attrs.define(eq=False)
class Left:
    """A node that a server has left, with two backups that its Panel has dropped.

    `lacks` is how the Panel answers for each; `here` are the servers of the node.
    """

    node: BackupNode
    dropped: LeftBackups
    lacks: dict[str, bool | None]
    here: set[str] = attrs.field(factory=set)
    lock: DeferredLock = attrs.field(factory=DeferredLock)
    loaded: bool = True
    now: float = 1000.0
    asked: list[str] = attrs.field(factory=list)

    async def backup_record(self, backup: str) -> BackupRecordState:
        self.asked.append(backup)
        if self.lacks[backup] is None:
            raise PanelUnreachable("the Panel did not answer", "refused")
        return BackupRecordState.MISSING if self.lacks[backup] else BackupRecordState.UNKNOWN

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
    store.set_terms(entry, left=[LeavingBackup(place, LeftState.DROPPED) for place in places])
    store.end(2, entry, Outcome.SUCCESS)
    fake: Any = None
    made = Left(node, fake, {BACKUP: True, OTHER: True})
    node.database.now = lambda: made.now
    made.dropped = left_backups(made)
    await made.dropped.clear()
    return made


def left_backups(left: Any, *, deletes: bool = True) -> LeftBackups:
    """Return what deletes the backups, by what `left` says of Panel and servers."""
    node, config = left.node, TransfersConfig(live=LiveMovesConfig(keep_source_days=2))
    volume = Volume(str(node.home), (0, 0), "", str(node.backups))
    histories: Any = None  # nobody has left one
    return LeftBackups(
        config,
        node.database,
        node.store,
        node.made.points,
        left,
        left,
        volume,
        histories,
        left.lock,
        node.workers,
        node.workers,
        None,
        reactor,
        deletes,
    )


async def test_what_the_panel_dropped_is_deleted_after_the_days_and_two_answers(
    make_node: Make, logged: Logged
) -> None:
    left = await left_by(make_node)
    assert await left.days(1) == [BACKUP, OTHER]
    assert await left.days(1) == []
    assert left.node.left() == []
    assert left.node.database_store.left() == []
    assert sum("deleted" in line and BACKUP in line for line in logged.lines) == 1


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


async def test_backups_of_a_server_that_came_back_stay(make_node: Make) -> None:
    left = await left_by(make_node)
    left.here.add(SERVER)
    assert await left.days(1) == [BACKUP, OTHER]
    left.here.clear()
    assert await left.days(9) == [BACKUP, OTHER]


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
    left.dropped.start()
    await until(lambda: left.node.database_store.left() == [])
    left.dropped.stop()
    assert left.node.store.all() == []


async def test_nothing_is_deleted_where_the_configuration_has_backups_kept_since(
    make_node: Make,
) -> None:
    left = await left_by(make_node)
    left.dropped = left_backups(left, deletes=False)
    asked = len(left.asked)
    assert await left.days(9) == [BACKUP, OTHER]
    assert len(left.asked) == asked


async def test_nothing_is_deleted_while_the_servers_are_not_loaded(make_node: Make) -> None:
    left = await left_by(make_node)
    left.loaded = False
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
