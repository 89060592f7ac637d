"""How far a transfer is, in figures."""

from __future__ import annotations

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.sample_server import UUID
from tests.transfers.receiving import ALONE, DATA, House, Source
from wingsd.errors import BadRequest
from wingsd.transfers.console import ProgressMeter
from wingsd.transfers.steps import ReceiveStep


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


@pytest_twisted.ensureDeferred
async def test_a_transfer_tells_what_it_does_and_how_much_has_come(house: House) -> None:
    made: Deferred[None] = Deferred()
    house.world.waits["create"] = made
    source = Source()
    source.size = len(DATA) + 500
    running = Deferred.fromCoroutine(house.receiver.open(UUID).run(source, ALONE))
    while "create" not in house.world.calls:
        await house.passes()
    (now,) = house.receiver.progress
    assert (now.server, now.step) == (UUID, ReceiveStep.ENVIRONMENT)
    assert now.step_text == "configuring the environment"
    assert (now.bytes, now.total, now.is_direct) == (len(DATA), len(DATA) + 500, False)
    assert now.rate > 0
    (entry,) = house.store.unfinished()
    assert now.entry == entry.id
    made.callback(None)
    await running
    assert house.receiver.progress == []


@pytest_twisted.ensureDeferred
async def test_how_it_ended_is_in_the_journal(house: House) -> None:
    house.world.owned = [False, False]
    await house.fails(BadRequest, Source(checksum="0" * 64))
    await house.receiver.open(UUID).run(Source(), ALONE)
    success, failure = house.store.ended(2)
    assert "checksum-mismatch" in failure.reason
    assert (failure.bytes, failure.files) == (None, None)
    assert (success.reason, success.bytes, success.files) == ("", len(DATA), 2)
