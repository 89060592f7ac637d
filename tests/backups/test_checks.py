"""Backups are verified when an operator asks for it, and by themselves when they are due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from tests.backups.harness import BACKUP, OTHER, SERVER, BackupNode
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from wingsd.backups.at_rest import BackupChecks
from wingsd.backups.catalogue import COMPLETE, DAMAGED
from wingsd.backups.store import StoredBackup
from wingsd.errors import BackupMissing, StorageError
from wingsd.filesystem.directory import OpenFile

pytestmark = pytest.mark.promise("damaged-backup-is-found")

DAY = 24 * 3600.0
MakeChecks = Callable[..., BackupChecks]


@pytest.fixture
def checks_of(node: BackupNode) -> Iterator[MakeChecks]:
    made: list[BackupChecks] = []

    def make(days: int = 0, now: Callable[[], float] = time.time) -> BackupChecks:
        checks = BackupChecks(node.made, days, 0, now)
        made.append(checks)
        return checks

    yield make
    for checks in made:
        checks.stop()


def damage(node: BackupNode) -> None:
    path = Path(node.store.path(f"{BACKUP}.tar.gz"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def stored(node: BackupNode, backup: str = BACKUP) -> StoredBackup:
    found = node.store.find(SERVER, backup)
    assert found is not None
    return found


async def test_a_whole_backup_is_noted_as_checked(node: BackupNode, checks_of: MakeChecks) -> None:
    await node.make()
    checks = checks_of()
    check = await checks.begin(BACKUP)
    assert await checks.begin(BACKUP) is check
    await until(lambda: check.result is not None)
    assert check.result is not None
    assert (check.result.fault, check.result.files) == ("", 0)
    catalogue = stored(node).catalogue
    assert catalogue is not None
    assert (catalogue.state, catalogue.checked > 0) == (COMPLETE, True)
    assert checks.last(BACKUP) is check
    assert (checks.count, list(checks.damaged)) == (1, [])


async def test_a_damaged_one_is_named_and_counted(
    node: BackupNode, checks_of: MakeChecks, logged: Logged
) -> None:
    await node.make()
    damage(node)
    checks = checks_of()
    check = await checks.begin(BACKUP)
    await until(lambda: checks.count == 1)
    assert check.result is not None
    assert check.result.fault
    catalogue = stored(node).catalogue
    assert catalogue is not None
    assert (catalogue.state, catalogue.fault) == (DAMAGED, check.result.fault)
    assert list(checks.damaged) == [BACKUP]
    assert (node.backups / f"{BACKUP}.tar.gz").exists()


async def test_a_backup_that_is_not_there_is_not_checked(checks_of: MakeChecks) -> None:
    checks = checks_of()
    with pytest.raises(BackupMissing):
        await checks.begin(BACKUP)
    with pytest.raises(BackupMissing):
        checks.last(BACKUP)


async def test_backups_that_are_due_are_checked_by_themselves(
    node: BackupNode, checks_of: MakeChecks
) -> None:
    await node.make()
    await node.make(OTHER)
    damage(node)
    made = stored(node, OTHER)
    assert made.catalogue is not None
    fresh = attrs.evolve(made.catalogue, checked=time.time() + 5 * DAY)
    node.store.write_catalogue(made.place, fresh)
    checks = checks_of(7, lambda: time.time() + 8 * DAY)
    checks.start()
    await until(lambda: checks.count == 1)
    await until(lambda: list(checks.damaged) == [BACKUP])
    assert stored(node, OTHER).catalogue == fresh
    checks.stop()
    later = checks_of(7, lambda: time.time() + 9 * DAY)
    later.start()
    # What an earlier daemon has found is known.
    await until(lambda: list(later.damaged) == [BACKUP])
    # It is checked again, for its last check is older than seven days.
    await until(lambda: later.count == 1)


async def test_none_is_checked_by_itself_unless_that_is_configured(
    node: BackupNode, checks_of: MakeChecks
) -> None:
    await node.make()
    checks = checks_of(0, lambda: time.time() + 1000 * DAY)
    checks.start()
    checks.stop()
    assert checks.count == 0


@pytest.mark.promise("damaged-backup-is-found")
async def test_one_that_cannot_be_checked_does_not_keep_the_others_from_it(
    node: BackupNode, checks_of: MakeChecks, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    for backup in (BACKUP, OTHER):
        await node.make(backup)
        found = stored(node, backup)
        assert found.catalogue is not None
        long_ago = attrs.evolve(found.catalogue, made=time.time() - 8 * DAY)
        node.store.write_catalogue(found.place, long_ago)
    tries: list[str] = []
    opened = node.store.open

    def broken(server: str, uuid: str) -> tuple[StoredBackup, OpenFile] | None:
        tries.append(uuid)
        if uuid == BACKUP:
            raise StorageError.reading("permission denied")
        return opened(server, uuid)

    monkeypatch.setattr(node.store, "open", broken)
    clock: Any = Clock()
    now = time.time()
    backups = attrs.evolve(node.made, reactor=clock)
    checks = BackupChecks(backups, 7, 0, lambda: now + clock.seconds())
    checks.start()
    # Tried once, not in each hour, and again when it is due.
    for seconds in (3600.0, 7 * DAY, 0.0):
        await until(lambda: clock.getDelayedCalls() != [])
        clock.advance(seconds)
    checks.stop()
    assert tries == [BACKUP, OTHER, BACKUP, OTHER]
    assert checks.count == 2
    assert sum("permission denied" in line for line in logged.lines) == 2
