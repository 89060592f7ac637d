"""Incoming transfers that are given up, cancelled, deleted, or left by their sender."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.sample_server import UUID
from tests.transfers.receiving import ALONE, House, Source, reactor
from wingsd.errors import (
    Conflict,
    DaemonStopping,
    EnvironmentFailed,
    ServerAlreadyExists,
    TransferCancelled,
)
from wingsd.panel.errors import PanelUnreachable
from wingsd.transfers.errors import TooManyTransfers, UploadTruncated
from wingsd.transfers.incoming.transfer import IncomingTransfer
from wingsd.transfers.steps import ReceiveStep

# Giving up


def give_up_at(house: House, call: str) -> IncomingTransfer:
    transfer = house.receiver.open(UUID)
    house.world.before[call] = lambda: transfer.abort(DaemonStopping())
    return transfer


@pytest_twisted.ensureDeferred
async def test_before_the_archive_nothing_is_received_any_more(house: House) -> None:
    with pytest.raises(DaemonStopping):
        await give_up_at(house, "server").run(Source(), ALONE)
    assert house.world.calls == ["owns", "server", "failure"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_after_the_verification_it_goes_on(house: House) -> None:
    source = Source()
    await give_up_at(house, "create").run(source, ALONE)
    assert house.world.calls[-2:] == ["success", "sync"]
    assert source.stopped == []


@pytest_twisted.ensureDeferred
async def test_a_receiver_that_stops_waits_and_takes_nothing_new(house: House) -> None:
    transfer = house.receiver.open(UUID)
    stopped: list[Deferred[object]] = []
    house.world.before["create"] = lambda: stopped.append(house.receiver.stop())
    await transfer.run(Source(), ALONE)
    await stopped[0]
    with pytest.raises(DaemonStopping):
        house.receiver.open(UUID)


@pytest_twisted.ensureDeferred
async def test_who_waits_for_a_slot_can_be_given_up(house: House) -> None:
    slots = house.slots
    for _ in range(2):
        await slots.acquire()
    transfer = house.receiver.open(UUID)
    outcome = Deferred.fromCoroutine(transfer.run(Source(), ALONE))
    transfer.abort(DaemonStopping())
    with pytest.raises(DaemonStopping):
        await outcome
    assert house.world.calls[-1] == "failure"
    assert slots.waiting == []


@pytest_twisted.ensureDeferred
async def test_more_servers_than_there_are_places_for_are_sent_away(house: House) -> None:
    others = [f"{number}{UUID[1:]}" for number in range(4)]
    for server in others[:3]:
        house.receiver.open(server)
    with pytest.raises(TooManyTransfers) as caught:
        house.receiver.open(others[3])
    assert (caught.value.status, caught.value.retry_after) == (503, 60)
    assert list(house.receiver.servers) == others[:3]


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_whole_takes_nobodys_place(house: House) -> None:
    house.world.waits["create"] = Deferred()
    others = [f"{number}{UUID[1:]}" for number in range(3)]
    transfer = house.receiver.open(UUID)
    made: Deferred[None] = Deferred()
    house.world.before["create"] = lambda: reactor.callLater(0, made.callback, None)
    outcome = Deferred.fromCoroutine(transfer.run(Source(), ALONE))
    await made
    for server in others:
        house.receiver.open(server)
    with pytest.raises(TooManyTransfers):
        house.receiver.open(f"9{UUID[1:]}")
    house.world.waits["create"].callback(None)
    await outcome


@pytest_twisted.ensureDeferred
async def test_an_engine_that_hangs_is_given_up_at_the_very_end(house: House) -> None:
    house.world.waits["create"] = Deferred()
    transfer = house.receiver.open(UUID)
    outcome = Deferred.fromCoroutine(transfer.run(Source(), ALONE))
    made: Deferred[None] = Deferred()
    # Not at once: the engine answers in a later turn of the reactor, if it does.
    house.world.before["create"] = lambda: reactor.callLater(0, made.callback, None)
    await made
    transfer.abort(DaemonStopping())
    assert not outcome.called
    house.receiver.abort_all()
    with pytest.raises(DaemonStopping):
        await outcome
    await transfer.over
    assert house.world.calls[-2:] == ["failure", "remove"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_an_idle_receiver_stops_at_once(house: House) -> None:
    await house.receiver.stop()


def test_one_server_has_one_transfer(house: House) -> None:
    house.receiver.open(UUID)
    with pytest.raises(ServerAlreadyExists, match="already being received") as caught:
        house.receiver.open(UUID)
    assert caught.value.detail == (
        "the transfer under way began 0 s ago and is waiting for the archive; if its sender is "
        "gone, it ends after 120 s of silence: send the server again then"
    )


@pytest_twisted.ensureDeferred
async def test_one_that_has_come_is_only_to_be_waited_for(house: House) -> None:
    refused: list[ServerAlreadyExists] = []

    def next_one() -> None:
        with pytest.raises(ServerAlreadyExists) as caught:
            house.receiver.open(UUID)
        refused.append(caught.value)

    house.world.before["success"] = next_one
    await house.receiver.open(UUID).run(Source(), ALONE)
    assert refused[0].detail == (
        "the transfer under way began 0 s ago and is reporting to the Panel; wait for it to end"
    )


@pytest_twisted.ensureDeferred
async def test_the_next_attempt_waits_until_the_last_one_is_tidied_up(house: House) -> None:
    hanging: Deferred[None] = Deferred()
    house.world.waits["remove"] = hanging
    house.world.faults["create"] = EnvironmentFailed("no image")
    with pytest.raises(EnvironmentFailed):
        await house.receiver.open(UUID).run(Source(), ALONE)
    del house.world.faults["create"]
    house.world.owned = [False]
    second = Deferred.fromCoroutine(house.receiver.open(UUID).run(Source(), ALONE))
    assert house.world.calls.count("owns") == 1
    with pytest.raises(ServerAlreadyExists):
        house.receiver.open(UUID)
    hanging.callback(None)
    await second
    assert (house.states[-1], house.left()) == ("completed", [UUID])
    assert list(house.receiver.servers) == []


# Cancelling, and a sender that goes


@pytest.mark.parametrize("call", ["server", "create"])
@pytest_twisted.ensureDeferred
async def test_a_cancelled_transfer_leaves_nothing_and_is_told_once(
    house: House, call: str
) -> None:
    house.world.before[call] = lambda: house.receiver.cancel(UUID)
    if call == "create":
        house.world.waits["create"] = Deferred()
        house.world.before[call] = lambda: reactor.callLater(0, house.receiver.cancel, UUID)
    await house.fails(TransferCancelled)
    assert house.world.calls.count("failure") == 1
    assert (house.world.registered, house.left()) == ({}, [])


@pytest_twisted.ensureDeferred
async def test_after_success_may_have_been_told_there_is_no_cancel(house: House) -> None:
    refused: list[Conflict] = []

    def cancel() -> None:
        with pytest.raises(Conflict) as caught:
            house.receiver.cancel(UUID)
        refused.append(caught.value)

    house.world.before["success"] = cancel
    await house.receiver.open(UUID).run(Source(), ALONE)
    assert refused[0].message == "Server is not currently being transferred."
    assert house.states[-1] == "completed"


def test_what_is_not_received_cannot_be_cancelled(house: House) -> None:
    with pytest.raises(Conflict):
        house.receiver.cancel(UUID)


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_deleted_is_received_no_further(house: House) -> None:
    await house.receiver.release(UUID)
    released: list[Deferred[None]] = []
    house.world.waits["create"] = Deferred()

    def release() -> None:
        released.append(Deferred.fromCoroutine(house.receiver.release(UUID)))

    house.world.before["create"] = lambda: reactor.callLater(0, release)
    await house.fails(TransferCancelled)
    await released[0]
    assert (house.world.registered, house.left()) == ({}, [])


@pytest_twisted.ensureDeferred
async def test_a_sender_that_goes_before_its_answer_keeps_its_server(house: House) -> None:
    source = Source()
    house.world.waits["create"] = Deferred()
    house.world.before["create"] = lambda: reactor.callLater(0, source.go)
    await house.fails(UploadTruncated, source)
    assert house.world.calls[-2:] == ["failure", "remove"]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_a_sender_that_goes_once_success_may_be_told_changes_nothing(house: House) -> None:
    source = Source()
    house.world.before["success"] = source.go
    await house.receiver.open(UUID).run(source, ALONE)
    assert (house.states[-1], house.left()) == ("completed", [UUID])


@pytest_twisted.ensureDeferred
async def test_the_console_tells_what_goes_on(house: House) -> None:
    await house.receiver.open(UUID).run(Source(), ALONE)
    said = [line.partition("[Destination Node]:\x1b[0m ")[2] for line in house.lines]
    assert said == [step.text for step in ReceiveStep if step is not ReceiveStep.FAILED]


@pytest_twisted.ensureDeferred
async def test_new_settings_that_are_not_to_be_had_do_not_undo_it(house: House) -> None:
    house.world.faults["sync"] = PanelUnreachable("down", "x")
    await house.receiver.open(UUID).run(Source(), ALONE)
    assert (house.states[-1], house.left()) == ("completed", [UUID])
