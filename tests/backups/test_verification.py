"""Backups at rest are read to their end, and any damage is found."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from tests.archive.hostile.streams import bomb
from tests.backups.harness import BACKUP, OTHER, SERVER, BackupNode
from tests.backups.test_catalogue import MADE
from tests.filesystem.test_walk import MIB, needed
from tests.support.logged_errors import Logged
from tests.support.present import present
from tests.support.reactor import until
from tests.support.sample_server import archive
from wingsd.backups.at_rest import BackupChecks, VerifiedBackup, verified_catalogue, verify_archive
from wingsd.backups.catalogue import COMPLETE, DAMAGED
from wingsd.backups.store import BackupStore, StoredBackup
from wingsd.config import PTERODACTYL
from wingsd.errors import BackupMissing, FileWorkCancelled, StorageError
from wingsd.files.guard import Progress
from wingsd.filesystem.directory import OpenFile

GOOD = archive(300_000)
PLACE = f"{BACKUP}.tar.gz"


def verified(
    directory: Path, data: bytes, made: bytes | None, suffix: str = "tar.gz"
) -> VerifiedBackup:
    """Verify a backup of `data`, whose catalogue is that of `made`."""
    store = BackupStore(str(directory), PTERODACTYL)
    place = f"{BACKUP}.{suffix}"
    (directory / place).write_bytes(data)
    if made is not None:
        sha256 = hashlib.sha256(made).hexdigest()
        catalogue = attrs.evolve(MADE, archive=place, bytes=len(made), sha256=sha256)
        store.write_catalogue(place, catalogue)
    opened = present(store.open(SERVER, BACKUP))
    with opened[1] as file:
        return verify_archive(opened[0], file, Progress())


@pytest.mark.parametrize("made", [GOOD, None])
def test_a_whole_backup_has_no_fault(tmp_path: Path, made: bytes | None) -> None:
    found = verified(tmp_path, GOOD, made)
    assert (found.fault, found.bytes) == ("", len(GOOD))
    assert found.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert found.files


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :]


def without_end(data: bytes) -> bytes:
    """Return an archive whose tar has no end, though its compression has."""
    return gzip.compress(gzip.decompress(data).rstrip(b"\0"))


@pytest.mark.promise("damaged-backup-is-found")
@pytest.mark.parametrize("has_catalogue", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda data: data[:-9],
        lambda data: data[: len(data) // 2],
        lambda _: b"",
        lambda _: b"<html>",
        without_end,
        lambda data: data + b"more",
    ],
    ids=["flipped", "cut", "half", "empty", "page", "endless", "longer"],
)
def test_damage_is_found(
    tmp_path: Path, damage: Callable[[bytes], bytes], has_catalogue: bool
) -> None:
    assert verified(tmp_path, damage(GOOD), GOOD if has_catalogue else None).fault


def test_another_whole_archive_is_not_the_one_that_was_made(tmp_path: Path) -> None:
    assert verified(tmp_path, archive(299_999), GOOD).fault


def test_a_hostile_member_is_a_fault(tmp_path: Path) -> None:
    tar = bytearray(gzip.decompress(GOOD))
    assert verified(tmp_path, bytes(tar), None, "tar").fault == ""
    escaping = gzip.decompress(GOOD).replace(b"server", b"../../", 1)
    assert verified(tmp_path, escaping, None, "tar").fault


def test_much_data_takes_little_memory(tmp_path: Path) -> None:
    data = bomb(4)
    assert needed(lambda: verified(tmp_path, data, None)) < 4 * MIB
    assert verified(tmp_path, data, None).fault == ""


def test_of_a_zip_only_the_checksum_is_compared(tmp_path: Path) -> None:
    found = verified(tmp_path, b"PK", b"PK", "zip")
    assert (found.fault, found.files) == ("", None)
    assert verified(tmp_path, b"KP", b"PK", "zip").fault


def test_it_is_cancelled(tmp_path: Path) -> None:
    store = BackupStore(str(tmp_path), PTERODACTYL)
    (tmp_path / PLACE).write_bytes(GOOD)
    progress = Progress()
    progress.cancel()
    opened = present(store.open(SERVER, BACKUP))
    with opened[1] as file, pytest.raises(FileWorkCancelled):
        verify_archive(opened[0], file, progress)


def test_the_catalogue_notes_the_result(tmp_path: Path) -> None:
    store = BackupStore(str(tmp_path), PTERODACTYL)
    verified(tmp_path, GOOD, GOOD)
    found = present(store.find(SERVER, BACKUP))
    good = present(verified_catalogue(found, VerifiedBackup(3, "ab" * 32, 1)))
    bad = present(verified_catalogue(found, VerifiedBackup(3, "ab" * 32, 1, "it is cut")))
    assert (good.state, good.fault) == (COMPLETE, "")
    assert (bad.state, bad.fault) == (DAMAGED, "it is cut")
    assert good.checked > 0


def test_a_backup_without_catalogue_gets_one_where_its_server_is_known(tmp_path: Path) -> None:
    store = BackupStore(str(tmp_path), PTERODACTYL)
    (tmp_path / PLACE).write_bytes(GOOD)
    flat = present(store.find(SERVER, BACKUP))
    (tmp_path / SERVER).mkdir()
    (tmp_path / PLACE).rename(tmp_path / SERVER / PLACE)
    known = present(store.find(SERVER, BACKUP))
    result = VerifiedBackup(len(GOOD), "ab" * 32, 2)
    assert verified_catalogue(flat, result) is None
    made = present(verified_catalogue(known, result))
    assert (made.server, made.files, made.checksum) == (SERVER, 2, "")
    assert verified_catalogue(known, VerifiedBackup(1, "ab" * 32, None, "damaged")) is None


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


@pytest.mark.promise("damaged-backup-is-found")
async def test_a_whole_backup_is_noted_as_checked(node: BackupNode, checks_of: MakeChecks) -> None:
    await node.make()
    checks = checks_of()
    check = await checks.begin(BACKUP)
    assert await checks.begin(BACKUP) is check
    await until(lambda: check.result is not None)
    assert check.result is not None
    assert (check.result.fault, check.result.files) == ("", 0)
    catalogue = node.catalogue()
    assert (catalogue.state, catalogue.checked > 0) == (COMPLETE, True)
    assert checks.last(BACKUP) is check
    assert (checks.count, list(checks.damaged)) == (1, [])


@pytest.mark.promise("damaged-backup-is-found")
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
    catalogue = node.catalogue()
    assert (catalogue.state, catalogue.fault) == (DAMAGED, check.result.fault)
    assert list(checks.damaged) == [BACKUP]
    assert (node.backups / f"{BACKUP}.tar.gz").exists()


@pytest.mark.promise("damaged-backup-is-found")
async def test_a_backup_that_is_not_there_is_not_checked(checks_of: MakeChecks) -> None:
    checks = checks_of()
    with pytest.raises(BackupMissing):
        await checks.begin(BACKUP)
    with pytest.raises(BackupMissing):
        checks.last(BACKUP)


@pytest.mark.promise("damaged-backup-is-found")
async def test_backups_that_are_due_are_checked_by_themselves(
    node: BackupNode, checks_of: MakeChecks
) -> None:
    await node.make()
    await node.make(OTHER)
    damage(node)
    made = node.stored(OTHER)
    fresh = attrs.evolve(present(made.catalogue), checked=time.time() + 5 * DAY)
    node.store.write_catalogue(made.place, fresh)
    checks = checks_of(7, lambda: time.time() + 8 * DAY)
    checks.start()
    await until(lambda: checks.count == 1)
    await until(lambda: list(checks.damaged) == [BACKUP])
    assert node.stored(OTHER).catalogue == fresh
    checks.stop()
    later = checks_of(7, lambda: time.time() + 9 * DAY)
    later.start()
    # What an earlier daemon has found is known.
    await until(lambda: list(later.damaged) == [BACKUP])
    # It is checked again, for its last check is older than seven days.
    await until(lambda: later.count == 1)


@pytest.mark.promise("damaged-backup-is-found")
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
        found = node.stored(backup)
        long_ago = attrs.evolve(present(found.catalogue), made=time.time() - 8 * DAY)
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
