"""Backups and logs that come with a server: kept with it, and gone with it when it fails."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.support.logged_errors import Logged
from tests.support.receiver import Receiver, Source
from tests.support.sample_server import UUID
from wingsd.backups.store import AttachedLog, Backup
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    PanelRefused,
    ServerNotFound,
    StorageError,
    TransferRevoked,
    WingsdError,
)
from wingsd.statedb import Direction
from wingsd.transfers.steps import ReceiveStep

ONE = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", PELICAN)
TWO = Backup("6b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12", "tar", CALAGOPUS)
LOG = f"install/{UUID}.log"
KEPT = {ONE.path(UUID): b"one", TWO.path(UUID): b"two", LOG: b"installed"}


def laden(*, checksum: str = "") -> Source:
    source = Source().bring(ONE, b"one").bring(AttachedLog(), b"installed")
    return source.bring(TWO, b"two", checksum)


async def test_attachments_are_kept_and_reported(receiver: Receiver) -> None:
    await receiver.receive(laden())
    assert receiver.kept() == KEPT
    assert receiver.panel.reported_backups == [(ONE.uuid, TWO.uuid)]
    assert receiver.left() == [UUID]


@pytest.mark.parametrize(("family", "told"), [(PELICAN, None), (CALAGOPUS, ())])
async def test_backups_are_reported_to_calagopus_panels_only(
    receiver: Receiver, family: str, told: object
) -> None:
    object.__setattr__(receiver.coordinators, "family", family)
    await receiver.receive()
    assert receiver.panel.reported_backups == [told]


async def test_backups_are_placed_before_the_container_the_log_last(receiver: Receiver) -> None:
    seen = []
    receiver.before["create"] = lambda: seen.append(receiver.kept())
    await receiver.receive(laden())
    (then,) = seen
    assert {path for path in then if not path.startswith(".wingsd-")} == {
        ONE.path(UUID),
        TWO.path(UUID),
    }


@pytest.mark.parametrize(
    ("call", "error"),
    [("create", EnvironmentFailed("no image")), ("server", ServerNotFound("unknown"))],
)
async def test_no_attachment_stays_when_the_transfer_fails(
    receiver: Receiver, call: str, error: WingsdError
) -> None:
    other = receiver.backup_directory / UUID / "other.tar.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"precious")
    receiver.faults[call] = error
    await receiver.fails(type(error), laden())
    assert receiver.kept() == {f"{UUID}/other.tar.gz": b"precious"}
    assert receiver.left() == []


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_another_backup_in_its_place_fails_it_and_stays(receiver: Receiver) -> None:
    receiver.backup_directory.mkdir()
    (receiver.backup_directory / TWO.path(UUID)).write_bytes(b"precious")
    error = await receiver.fails(Conflict, laden())
    assert "is not overwritten" in error.detail
    assert (receiver.kept(), receiver.left()) == ({TWO.path(UUID): b"precious"}, [])
    assert "failure" in receiver.calls


async def test_a_disk_failure_while_storing_attachments_fails_the_transfer(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        receiver.received_backups, "store", Mock(side_effect=StorageError("the disk is full"))
    )
    await receiver.fails(StorageError, laden())
    assert (receiver.kept(), receiver.left()) == ({}, [])


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_a_log_that_cannot_be_kept_fails_nothing(receiver: Receiver, logged: Logged) -> None:
    receiver.logs.write_text("no directory")
    await receiver.receive(laden())
    assert receiver.states[-1] == "completed"
    assert [line for line in logged.lines if "installation log" in line]


@pytest.mark.promise("refused-server-is-quarantined")
async def test_a_refused_server_goes_into_quarantine_with_its_backups(receiver: Receiver) -> None:
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    receiver.panel.owned = [False, False]
    await receiver.fails(TransferRevoked, laden())
    assert receiver.left() == [".quarantine"]
    kept = receiver.kept()
    assert sorted(kept.values()) == [b"one", b"two"]
    assert all("/.quarantine/" in path for path in kept)


def begun(receiver: Receiver, step: ReceiveStep) -> None:
    """Leave behind what a daemon does that dies in a step, as late in it as it can."""
    receiver.store.begin(1.0, UUID, Direction.IN, step.name)
    directory = Path(receiver.staging.create(UUID))
    (directory / "world").write_text("whole")
    receiver.received_backups.store(UUID, ONE, [b"one"])
    receiver.received_backups.store(UUID, TWO, [b"two"])
    receiver.staging.log(UUID).write_bytes(b"installed")
    if step in (ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        receiver.staging.swap(UUID)
        receiver.received_backups.place(UUID)


WHOLE = [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT]


@pytest.mark.promise("attached-backups-arrive-whole")
@pytest.mark.parametrize("step", WHOLE)
async def test_backups_are_kept_by_the_next_daemon(receiver: Receiver, step: ReceiveStep) -> None:
    begun(receiver, step)
    await receiver.take_up(clear=True)
    assert receiver.kept() == KEPT
    assert receiver.panel.reported_backups == [(ONE.uuid, TWO.uuid)]
    assert receiver.left() == [UUID]


@pytest.mark.promise("refused-server-is-quarantined")
@pytest.mark.parametrize("step", WHOLE)
async def test_the_next_daemon_puts_a_refused_server_and_its_backups_into_quarantine(
    receiver: Receiver, step: ReceiveStep
) -> None:
    begun(receiver, step)
    receiver.faults["owns"] = ServerNotFound("deleted meanwhile")
    await receiver.take_up(clear=True)
    assert receiver.panel.reported_backups == []
    assert (receiver.left(), receiver.store.unfinished()) == ([".quarantine"], [])
    (files,) = [path.name for path in receiver.staging.quarantine.iterdir()]
    quarantine = receiver.data.with_name(".volumes.staging") / ".quarantine"
    assert (quarantine / files / "world").read_text() == "whole"
    kept = receiver.kept()
    assert sorted(kept.values()) == [b"one", b"two"]
    assert all("/.quarantine/" in path for path in kept)


async def test_the_next_daemon_fails_a_transfer_without_its_backups(receiver: Receiver) -> None:
    begun(receiver, ReceiveStep.DURABLE)
    (entry,) = receiver.store.unfinished()
    receiver.store.enter(2.0, entry.id, ReceiveStep.SWAP.name)
    receiver.faults["owns"] = ServerNotFound("deleted meanwhile")
    await receiver.take_up(clear=True)
    assert (receiver.kept(), receiver.left()) == ({}, [])


@pytest.mark.parametrize("step", [ReceiveStep.RECEIVE, ReceiveStep.VERIFY, ReceiveStep.DURABLE])
async def test_incomplete_attachments_are_cleared(receiver: Receiver, step: ReceiveStep) -> None:
    begun(receiver, step)
    await receiver.take_up(clear=True)
    assert receiver.calls == ["failure"]
    assert (receiver.kept(), receiver.left()) == ({}, [])
