"""Backups and logs that come with a server: kept with it, and gone with it when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from tests.support.logged_errors import LoggedErrors
from tests.support.sample_server import UUID
from tests.transfers.receiving import ALONE, House, Source, reactor
from wingsd.backups.attachments import Backup, InstallLog
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import (
    BadRequest,
    Conflict,
    EnvironmentFailed,
    ServerNotFound,
    StorageError,
    WingsdError,
)
from wingsd.panel.errors import PanelRefused
from wingsd.statedb import Direction
from wingsd.transfers.errors import TransferRevoked
from wingsd.transfers.recovery import clear_leftovers
from wingsd.transfers.steps import ReceiveStep

ONE = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", PELICAN)
TWO = Backup("6b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12", "tar", CALAGOPUS)
LOG = f"install/{UUID}.log"
KEPT = {ONE.path(UUID): b"one", TWO.path(UUID): b"two", LOG: b"installed"}


def laden(*, checksum: str = "") -> Source:
    source = Source().bring(ONE, b"one").bring(InstallLog(), b"installed")
    return source.bring(TWO, b"two", checksum)


@pytest_twisted.ensureDeferred
async def test_all_that_comes_with_a_server_is_kept_and_told(house: House) -> None:
    await house.receiver.open(UUID).run(laden(), ALONE)
    assert house.kept() == KEPT
    assert house.world.told == [(ONE.uuid, TWO.uuid)]
    assert house.left() == [UUID]


@pytest.mark.parametrize(("family", "told"), [(PELICAN, None), (CALAGOPUS, ())])
@pytest_twisted.ensureDeferred
async def test_only_calagopus_panels_are_told_of_backups(
    house: House, family: str, told: object
) -> None:
    object.__setattr__(house.coordinators, "family", family)
    await house.receiver.open(UUID).run(Source(), ALONE)
    assert house.world.told == [told]


@pytest_twisted.ensureDeferred
async def test_pelicans_backups_are_not_told(house: House) -> None:
    await house.receiver.open(UUID).run(Source().bring(ONE, b"one"), ALONE)
    assert (house.world.told, house.kept()) == ([None], {ONE.path(UUID): b"one"})


@pytest_twisted.ensureDeferred
async def test_they_come_into_place_before_the_environment_and_the_log_last(house: House) -> None:
    seen = []
    house.world.before["create"] = lambda: seen.append(house.kept())
    await house.receiver.open(UUID).run(laden(), ALONE)
    (then,) = seen
    assert {path for path in then if not path.startswith(".wingsd-")} == {
        ONE.path(UUID),
        TWO.path(UUID),
    }


@pytest_twisted.ensureDeferred
async def test_one_wrong_checksum_fails_all_of_it(house: House) -> None:
    error = await house.fails(BadRequest, laden(checksum="0" * 64))
    assert error.message == "checksums don't match"
    assert f"of the backup {TWO.uuid} received" in error.detail
    assert (house.kept(), house.left()) == ({}, [])
    assert house.world.calls == ["owns", "server", "failure"]


@pytest.mark.parametrize(
    ("call", "error"),
    [("create", EnvironmentFailed("no image")), ("server", ServerNotFound("unknown"))],
)
@pytest_twisted.ensureDeferred
async def test_nothing_of_it_stays_when_the_transfer_fails(
    house: House, call: str, error: WingsdError
) -> None:
    other = house.backup_directory / UUID / "other.tar.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"precious")
    house.world.faults[call] = error
    await house.fails(type(error), laden())
    assert house.kept() == {f"{UUID}/other.tar.gz": b"precious"}
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_another_backup_in_its_place_fails_the_transfer_and_stays(house: House) -> None:
    house.backup_directory.mkdir()
    (house.backup_directory / TWO.path(UUID)).write_bytes(b"precious")
    error = await house.fails(Conflict, laden())
    assert "is not overwritten" in error.detail
    assert (house.kept(), house.left()) == ({TWO.path(UUID): b"precious"}, [])
    assert "failure" in house.world.calls


@pytest_twisted.ensureDeferred
async def test_a_disk_that_fails_while_they_are_stored_fails_the_transfer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise StorageError("the disk is full")

    monkeypatch.setattr(house.backups, "store", full)
    await house.fails(StorageError, laden())
    assert (house.kept(), house.left()) == ({}, [])


@pytest_twisted.ensureDeferred
async def test_a_log_that_cannot_be_kept_fails_nothing(
    house: House, logged_errors: LoggedErrors
) -> None:
    house.logs.write_text("no directory")
    await house.receiver.open(UUID).run(laden(), ALONE)
    assert house.states[-1] == "completed"
    assert [line for line in logged_errors.lines if "installation log" in line]


@pytest_twisted.ensureDeferred
async def test_what_the_panel_does_not_want_is_kept_apart_with_its_backups(house: House) -> None:
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    house.world.owned = [False, False]
    await house.fails(TransferRevoked, laden())
    assert house.left() == [".quarantine"]
    kept = house.kept()
    assert sorted(kept.values()) == [b"one", b"two"]
    assert all("/.quarantine/" in path for path in kept)


# After a restart


def begun(house: House, step: ReceiveStep) -> None:
    """Leave behind what a daemon does that dies in a step, as late in it as it can."""
    house.store.begin(1.0, UUID, Direction.IN, step.name)
    directory = Path(house.staging.create(UUID))
    (directory / "world").write_text("whole")
    house.backups.store(UUID, ONE, [b"one"])
    house.backups.store(UUID, TWO, [b"two"])
    house.staging.log(UUID).write_bytes(b"installed")
    if step in (ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        house.staging.swap(UUID)
        house.backups.place(UUID)


async def resumed(house: House) -> None:
    entries = house.store.unfinished()
    clear_leftovers(entries, house.staging, house.backups)
    (entry,) = entries
    house.receiver.resume(entry)
    while house.receiver.servers:
        await deferLater(reactor, 0.005)


WHOLE = [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT]


@pytest.mark.parametrize("step", WHOLE)
@pytest_twisted.ensureDeferred
async def test_the_next_daemon_brings_it_to_its_end(house: House, step: ReceiveStep) -> None:
    begun(house, step)
    await resumed(house)
    assert house.kept() == KEPT
    assert house.world.told == [(ONE.uuid, TWO.uuid)]
    assert house.left() == [UUID]


@pytest.mark.parametrize("step", WHOLE)
@pytest_twisted.ensureDeferred
async def test_or_keeps_all_of_it_apart(house: House, step: ReceiveStep) -> None:
    begun(house, step)
    house.world.faults["owns"] = ServerNotFound("deleted meanwhile")
    await resumed(house)
    assert house.world.told == []
    assert (house.left(), house.store.unfinished()) == ([".quarantine"], [])
    (files,) = [path.name for path in house.staging.quarantine.iterdir()]
    quarantine = house.data.with_name(".volumes.staging") / ".quarantine"
    assert (quarantine / files / "world").read_text() == "whole"
    kept = house.kept()
    assert sorted(kept.values()) == [b"one", b"two"]
    assert all("/.quarantine/" in path for path in kept)


@pytest_twisted.ensureDeferred
async def test_or_gives_up_what_is_not_in_place(house: House) -> None:
    begun(house, ReceiveStep.DURABLE)
    (entry,) = house.store.unfinished()
    house.store.enter(2.0, entry.id, ReceiveStep.SWAP.name)
    house.world.faults["owns"] = ServerNotFound("deleted meanwhile")
    await resumed(house)
    assert (house.kept(), house.left()) == ({}, [])


@pytest.mark.parametrize("step", [ReceiveStep.RECEIVE, ReceiveStep.VERIFY, ReceiveStep.DURABLE])
@pytest_twisted.ensureDeferred
async def test_what_was_not_whole_is_gone(house: House, step: ReceiveStep) -> None:
    begun(house, step)
    await resumed(house)
    assert house.world.calls == ["failure"]
    assert (house.kept(), house.left()) == ({}, [])
