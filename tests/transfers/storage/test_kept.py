"""What is kept of moves that have failed, and in quarantine: how long, and how it is removed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from tests.support import SynchronousWorkers
from tests.support.logged_errors import Logged
from tests.support.sample_server import UUID
from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.received import ReceivedBackups
from wingsd.backups.store import Backup
from wingsd.config import PELICAN, SystemConfig
from wingsd.errors import StorageError
from wingsd.filesystem.removal import remove_tree
from wingsd.statedb import StateDatabase, Store
from wingsd.transfers.storage import quarantine
from wingsd.transfers.storage import staging as storage
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.staging import KEPT, CopyPaths, PartialCopies, Staging
from wingsd.util.durable import move

LIMITS = ArchiveLimits(None, 0, 0, 0, 0)


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    (tmp_path / "volumes").mkdir()
    made = Staging(str(tmp_path / "volumes"), (os.getuid(), os.getgid()), durable=False)
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def copies(staging: Staging) -> PartialCopies:
    return PartialCopies(staging, 0, LIMITS)


def arrive(copies: PartialCopies) -> None:
    copies.create(UUID).ledger.write_bytes(b"ledger")


@pytest.mark.parametrize("is_read", [True, False])
def test_the_next_move_knows_whether_the_copy_was_read_back(
    copies: PartialCopies, is_read: bool
) -> None:
    arrive(copies)
    assert copies.keep(UUID, 5, 10.0, is_read=is_read)
    paths = copies.adopt(UUID)
    assert paths is not None
    assert paths.is_read is is_read
    # Only once: it grows from then on.
    assert copies.keep(UUID, 5, 10.0)
    again = copies.adopt(UUID)
    assert again is not None
    assert not again.is_read


def test_another_daemon_reads_it_again(staging: Staging, copies: PartialCopies) -> None:
    arrive(copies)
    copies.keep(UUID, 5, 10.0, is_read=True)
    paths = PartialCopies(staging, 0, LIMITS).adopt(UUID)
    assert paths is not None
    assert not paths.is_read


def test_the_pair_of_a_copy_that_a_transfer_took_outlasts_restarts(
    staging: Staging, copies: PartialCopies
) -> None:
    arrive(copies)
    copies.keep(UUID, 5, 10.0, pair="pair")
    assert copies.adopt(UUID) is not None
    later = PartialCopies(staging, 0, LIMITS)
    taken = later.reopen(UUID)
    assert taken is not None
    assert taken.pair == "pair"
    later.keep(UUID, 5, 10.0)  # by one that has not opened it
    assert [each.pair for each in later.kept()] == ["pair"]
    later.forget(UUID)
    arrive(later)  # by another transfer
    later.keep(UUID, 5, 10.0)
    assert [each.pair for each in later.kept()] == [""]


class _Died(BaseException):
    """The daemon dies here."""


def _contents(copies: PartialCopies) -> list[str]:
    paths = copies.reopen(UUID) or copies.adopt(UUID)
    assert paths is not None
    return [(path / "file").read_text() for path in (paths.tree, paths.aside)]


def _die_after(monkeypatch: pytest.MonkeyPatch, moves: int) -> None:
    """Have the daemon die right after the rename number `moves`."""
    done = []

    def die(source: Path, target: Path, *, durable: bool) -> None:
        move(source, target, durable=durable)
        done.append(target)
        if len(done) == moves:
            raise _Died

    monkeypatch.setattr(storage, "move", die)


@pytest.mark.parametrize("again", [0, 1])
@pytest.mark.parametrize("moved", [1, 2, 3])
@pytest.mark.parametrize("kind", ["keep", "adopt"])
def test_nothing_is_lost_where_a_daemon_dies_while_a_copy_is_kept_or_taken(
    staging: Staging,
    copies: PartialCopies,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    moved: int,
    again: int,
) -> None:
    paths = copies.create(UUID)
    (paths.tree / "file").write_text("tree")
    (paths.aside / "file").write_text("aside")
    paths.ledger.write_bytes(b"ledger")
    if kind == "adopt":
        copies.keep(UUID, 5, 10.0)
    _die_after(monkeypatch, moved)
    with pytest.raises(_Died):
        copies.keep(UUID, 5, 10.0) if kind == "keep" else copies.adopt(UUID)
    if again:  # the next daemon dies as well
        _die_after(monkeypatch, again)
        with suppress(_Died):
            PartialCopies(staging, 0, LIMITS).kept()
    monkeypatch.undo()
    staging.clear((), [UUID])
    later = PartialCopies(staging, 0, LIMITS)
    if kind == "keep":  # the next daemon knows that the move has failed
        assert later.keep(UUID, None, 20.0)
        assert [each.server for each in later.kept()] == [UUID]
    assert _contents(later) == ["tree", "aside"]
    assert later.kept() == []


@pytest.mark.parametrize("gone", [("ledger",), ("ledger", "aside")])
def test_a_server_that_was_put_into_place_gets_no_files_of_a_copy_that_was_half_removed(
    tmp_path: Path, staging: Staging, copies: PartialCopies, gone: tuple[str, ...]
) -> None:
    arrive(copies)
    copies.keep(UUID, 5, 10.0)
    (kept,) = copies.kept()
    home = Path(staging.path) / KEPT / kept.name
    arrive(copies)
    staging.swap(UUID)
    for name in gone:
        (home / name).rename(tmp_path / name)
    assert copies.kept() == []
    assert not staging.holds(UUID)
    assert not home.exists()


# The quarantine: how long what is in it stays, whatever the clock says


OWNER = (os.getuid(), os.getgid())
DAY = 24 * 3600.0
YEAR = 365 * DAY
NOW = 1_700_000_000.0
DAYS = 30
WEEK = 7
BACKUP = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", PELICAN)


class QuarantineHarness:
    """A quarantine with a wall clock that can be set."""

    def __init__(self, directory: Path) -> None:
        self.now = NOW
        self.store = Store(str(directory))
        self.store.open()
        self.staging = Staging(str(directory / "volumes"), OWNER, durable=True)
        self.staging.prepare()
        workers: Any = SynchronousWorkers()
        database = StateDatabase(self.store, workers, lambda: self.now)
        self.backups = ReceivedBackups(
            str(directory / "backups"), str(directory), durable=True, reserve=0
        )
        self.copies = PartialCopies(self.staging, 0, ArchiveLimits(None, 0, 0, 0, 0))
        self.quarantine = Quarantine(
            self.staging,
            self.backups,
            self.copies,
            workers,
            database,
            SystemConfig(),
        )

    def store_away(self) -> None:
        self.staging.create(UUID)
        self.staging.swap(UUID)
        Deferred.fromCoroutine(self.quarantine.store_away(UUID))
        self.clear()

    def clear(self) -> None:
        Deferred.fromCoroutine(self.quarantine.clear())

    def pass_days(self, days: int) -> None:
        for _ in range(days):
            self.now += DAY
            self.clear()

    def kept(self) -> list[Path]:
        directories = (self.staging.quarantine, self.backups.quarantine)
        return [path for each in directories if each.is_dir() for path in each.iterdir()]

    @property
    def is_empty(self) -> bool:
        return not self.kept()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[QuarantineHarness]:
    made = QuarantineHarness(tmp_path)
    yield made
    made.store.close()
    made.staging.close()


def test_files_shared_with_another_node_are_not_moved(harness: QuarantineHarness) -> None:
    harness.staging.create(UUID)
    harness.staging.swap(UUID)
    Deferred.fromCoroutine(harness.quarantine.store_away(UUID, pooled=True))
    assert harness.is_empty
    assert harness.staging.is_in_place(UUID)


def test_a_server_is_kept_for_the_configured_days_and_then_deleted(
    harness: QuarantineHarness, logged: Logged
) -> None:
    harness.store_away()
    harness.pass_days(DAYS)
    assert not harness.is_empty
    harness.pass_days(1)
    assert harness.is_empty
    assert any("it was in quarantine long enough" in line for line in logged.lines)


@pytest.mark.promise("source-files-are-kept-for-days")
def test_what_was_moved_while_it_ran_is_kept_for_days_of_its_own(
    harness: QuarantineHarness, logged: Logged
) -> None:
    harness.staging.create(UUID)
    harness.staging.swap(UUID)
    Deferred.fromCoroutine(harness.quarantine.keep_moved(UUID, -1, "https://new.example.com:8080"))
    assert harness.is_empty  # another directory is in its place
    Deferred.fromCoroutine(
        harness.quarantine.keep_moved(UUID, None, "https://new.example.com:8080")
    )
    harness.clear()
    assert not harness.staging.is_in_place(UUID)
    [place] = harness.kept()
    assert any(f"are kept here for 1 days in {place}" in line for line in logged.lines)
    harness.pass_days(1)
    assert not harness.is_empty
    harness.pass_days(1)
    assert harness.is_empty


def test_what_was_kept_of_a_move_is_deleted_with_its_backups_when_its_days_are_over(
    harness: QuarantineHarness,
) -> None:
    copies = harness.copies
    copies.create(UUID).ledger.write_bytes(b"ledger")
    harness.backups.part(UUID, BACKUP).write_bytes(b"half")
    assert copies.keep(UUID, 100, harness.now)
    harness.clear()
    harness.pass_days(WEEK)
    assert [copy.server for copy in copies.kept()] == [UUID]
    assert harness.backups.part(UUID, BACKUP).exists()
    harness.pass_days(1)
    assert copies.kept() == []
    assert not harness.backups.part(UUID, BACKUP).exists()


@pytest.mark.promise("arrived-data-is-kept")
@pytest.mark.parametrize("is_late", [False, True])
def test_a_move_takes_all_of_a_kept_copy_or_nothing_when_its_days_are_over(
    harness: QuarantineHarness, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    copies, taken = harness.copies, list[CopyPaths | None]()
    paths = copies.create(UUID)
    paths.ledger.write_bytes(b"ledger")
    assert copies.keep(UUID, 100, harness.now)
    harness.pass_days(WEEK)

    def take(*_: object) -> None:
        monkeypatch.undo()
        taken.append(copies.adopt(UUID))

    def remove(path: str) -> None:
        take()
        remove_tree(path)

    def find(names: Collection[str]) -> set[str]:
        take()
        return Quarantine._delete(harness.quarantine, names)

    if is_late:
        for module in (storage, quarantine):
            monkeypatch.setattr(module, "remove_tree", remove)
    else:
        monkeypatch.setattr(harness.quarantine, "_delete", find)
    harness.pass_days(2)
    assert [each is None for each in taken] == [is_late]
    assert paths.tree.exists() is not is_late
    assert copies.kept() == []


@pytest.mark.promise("clock-steps-do-no-harm")
@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_step_deletes_at_most_a_day_early(harness: QuarantineHarness, jump: float) -> None:
    harness.store_away()
    harness.now += jump
    harness.clear()
    harness.pass_days(DAYS - 1)
    assert not harness.is_empty
    harness.pass_days(2)
    assert harness.is_empty


@pytest.mark.promise("clock-steps-do-no-harm")
def test_a_server_added_by_a_slow_clock_is_kept_as_long(harness: QuarantineHarness) -> None:
    harness.now = 0.0  # As a machine begins whose own clock has no battery.
    harness.store_away()
    harness.now = NOW
    harness.clear()
    harness.pass_days(DAYS - 1)
    assert not harness.is_empty


def test_nothing_is_deleted_when_the_database_fails(
    harness: QuarantineHarness, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    harness.store_away()
    monkeypatch.setattr(harness.store, "ages", Mock(side_effect=StorageError("the disk is full")))
    harness.pass_days(DAYS + 1)
    assert not harness.is_empty
    assert any("the disk is full" in line for line in logged.lines)


def test_files_in_quarantine_survive_a_restart(harness: QuarantineHarness) -> None:
    harness.staging.create(UUID)
    harness.staging.swap(UUID)
    place = harness.staging.in_place(UUID)
    assert place is not None
    (place / "world").write_text("precious")
    Deferred.fromCoroutine(harness.quarantine.store_away(UUID))
    (kept,) = harness.kept()
    assert (kept / "world").read_text() == "precious"
    assert not place.exists()
    assert harness.staging.clear() == []
    assert kept.exists()


def test_only_the_directory_with_the_inode_is_taken(harness: QuarantineHarness) -> None:
    harness.staging.create(UUID)
    inode = harness.staging.inode(UUID)
    harness.staging.swap(UUID)
    Deferred.fromCoroutine(harness.quarantine.store_away(UUID, inode=inode + 1))
    assert harness.is_empty
    Deferred.fromCoroutine(harness.quarantine.store_away(UUID, inode=inode))
    assert not harness.is_empty


def test_backups_go_into_quarantine_with_their_server(harness: QuarantineHarness) -> None:
    harness.backups.store(UUID, BACKUP, [b"one"])
    harness.backups.place(UUID)
    place = harness.backups.quarantine.parent.parent / BACKUP.path(UUID)
    assert place.exists()
    Deferred.fromCoroutine(harness.quarantine.store_away(UUID))
    (kept,) = harness.kept()
    assert [path.read_bytes() for path in kept.rglob("*.tar.gz")] == [b"one"]
    assert not place.exists()
    assert harness.backups.clear() == []
    harness.clear()
    harness.pass_days(DAYS + 1)
    assert harness.is_empty
