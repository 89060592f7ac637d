"""Requests that do not come, whose senders leave, or that the node has to give up."""

from __future__ import annotations

import pytest_twisted

from tests.support.sample_server import UUID
from tests.transfers.two_nodes import Held, Stream, Town
from wingsd.errors import DaemonStopping, TransferCancelled, Unauthorized
from wingsd.transfers.errors import StreamMissing, TooManyTransfers, UploadTruncated


@pytest_twisted.ensureDeferred
async def test_one_that_does_not_come_fails_all(town: Town) -> None:
    first, good = Stream("first"), Stream("good")
    jobs = [town.first(first, "2"), town.further(good, "1")]
    await town.until(lambda: "server" in town.house.world.calls)
    town.clock.advance(59)
    assert first.answers == []
    town.clock.advance(1)
    for job in jobs:
        await job
    error = await town.all_fail(StreamMissing, first, good)
    assert error.detail.startswith("stream 0 did not come within 60 s")


@pytest_twisted.ensureDeferred
async def test_without_a_first_they_fail_and_the_panel_is_told_once(town: Town) -> None:
    streams = [Stream("0"), Stream("1")]
    jobs = [town.further(stream, name) for name, stream in zip("01", streams, strict=True)]
    await town.until(town.clock.getDelayedCalls)
    town.clock.advance(60)
    for job in jobs:
        await job
    error = await town.all_fail(StreamMissing, *streams)
    assert error.detail.startswith("the first request, the one with Multiplex-Stream-Count,")
    late = Stream("first")
    await town.first(late, "2")
    assert isinstance(late.answer, Unauthorized)
    assert town.house.world.calls.count("failure") == 1


@pytest_twisted.ensureDeferred
async def test_those_who_left_without_a_first_are_told_of_to_nobody(town: Town) -> None:
    stream = Stream("0")
    town.further(stream, "0")
    await town.until(town.clock.getDelayedCalls)
    stream.go()
    town.clock.advance(60)
    assert town.groups._open == {}
    assert town.house.world.calls == []
    # Its token is as good as before.
    first = Stream("first")
    await town.first(first)
    assert first.answer is None


@pytest_twisted.ensureDeferred
async def test_one_that_left_before_the_first_came_fails_it(town: Town) -> None:
    other, first = Stream("0"), Stream("first")
    town.further(other, "0")
    await town.until(town.clock.getDelayedCalls)
    other.go()
    await town.first(first, "1")
    assert isinstance(first.answer, UploadTruncated)
    assert first.answer.detail.startswith("stream 0: ")
    await town.settled()
    assert town.house.world.calls == ["owns", "server", "failure"]


@pytest_twisted.ensureDeferred
async def test_one_whose_sender_leaves_meanwhile_fails_all(town: Town) -> None:
    first, other = Held("first"), Stream("other")
    jobs = [town.first(first, "1"), town.further(other, "0")]
    await town.until(lambda: first.read and other.read)
    other.go()
    for job in jobs:
        await job
    await town.all_fail(UploadTruncated, first, other)


@pytest_twisted.ensureDeferred
async def test_after_the_transfer_none_is_let_in(town: Town) -> None:
    first, other = Stream("first"), Stream("other")
    town.further(other, "0")
    await town.first(first, "1")
    assert first.answer is None
    for late in (Stream("0"), Stream("1")):
        await town.further(late, "0")
        assert isinstance(late.answer, Unauthorized)
    late = Stream("first")
    await town.first(late, "1")
    assert isinstance(late.answer, Unauthorized)
    await town.settled()
    assert town.house.world.calls.count("failure") == 0


@pytest_twisted.ensureDeferred
async def test_those_who_wait_are_refused_with_the_first(town: Town) -> None:
    other, first = Stream("other"), Stream("first")
    town.further(other, "0")
    town.house.receiver._most = 0
    await town.first(first, "1")
    assert isinstance(first.answer, TooManyTransfers)
    assert other.answer is first.answer
    assert town.house.world.calls == []
    assert not await town.house.journal.was_used(town.token.digest, town.token.expires)


@pytest_twisted.ensureDeferred
async def test_to_cancel_it_ends_all_of_them(town: Town) -> None:
    first, other = Held("first"), Held("other")
    jobs = [town.first(first, "1"), town.further(other, "0")]
    await town.until(lambda: first.read and other.read)
    town.house.receiver.cancel(UUID)
    for job in jobs:
        await job
    error = await town.all_fail(TransferCancelled, first, other)
    assert error.detail == "start it again"


@pytest_twisted.ensureDeferred
async def test_a_node_that_ends_holds_nobody(town: Town) -> None:
    other = Stream("other")
    job = town.further(other, "0")
    await town.until(town.clock.getDelayedCalls)
    town.groups.stop()
    await job
    assert isinstance(other.answer, DaemonStopping)
    assert town.clock.getDelayedCalls() == []
