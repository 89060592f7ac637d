"""One server that comes in several requests: one transfer, one outcome, one use of the token."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
from twisted.internet.defer import gatherResults

from tests.support.reactor import until
from tests.support.sample_server import UUID, sha256
from tests.transfers.requests import Held, Stream, UploadRequests
from wingsd.backups.store import AttachedLog, Backup
from wingsd.errors import (
    BadRequest,
    ChecksumMismatch,
    StorageError,
    StreamMismatch,
    Unauthorized,
    UploadTruncated,
    WingsdError,
)

BACKUP = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", "calagopus")


def names(requests: UploadRequests) -> list[str]:
    return sorted(path.name for path in (requests.receiver.data / UUID / "world").iterdir())


@pytest.mark.parametrize("order", ["f01", "f10", "0f1", "10f"])
async def test_streams_in_any_order_are_one_transfer(requests: UploadRequests, order: str) -> None:
    streams = {name: Stream(name) for name in order}
    streams["f"].bring(AttachedLog(), b"log").bring(BACKUP, b"backup")
    jobs = [
        requests.first(streams[name], "2")
        if name == "f"
        else requests.further(streams[name], name)
        for name in order
    ]
    await gatherResults(jobs)
    assert [stream.answer for stream in streams.values()] == [None] * 3
    await requests.settled()
    receiver = requests.receiver
    assert receiver.calls == ["owns", "server", "create", "success", "sync"]
    assert receiver.panel.reported_backups == [(BACKUP.uuid,)]
    world = receiver.data / UUID / "world"
    assert sorted(path.name for path in world.iterdir()) == sorted(order)
    assert set(receiver.kept()) == {f"{BACKUP.uuid}.tar.gz", f"install/{UUID}.log"}


def wrong() -> Stream:
    return Stream("x", checksum="0" * 64)


def cut() -> Stream:
    return Stream("x", error=UploadTruncated("the upload ended before it was complete", "lost"))


def no_form() -> Stream:
    stream = Stream("x")
    stream.content_type = "text/plain"
    return stream


def laden() -> Stream:
    stream = Stream("x")
    stream.bring(BACKUP, b"backup")
    return stream


def damaged() -> Stream:
    stream = Stream("x")
    stream.data = stream.data[:-5]
    stream.checksum = sha256(stream.data)
    return stream


@pytest.mark.promise("streams-succeed-together")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (wrong, ChecksumMismatch),
        (cut, UploadTruncated),
        (no_form, BadRequest),
        (laden, StreamMismatch),
        (damaged, WingsdError),
    ],
)
async def test_a_failed_stream_fails_all(
    requests: UploadRequests, make: Callable[[], Stream], kind: type[WingsdError]
) -> None:
    first, good, bad = Stream("first"), Stream("good"), make()
    await requests.bring(first, good, bad)
    error = await requests.all_fail(kind, first, good, bad)
    assert error.detail.startswith("stream 1")


async def test_a_failed_first_stream_fails_all(requests: UploadRequests) -> None:
    first, other = wrong(), Stream("other")
    await requests.bring(first, other)
    error = await requests.all_fail(ChecksumMismatch, first, other)
    assert error.detail.startswith("the first request: ")


async def test_a_file_in_two_streams_fails_all(requests: UploadRequests) -> None:
    first, other = Stream("same"), Stream("same")
    await requests.bring(first, other)
    error = await requests.all_fail(WingsdError, first, other)
    assert "comes more than once" in error.detail


@pytest.mark.promise("unexpected-stream-is-refused-alone")
@pytest.mark.parametrize(
    ("number", "count", "reason"),
    [
        ("0", "", "stream 0 was sent twice"),
        ("3", "", "stream 3 is not announced: the first request announces 0 to 1"),
        ("x", "", "expected a number"),
        ("1", "1", "not both"),
    ],
)
async def test_an_unexpected_stream_is_refused_alone(
    requests: UploadRequests, number: str, count: str, reason: str
) -> None:
    first, good, bad, last = (Stream(name) for name in ("first", "good", "bad", "last"))
    jobs = [requests.first(first, "2"), requests.further(good, "0")]
    await requests.further(bad, number, count)
    assert isinstance(bad.answer, StreamMismatch)
    assert reason in bad.answer.detail
    jobs.append(requests.further(last, "1"))
    await gatherResults(jobs)
    assert [each.answer for each in (first, good, last)] == [None] * 3
    assert names(requests) == ["first", "good", "last"]
    assert not bad.read


@pytest.mark.promise("unexpected-stream-is-refused-alone")
async def test_an_unexpected_stream_is_refused_during_the_others(requests: UploadRequests) -> None:
    first, good, again, second = Held("first"), Held("good"), Stream("good"), Stream("first")
    job = requests.bring(first, good)
    await until(lambda: first.read and good.read)
    await requests.further(again, "0")
    await requests.first(second, "1")
    assert isinstance(again.answer, StreamMismatch)
    assert isinstance(second.answer, StreamMismatch)
    assert "the first request was sent twice" in second.answer.detail
    for held in (first, good):
        held.go_on()
    await job
    assert (first.answer, good.answer) == (None, None)
    assert names(requests) == ["first", "good"]


@pytest.mark.promise("unexpected-stream-is-refused-alone")
@pytest.mark.parametrize("number", ["0", "x"])
async def test_a_stream_with_the_token_of_a_single_upload_is_refused(
    requests: UploadRequests, number: str
) -> None:
    first, foreign = Held("first"), Stream("foreign")
    job = requests.first(first)
    await until(lambda: first.read)
    await requests.further(foreign, number)
    assert isinstance(foreign.answer, StreamMismatch)
    first.go_on()
    await job
    assert first.answer is None
    assert names(requests) == ["first"]


async def test_too_many_streams_before_the_first_are_all_refused(requests: UploadRequests) -> None:
    other, first = Stream("other"), Stream("first")
    jobs = [requests.further(other, "5"), requests.first(first, "2")]
    await gatherResults(jobs)
    error = await requests.all_fail(StreamMismatch, first, other)
    assert "stream 5 is not announced: the first request announces 0 to 1" in error.detail


async def test_a_second_single_upload_is_refused_alone(requests: UploadRequests) -> None:
    first, again = Held("first"), Stream("first")
    job = requests.first(first)
    await until(lambda: first.read)
    await requests.first(again)
    assert isinstance(again.answer, Unauthorized)
    first.go_on()
    await job
    assert first.answer is None


@pytest.mark.promise("transfer-token-is-used-once")
async def test_an_upload_with_a_used_token_is_not_read(requests: UploadRequests) -> None:
    receiver, first = requests.receiver, Stream("first")
    receiver.before["server"] = lambda: receiver.database.use_token(
        requests.token.digest, requests.token.expires
    )
    await requests.first(first)
    assert isinstance(first.answer, Unauthorized)
    assert not first.read


@pytest.mark.promise("transfer-token-is-used-once")
async def test_an_upload_is_not_read_if_its_token_cannot_be_recorded(
    requests: UploadRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        requests.receiver.store, "use_token", Mock(side_effect=StorageError("the disk is full"))
    )
    first = Stream("first")
    await requests.first(first)
    assert isinstance(first.answer, StorageError)
    assert not first.read
