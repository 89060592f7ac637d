"""The step log reports each step and end of a transfer to the observer."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.receiver import DATA, SINGLE, Receiver, Source
from tests.support.sample_server import UUID
from tests.support.step_logs import StepLogHarness
from wingsd.errors import (
    ArchiveError,
    ChecksumMismatch,
    DaemonStopping,
    DestinationDisconnected,
    ServerAlreadyExists,
    StorageError,
    TransferCancelled,
)
from wingsd.transfers.incoming.uploads import UploadTransfer
from wingsd.transfers.steps import ReceiveStep, SendStep


async def test_each_step_is_observed_with_its_duration() -> None:
    harness = StepLogHarness(ReceiveStep)
    await harness.begin()
    harness.clock.advance(1)
    await harness.step_log.enter(ReceiveStep.RECEIVE)
    harness.clock.advance(5000)
    assert (harness.step_log.step, harness.step_log.step_seconds) == ("receive", 5000)
    harness.step_log.advance(ReceiveStep.DONE)
    assert harness.heard.steps == [("admit", 1), ("receive", 5000)]


async def test_waiting_for_a_slot_is_not_counted(receiver: Receiver) -> None:
    now, slots = [0.0], receiver.slots
    for other in "ab":
        await slots.acquire(other)
    outcome = Deferred.fromCoroutine(receiver.receive())
    await until(lambda: slots.waiting)
    (step_log,) = receiver.heard.begun
    step_log.seconds = lambda: now[0]
    now[0] = 1e9
    slots.release("a")
    await outcome
    assert dict(receiver.heard.steps)["receive"] == 0


async def test_the_end_is_observed_with_the_bytes_moved() -> None:
    harness = StepLogHarness(SendStep)
    await harness.begin()
    assert harness.heard.begun == [harness.step_log]
    harness.step_log.count = lambda: 77
    harness.step_log.advance(SendStep.DONE)
    assert harness.heard.over == [("out", None, 77)]


async def test_the_end_is_observed_with_the_error() -> None:
    harness, error = StepLogHarness(ReceiveStep), ArchiveError("cut")
    await harness.begin()
    harness.step_log.fail(error)
    assert harness.heard.over == []
    await harness.step_log.enter_if_open(ReceiveStep.FAILED)
    assert harness.heard.over == [("in", error, 0)]


async def test_a_server_that_has_moved_after_all_is_a_success() -> None:
    harness = StepLogHarness(SendStep)
    await harness.begin()
    harness.step_log.fail(DestinationDisconnected("the line broke", body_sent=True))
    harness.step_log.advance(SendStep.SETTLE)
    harness.step_log.advance(SendStep.DONE)
    assert harness.heard.over == [("out", None, 0)]


def test_a_step_of_an_earlier_daemon_has_no_duration() -> None:
    harness = StepLogHarness(ReceiveStep)
    harness.clock.advance(1000)
    harness.resume(ReceiveStep.SWAP)
    harness.clock.advance(2)
    assert harness.step_log.step_seconds == 2
    harness.step_log.advance(ReceiveStep.ENVIRONMENT)
    harness.clock.advance(3)
    harness.step_log.advance(ReceiveStep.DONE)
    assert harness.heard.steps == [("environment", 3)]
    assert harness.heard.over == [("in", None, 0)]


def test_a_transfer_that_is_being_rolled_back_is_not_active() -> None:
    harness = StepLogHarness(ReceiveStep)
    harness.resume(ReceiveStep.FAILED)
    assert (harness.heard.begun, harness.heard.over) == ([], [])


async def test_a_transfer_that_cannot_be_recorded_has_begun_and_ended() -> None:
    harness, error = StepLogHarness(ReceiveStep), StorageError("the disk is full")
    harness.clock.advance(1_000_000)
    harness.database.refuses = error
    with pytest.raises(StorageError):
        await harness.begin()
    harness.step_log.fail(error)
    await harness.step_log.enter_if_open(ReceiveStep.FAILED)
    assert harness.heard.over == [("in", error, 0)]
    assert harness.heard.steps == [("admit", 0)]


async def test_a_failed_transfer_is_counted_with_its_error(receiver: Receiver) -> None:
    error = await receiver.fails(ChecksumMismatch, Source(checksum="0" * 64))
    assert receiver.heard.over == [("in", error, len(DATA))]


async def test_a_cancelled_transfer_is_counted_as_cancelled(receiver: Receiver) -> None:
    receiver.waits["create"] = Deferred()
    receiver.before["create"] = lambda: receiver.transfers.cancel(UUID)
    error = await receiver.fails(TransferCancelled)
    assert receiver.heard.over == [("in", error, len(DATA))]


async def test_a_transfer_unknown_to_the_panel_is_not_counted(receiver: Receiver) -> None:
    receiver.panel.owned = [True]
    await receiver.fails(ServerAlreadyExists)
    assert (receiver.heard.begun, receiver.heard.over) == ([], [])


async def test_transfers_that_wait_for_a_slot_are_counted(receiver: Receiver) -> None:
    slots = receiver.slots
    for other in "ab":
        await slots.acquire(other)
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    assert receiver.transfers.waiting == 0
    outcome = Deferred.fromCoroutine(transfer.run(Source(), SINGLE))
    await until(lambda: slots.waiting)
    assert receiver.transfers.waiting == 1
    transfer.abort(DaemonStopping())
    with pytest.raises(DaemonStopping):
        await outcome
    assert receiver.transfers.waiting == 0


async def test_an_internal_error_leaves_no_transfer_active(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(
        receiver.storage.logs, "publish", Mock(side_effect=RuntimeError("a mistake"))
    )
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    await transfer.run(Source(), SINGLE)
    await transfer.over
    assert receiver.heard.over == [("in", None, len(DATA))]
    assert receiver.servers.holds == {UUID: ""}
    assert receiver.store.unfinished() == []
    logged.take(RuntimeError)


async def test_an_internal_error_after_the_report_leaves_no_transfer_active(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError("a mistake")

    def mistaken(server: str) -> None:
        finish(server)
        if receiver.store.reports():
            raise error

    finish = receiver.staging.finish
    monkeypatch.setattr(receiver.staging, "finish", mistaken)
    transfer = receiver.transfers.open(UploadTransfer, UUID)
    with pytest.raises(OSError, match="a mistake"):
        await transfer.run(Source(), SINGLE)
    await transfer.over
    assert receiver.heard.over == [("in", error, len(DATA))]
    # The next daemon goes on with it.
    (entry,) = receiver.store.unfinished()
    assert entry.step == "REPORT"
