"""What is written down of an incoming transfer, and what the next daemon makes of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from tests.support.reactor import until
from tests.support.receiver import RECORDED, Receiver, Source
from tests.support.sample_server import UUID
from wingsd.errors import (
    EnvironmentFailed,
    PanelRefused,
    ServerNotFound,
    StorageError,
    TransferRevoked,
)
from wingsd.statedb import Direction, MoveRecord, Outcome, Report, TransferRecord
from wingsd.transfers.recovery import durable, open_moves
from wingsd.transfers.steps import ReceiveStep


@pytest.mark.promise("unwritable-database-fails-safely")
@pytest.mark.parametrize("step", [step for step in ReceiveStep if step.name in RECORDED])
async def test_a_failed_write_to_the_database_fails_the_transfer_and_loses_nothing(
    receiver: Receiver, step: ReceiveStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = receiver.store.enter

    def full(now: float, transfer: int, name: str) -> None:
        if name == step.name:
            raise StorageError("the disk is full")
        write(now, transfer, name)

    monkeypatch.setattr(receiver.store, "enter", full)
    await receiver.fails(StorageError)
    assert "success" not in receiver.calls
    assert receiver.calls.count("failure") == 1
    assert (receiver.left(), receiver.servers.holds) == ([], {})
    assert receiver.store.unfinished() == []


async def test_none_begins_without_a_record(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        receiver.store, "begin", Mock(side_effect=StorageError("the disk is full"))
    )
    source = Source()
    await receiver.fails(StorageError, source)
    assert (receiver.left(), receiver.servers.holds) == ([], {})


async def test_a_success_that_cannot_be_recorded_is_not_reported(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = receiver.store.add_report

    def full(now: float, server: str, outcome: Outcome, *given: Any) -> Report:
        if outcome is Outcome.SUCCESS:
            raise StorageError("the disk is full")
        return add(now, server, outcome, *given)

    monkeypatch.setattr(receiver.store, "add_report", full)
    await receiver.fails(StorageError)
    assert "success" not in receiver.calls
    assert receiver.left() == []


async def resumed(receiver: Receiver, step: ReceiveStep, begun: float = 1.0) -> None:
    """Take up, as the next daemon does, a transfer that had come so far."""
    receiver.store.begin(begun, UUID, Direction.IN, step.name)
    directory = Path(receiver.staging.create(UUID))
    (directory / "world").write_text("whole")
    if step in (ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        receiver.staging.swap(UUID)
    await receiver.take_up()


@pytest.mark.promise("destination-completes-or-rolls-back")
@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
async def test_a_complete_server_continues(receiver: Receiver, step: ReceiveStep) -> None:
    await resumed(receiver, step)
    made = ["create"] if step is not ReceiveStep.REPORT else []
    assert receiver.calls == ["owns", "server", *made, "success", "sync"]
    assert (receiver.data / UUID / "world").read_text() == "whole"
    assert receiver.states[-1] == "completed"
    assert receiver.store.unfinished() == []


@pytest.mark.promise("clock-steps-do-no-harm")
@pytest.mark.parametrize("ahead", [365 * 24 * 3600.0, -365 * 24 * 3600.0])
async def test_a_clock_step_does_not_stop_a_recovery(receiver: Receiver, ahead: float) -> None:
    begun = time.time() + ahead
    await resumed(receiver, ReceiveStep.SWAP, begun)
    assert receiver.calls == ["owns", "server", "create", "success", "sync"]
    assert receiver.states[-1] == "completed"
    (entry,) = receiver.store.transfers()
    assert (entry.begun, entry.outcome) == (begun, Outcome.SUCCESS)


@pytest.mark.promise("destination-completes-or-rolls-back")
@pytest.mark.parametrize("step", [ReceiveStep.RECEIVE, ReceiveStep.VERIFY, ReceiveStep.DURABLE])
async def test_an_incomplete_server_is_a_failure(receiver: Receiver, step: ReceiveStep) -> None:
    await resumed(receiver, step)
    assert receiver.calls == ["failure"]
    assert receiver.states[-1] == "failure"
    assert receiver.store.unfinished() == []


@pytest.mark.promise("destination-completes-or-rolls-back")
@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT])
async def test_a_rolled_back_transfer_has_failed(receiver: Receiver, step: ReceiveStep) -> None:
    receiver.store.begin(1.0, UUID, Direction.IN, step.name)
    await receiver.take_up()
    assert "success" not in receiver.calls
    # It may have been killed before the container was removed as well.
    assert ("remove" in receiver.calls) is (step is ReceiveStep.ENVIRONMENT)
    assert (receiver.left(), receiver.store.unfinished()) == ([], [])


@pytest.mark.promise("destination-completes-or-rolls-back")
@pytest.mark.parametrize("step", [ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
async def test_a_refused_container_is_removed(receiver: Receiver, step: ReceiveStep) -> None:
    receiver.faults["owns"] = ServerNotFound("deleted meanwhile")
    await resumed(receiver, step)
    assert receiver.calls == ["owns", "failure", "remove"]


@pytest.mark.promise("destination-completes-or-rolls-back")
async def test_leftovers_of_a_failure_are_removed_by_the_next_daemon(receiver: Receiver) -> None:
    receiver.faults["create"] = EnvironmentFailed("the engine gave no answer in time")
    receiver.waits["remove"] = Deferred()
    with pytest.raises(EnvironmentFailed):
        await receiver.receive()
    await until(lambda: "remove" in receiver.calls)
    # The daemon ends here, before its engine has removed what may have been made.
    (entry,) = receiver.store.unfinished()
    assert (entry.step, durable([entry])) == ("FAILED", set())
    receiver.calls.clear()
    receiver.waits.clear()
    await receiver.take_up()
    # The Panel has heard of it, and may have begun another transfer since.
    assert receiver.calls == ["remove"]
    assert receiver.store.unfinished() == []
    assert receiver.store.transfers()[0].outcome is Outcome.FAILURE


async def test_a_settled_report_is_not_sent_again(receiver: Receiver) -> None:
    receiver.panel.owned = [True, True]
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await resumed(receiver, ReceiveStep.REPORT)
    assert receiver.calls == ["owns", "server", "success", "owns", "sync"]
    assert receiver.left() == [UUID]


async def test_a_server_refused_after_a_restart_goes_into_quarantine(receiver: Receiver) -> None:
    receiver.panel.owned = [False, False]
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await resumed(receiver, ReceiveStep.SWAP)
    assert receiver.left() == [".quarantine"]


@pytest.mark.promise("destination-completes-or-rolls-back")
async def test_a_restored_directory_is_not_taken_for_the_received_server(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = receiver.data / UUID / "precious"
    precious.parent.mkdir()
    precious.touch()
    receiver.faults["create"] = EnvironmentFailed("no engine")

    def die(now: float, transfer: int, name: str) -> None:
        if name == "FAILED":
            raise StorageError("the daemon is killed here")
        enter(1.0, transfer, name)

    enter = receiver.store.enter
    monkeypatch.setattr(receiver.store, "enter", die)
    monkeypatch.setattr(receiver.store, "end", lambda *_: None)
    await receiver.fails(EnvironmentFailed)
    assert precious.exists()
    monkeypatch.undo()
    (entry,) = receiver.store.unfinished()
    assert entry.step == "ENVIRONMENT"

    del receiver.faults["create"]
    receiver.calls.clear()
    receiver.panel.owned = [False]
    await receiver.take_up(clear=True)
    assert "success" not in receiver.calls
    assert precious.exists()
    assert (receiver.left(), receiver.store.unfinished()) == ([UUID], [])


@pytest.mark.promise("destination-completes-or-rolls-back")
async def test_a_directory_set_aside_is_restored_after_a_refusal(receiver: Receiver) -> None:
    precious = receiver.data / UUID / "precious"
    precious.parent.mkdir()
    precious.touch()
    receiver.panel.owned = [False, False]
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await receiver.fails(TransferRevoked)
    assert precious.exists()
    assert receiver.left() == [".quarantine", UUID]


def test_a_complete_server_is_recognized_by_its_step() -> None:
    steps = [*ReceiveStep]
    entries = [
        TransferRecord(number, step.name, Direction.IN, step.name, 0, 0)
        for number, step in enumerate(steps)
    ]
    entries.append(TransferRecord(99, "sent", Direction.OUT, "SEND", 0, 0))
    assert durable(entries) == {"SWAP", "ENVIRONMENT", "REPORT"}


def test_a_step_that_is_unknown_here_does_not_stop_a_start() -> None:
    entries = [TransferRecord(1, UUID, Direction.IN, "LATER", 0, 0)]
    moves = [MoveRecord(1, UUID, Direction.IN, "m", "k", "t", "")]
    assert (durable(entries), open_moves(entries, moves)) == (set(), {})
