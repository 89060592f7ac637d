"""How far a transfer is, in figures."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.reactor import until
from tests.support.receiver import DATA, Receiver, Source
from tests.support.sample_server import UUID
from wingsd.errors import BadRequest
from wingsd.transfers.steps import ProgressMeter, ReceiveStep


def test_a_meter_counts_from_its_start_to_its_stop() -> None:
    clock, counted = Clock(), [0]
    meter = ProgressMeter(clock.seconds, lambda: counted[0])
    assert (meter.done, meter.seconds, meter.rate) == (0, 0.0, 0.0)
    clock.advance(5)
    meter.start()
    counted[0] += 300
    clock.advance(3)
    assert (meter.seconds, meter.rate) == (3.0, 100.0)
    meter.stop()
    clock.advance(60)
    assert (meter.seconds, meter.rate) == (3.0, 100.0)


def test_what_was_there_counts_for_how_far_it_is_and_not_for_the_rate() -> None:
    clock, counted = Clock(), [0]
    meter = ProgressMeter(clock.seconds, lambda: counted[0])
    assert meter.pace(100) == ""
    meter.start()
    clock.advance(5)
    counted[0] = 1 << 30
    meter.skip()
    assert meter.pace(2 << 30) == ""
    clock.advance(10)
    counted[0] += 20 << 20
    assert (meter.rate, meter.done) == (2 << 20, (1 << 30) + (20 << 20))
    assert meter.pace(2 << 30) == ", 2.0 MiB/s, 8 min left"
    assert meter.pace(0) == ", 2.0 MiB/s"


def test_what_is_there_at_the_start_or_passed_over_later_does_not_count_for_the_rate() -> None:
    clock, counted = Clock(), [1 << 30]
    meter = ProgressMeter(clock.seconds, lambda: counted[0])
    meter.start()
    clock.advance(1)
    assert meter.rate == 0
    counted[0] = 0  # it is read again, and a gigabyte of it is there
    meter.skip(1 << 30)
    clock.advance(1)
    counted[0] = 1 << 29
    assert meter.rate == 0
    clock.advance(1)
    counted[0] = (1 << 30) + (10 << 20)
    assert meter.rate == 5 << 20


async def test_a_transfer_shows_its_step_and_bytes_received(receiver: Receiver) -> None:
    made: Deferred[None] = Deferred()
    receiver.waits["create"] = made
    source = Source()
    source.size = len(DATA) + 500
    running = Deferred.fromCoroutine(receiver.receive(source))
    await until(lambda: not "create" not in receiver.calls)
    (now,) = receiver.transfers.progress
    assert (now.server, now.step) == (UUID, ReceiveStep.ENVIRONMENT)
    assert now.step_text == "configuring the environment"
    assert (now.bytes, now.total, now.is_direct) == (len(DATA), len(DATA) + 500, False)
    assert now.rate > 0
    (entry,) = receiver.store.unfinished()
    assert now.entry == entry.id
    made.callback(None)
    await running
    assert receiver.transfers.progress == []


async def test_the_outcome_is_in_the_database(receiver: Receiver) -> None:
    receiver.panel.owned = [False, False]
    await receiver.fails(BadRequest, Source(checksum="0" * 64))
    await receiver.receive()
    success, failure = receiver.store.ended(2)
    assert "checksum-mismatch" in failure.reason
    assert (failure.bytes, failure.files) == (None, None)
    assert (success.reason, success.bytes, success.files) == ("", len(DATA), 2)
