"""Requests that do not come, whose senders leave, or that the node has to give up."""

from __future__ import annotations

from unittest.mock import Mock

import attrs
import pytest
from twisted.internet.defer import gatherResults

from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.requests import Held, Stream, UploadRequests
from wingsd.errors import (
    DaemonStopping,
    StreamMissing,
    TooManyTransfers,
    TransferCancelled,
    Unauthorized,
    UploadTruncated,
)


@pytest.mark.promise("streams-succeed-together")
async def test_a_missing_stream_fails_all(requests: UploadRequests) -> None:
    first, good = Stream("first"), Stream("good")
    jobs = [requests.first(first, "2"), requests.further(good, "1")]
    await until(lambda: "server" in requests.receiver.calls)
    requests.clock.advance(59)
    assert first.answers == []
    requests.clock.advance(1)
    await gatherResults(jobs)
    error = await requests.all_fail(StreamMissing, first, good)
    assert error.detail.startswith("stream 0 did not arrive within 60 s")


async def test_streams_without_a_first_are_reported_once(requests: UploadRequests) -> None:
    streams = [Stream("0"), Stream("1")]
    jobs = [requests.further(stream, name) for name, stream in zip("01", streams, strict=True)]
    await until(requests.clock.getDelayedCalls)
    requests.clock.advance(60)
    await gatherResults(jobs)
    error = await requests.all_fail(StreamMissing, *streams)
    assert error.detail.startswith("the first request, the one with Multiplex-Stream-Count,")
    late = Stream("first")
    await requests.first(late, "2")
    assert isinstance(late.answer, Unauthorized)
    assert requests.receiver.calls.count("failure") == 1


async def test_streams_that_left_early_are_not_reported(requests: UploadRequests) -> None:
    stream = Stream("0")
    requests.further(stream, "0")
    await until(requests.clock.getDelayedCalls)
    stream.go()
    requests.clock.advance(60)
    assert requests.groups._open == {}
    assert requests.receiver.calls == []
    # Its token is as good as before.
    first = Stream("first")
    await requests.first(first)
    assert first.answer is None


async def test_a_stream_that_left_before_the_first_fails_it(requests: UploadRequests) -> None:
    other, first = Stream("0"), Stream("first")
    requests.further(other, "0")
    await until(requests.clock.getDelayedCalls)
    other.go()
    await requests.first(first, "1")
    assert isinstance(first.answer, UploadTruncated)
    assert first.answer.detail.startswith("stream 0: ")
    await requests.settled()
    assert requests.receiver.calls == ["owns", "server", "failure"]


async def test_a_stream_whose_sender_disconnects_fails_all(requests: UploadRequests) -> None:
    first, other = Held("first"), Stream("other")
    job = requests.bring(first, other)
    await until(lambda: first.read and other.read)
    other.go()
    await job
    await requests.all_fail(UploadTruncated, first, other)


@pytest.mark.promise("unexpected-stream-is-refused-alone")
async def test_streams_after_the_transfer_are_refused(requests: UploadRequests) -> None:
    first, other = Stream("first"), Stream("other")
    requests.further(other, "0")
    await requests.first(first, "1")
    assert first.answer is None
    for late in (Stream("0"), Stream("1")):
        await requests.further(late, "0")
        assert isinstance(late.answer, Unauthorized)
    late = Stream("first")
    await requests.first(late, "1")
    assert isinstance(late.answer, Unauthorized)
    await requests.settled()
    assert requests.receiver.calls.count("failure") == 0


async def test_waiting_streams_are_refused_with_the_first(requests: UploadRequests) -> None:
    other, first = Stream("other"), Stream("first")
    requests.further(other, "0")
    transfers = requests.receiver.transfers
    transfers.parts = attrs.evolve(transfers.parts, config=Mock(concurrent=0, waiting=0))
    await requests.first(first, "1")
    assert isinstance(first.answer, TooManyTransfers)
    assert other.answer is first.answer
    assert requests.receiver.calls == []
    assert not await requests.receiver.database.was_used(
        requests.token.digest, requests.token.expires
    )


async def test_a_cancel_ends_all_streams(requests: UploadRequests) -> None:
    first, other = Held("first"), Held("other")
    job = requests.bring(first, other)
    await until(lambda: first.read and other.read)
    requests.receiver.transfers.cancel(UUID)
    await job
    error = await requests.all_fail(TransferCancelled, first, other)
    assert error.detail == "start it again"


async def test_a_node_that_stops_refuses_waiting_streams(requests: UploadRequests) -> None:
    other = Stream("other")
    job = requests.further(other, "0")
    await until(requests.clock.getDelayedCalls)
    requests.groups.stop()
    await job
    assert isinstance(other.answer, DaemonStopping)
    assert requests.clock.getDelayedCalls() == []
