"""The quarantine: how long what is in it stays, whatever the clock says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.logs import LoggedErrors
from tests.support import SynchronousWorkers
from wingsd.backups.received import ReceivedBackups
from wingsd.errors import StorageError
from wingsd.statedb import StateDatabase
from wingsd.statedb.store import Store
from wingsd.transfers.storage.staging import Quarantine, Staging

OWNER = (os.getuid(), os.getgid())
UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
DAY = 24 * 3600.0
YEAR = 365 * DAY
NOW = 1_700_000_000.0
DAYS = 30


class House:
    """An attic with a wall clock that can be set."""

    def __init__(self, directory: Path) -> None:
        self.now = NOW
        self.store = Store(str(directory))
        self.store.open()
        self.staging = Staging(str(directory / "volumes"), OWNER, durable=True)
        self.staging.prepare()
        workers: Any = SynchronousWorkers()
        journal = StateDatabase(self.store, workers, lambda: self.now)
        backups = ReceivedBackups(
            str(directory / "backups"), str(directory), durable=True, reserve=0
        )
        self.attic = Quarantine(self.staging, backups, workers, journal, DAYS)

    def store_away(self) -> None:
        self.staging.create(UUID)
        self.staging.swap(UUID)
        Deferred.fromCoroutine(self.attic.store_away(UUID))
        self.clear()

    def clear(self) -> None:
        Deferred.fromCoroutine(self.attic.clear())

    def pass_days(self, days: int) -> None:
        for _ in range(days):
            self.now += DAY
            self.clear()

    @property
    def is_empty(self) -> bool:
        return not self.staging.quarantined()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.store.close()
    made.staging.close()


def test_of_what_another_node_has_too_nothing_is_moved(house: House) -> None:
    house.staging.create(UUID)
    house.staging.swap(UUID)
    Deferred.fromCoroutine(house.attic.store_away(UUID, pooled=True))
    assert house.is_empty
    assert house.staging.is_in_place(UUID)


def test_it_is_kept_for_its_days_and_then_deleted(
    house: House, logged_errors: LoggedErrors
) -> None:
    house.store_away()
    house.pass_days(DAYS)
    assert not house.is_empty
    house.pass_days(1)
    assert house.is_empty
    assert any("it was in quarantine long enough" in line for line in logged_errors.lines)


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_is_set_deletes_it_a_day_early_at_most(house: House, jump: float) -> None:
    house.store_away()
    house.now += jump
    house.clear()
    house.pass_days(DAYS - 1)
    assert not house.is_empty
    house.pass_days(2)
    assert house.is_empty


def test_what_came_while_the_clock_was_behind_is_kept_as_long(house: House) -> None:
    house.now = 0.0  # As a machine begins whose own clock has no battery.
    house.store_away()
    house.now = NOW
    house.clear()
    house.pass_days(DAYS - 1)
    assert not house.is_empty


def test_a_clock_that_was_ahead_keeps_it_no_longer(house: House) -> None:
    house.store_away()
    house.now += YEAR
    house.clear()
    house.now -= YEAR
    house.clear()
    house.pass_days(DAYS)
    assert house.is_empty


def test_what_cannot_be_written_down_deletes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    house.store_away()

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(house.store, "ages", full)
    house.pass_days(DAYS + 1)
    assert not house.is_empty
    assert any("the disk is full" in line for line in logged_errors.lines)
