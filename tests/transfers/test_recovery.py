"""What is written down of an incoming transfer, and what the next daemon makes of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.support.sample_server import UUID
from tests.transfers.receiving import ALONE, JOURNALED, House, Source, reactor
from wingsd.errors import EnvironmentFailed, ServerNotFound, StorageError
from wingsd.panel.errors import PanelRefused
from wingsd.statedb import Direction, Outcome, Report, TransferRecord
from wingsd.transfers.errors import TransferRevoked
from wingsd.transfers.recovery import clear_leftovers, durable
from wingsd.transfers.steps import ReceiveStep

# The journal


@pytest.mark.parametrize("step", [step for step in ReceiveStep if step.name in JOURNALED])
@pytest_twisted.ensureDeferred
async def test_a_journal_that_cannot_be_written_fails_the_transfer_and_loses_nothing(
    house: House, step: ReceiveStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = house.store.enter

    def full(now: float, transfer: int, name: str) -> None:
        if name == step.name:
            raise StorageError("the disk is full")
        write(now, transfer, name)

    monkeypatch.setattr(house.store, "enter", full)
    await house.fails(StorageError)
    assert "success" not in house.world.calls
    assert house.world.calls.count("failure") == 1
    assert (house.left(), house.world.registered) == ([], {})
    assert house.store.unfinished() == []


@pytest_twisted.ensureDeferred
async def test_without_a_journal_nothing_begins(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, direct: bool) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(house.store, "begin", full)
    source = Source()
    await house.fails(StorageError, source)
    assert (house.left(), house.world.registered) == ([], {})


@pytest_twisted.ensureDeferred
async def test_a_success_that_cannot_be_written_down_is_not_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = house.store.add_report

    def full(now: float, server: str, outcome: Outcome, backups: object) -> Report:
        if outcome is Outcome.SUCCESS:
            raise StorageError("the disk is full")
        return add(now, server, outcome)

    monkeypatch.setattr(house.store, "add_report", full)
    await house.fails(StorageError)
    assert "success" not in house.world.calls
    assert house.left() == []


# After a restart


async def resumed(house: House, step: ReceiveStep, begun: float = 1.0) -> None:
    """Take up, as the next daemon does, a transfer that had come so far."""
    entry = house.store.begin(begun, UUID, Direction.IN, step.name)
    directory = Path(house.staging.create(UUID))
    (directory / "world").write_text("whole")
    if step in (ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        house.staging.swap(UUID)
    (found,) = house.store.unfinished()
    assert found.id == entry
    house.receiver.resume(found)
    while house.receiver.servers:
        await deferLater(reactor, 0.005)


@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
@pytest_twisted.ensureDeferred
async def test_what_was_whole_goes_on_where_it_stood(house: House, step: ReceiveStep) -> None:
    await resumed(house, step)
    made = ["create"] if step is not ReceiveStep.REPORT else []
    assert house.world.calls == ["owns", "server", *made, "success", "sync"]
    assert (house.data / UUID / "world").read_text() == "whole"
    assert house.states[-1] == "completed"
    assert house.store.unfinished() == []


@pytest.mark.parametrize("ahead", [365 * 24 * 3600.0, -365 * 24 * 3600.0])
@pytest_twisted.ensureDeferred
async def test_so_it_does_when_the_clock_was_set_meanwhile(house: House, ahead: float) -> None:
    begun = time.time() + ahead
    await resumed(house, ReceiveStep.SWAP, begun)
    assert house.world.calls == ["owns", "server", "create", "success", "sync"]
    assert house.states[-1] == "completed"
    (entry,) = house.store.transfers()
    assert (entry.begun, entry.outcome) == (begun, Outcome.SUCCESS)


@pytest.mark.parametrize("step", [ReceiveStep.RECEIVE, ReceiveStep.VERIFY, ReceiveStep.DURABLE])
@pytest_twisted.ensureDeferred
async def test_what_was_not_whole_is_told_to_have_failed(house: House, step: ReceiveStep) -> None:
    await resumed(house, step)
    assert house.world.calls == ["failure"]
    assert house.states[-1] == "failure"
    assert house.store.unfinished() == []


@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT])
@pytest_twisted.ensureDeferred
async def test_what_was_undone_already_is_no_success(house: House, step: ReceiveStep) -> None:
    house.store.begin(1.0, UUID, Direction.IN, step.name)
    (entry,) = house.store.unfinished()
    house.receiver.resume(entry)
    while house.receiver.servers:
        await deferLater(reactor, 0.005)
    assert "success" not in house.world.calls
    # It may have been killed before the container was removed as well.
    assert ("remove" in house.world.calls) is (step is ReceiveStep.ENVIRONMENT)
    assert (house.left(), house.store.unfinished()) == ([], [])


@pytest.mark.parametrize("step", [ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
@pytest_twisted.ensureDeferred
async def test_with_what_was_whole_and_is_not_wanted_its_container_goes(
    house: House, step: ReceiveStep
) -> None:
    house.world.faults["owns"] = ServerNotFound("deleted meanwhile")
    await resumed(house, step)
    assert house.world.calls == ["owns", "failure", "remove"]


@pytest_twisted.ensureDeferred
async def test_what_is_left_of_a_failure_is_removed_by_the_next_daemon(house: House) -> None:
    house.world.faults["create"] = EnvironmentFailed("the engine gave no answer in time")
    house.world.waits["remove"] = Deferred()
    transfer = house.receiver.open(UUID)
    with pytest.raises(EnvironmentFailed):
        await transfer.run(Source(), ALONE)
    while "remove" not in house.world.calls:
        await deferLater(reactor, 0.005)
    # The daemon ends here, before its engine has removed what may have been made.
    (entry,) = house.store.unfinished()
    assert (entry.step, durable([entry])) == ("FAILED", set())
    house.world.calls.clear()
    house.world.waits.clear()
    house.receiver.resume(entry)
    while house.receiver.servers:
        await deferLater(reactor, 0.005)
    # The Panel has heard of it, and may have begun another transfer since.
    assert house.world.calls == ["remove"]
    assert house.store.unfinished() == []
    assert house.store.transfers()[0].outcome is Outcome.FAILURE


@pytest_twisted.ensureDeferred
async def test_what_the_panel_had_heard_is_not_told_twice_over(house: House) -> None:
    house.world.owned = [True, True]
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await resumed(house, ReceiveStep.REPORT)
    assert house.world.calls == ["owns", "server", "success", "owns", "sync"]
    assert house.left() == [UUID]


@pytest_twisted.ensureDeferred
async def test_what_the_panel_does_not_want_any_more_is_kept_apart(house: House) -> None:
    house.world.owned = [False, False]
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await resumed(house, ReceiveStep.SWAP)
    assert house.left() == [".quarantine"]


@pytest_twisted.ensureDeferred
async def test_what_was_set_aside_and_put_back_is_no_server_of_the_transfer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = house.data / UUID / "precious"
    precious.parent.mkdir()
    precious.touch()
    house.world.faults["create"] = EnvironmentFailed("no engine")

    def die(now: float, transfer: int, name: str) -> None:
        if name == "FAILED":
            raise StorageError("the daemon is killed here")
        enter(1.0, transfer, name)

    enter = house.store.enter
    monkeypatch.setattr(house.store, "enter", die)
    monkeypatch.setattr(house.store, "end", lambda *_: None)
    await house.fails(EnvironmentFailed)
    assert precious.exists()
    monkeypatch.undo()
    (entry,) = house.store.unfinished()
    assert entry.step == "ENVIRONMENT"

    del house.world.faults["create"]
    house.world.calls.clear()
    house.world.owned = [False]
    clear_leftovers([entry], house.staging, house.backups)
    house.receiver.resume(entry)
    while house.receiver.servers:
        await deferLater(reactor, 0.005)
    assert "success" not in house.world.calls
    assert precious.exists()
    assert (house.left(), house.store.unfinished()) == ([UUID], [])


@pytest_twisted.ensureDeferred
async def test_what_was_set_aside_is_put_back_when_the_panel_does_not_want_the_server(
    house: House,
) -> None:
    precious = house.data / UUID / "precious"
    precious.parent.mkdir()
    precious.touch()
    house.world.owned = [False, False]
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await house.fails(TransferRevoked)
    assert precious.exists()
    assert house.left() == [".quarantine", UUID]


def test_what_is_whole_is_told_by_its_step() -> None:
    steps = [*ReceiveStep]
    entries = [
        TransferRecord(number, step.name, Direction.IN, step.name, 0, 0)
        for number, step in enumerate(steps)
    ]
    entries.append(TransferRecord(99, "sent", Direction.OUT, "SEND", 0, 0))
    assert durable(entries) == {"SWAP", "ENVIRONMENT", "REPORT"}
