"""One server that comes in several requests: one transfer, one outcome, one use of the token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from tests.support.sample_server import UUID, sha256
from tests.transfers.receiving import reactor
from tests.transfers.two_nodes import Held, Stream, Town
from wingsd.backups.attachments import Backup, InstallLog
from wingsd.errors import BadRequest, StorageError, Unauthorized, WingsdError
from wingsd.transfers.errors import ChecksumMismatch, StreamMismatch, UploadTruncated

BACKUP = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", "calagopus")


def names(town: Town) -> list[str]:
    """Return the files that came."""
    return sorted(path.name for path in (town.house.data / UUID / "world").iterdir())


@pytest.mark.parametrize("order", ["f01", "f10", "0f1", "10f"])
@pytest_twisted.ensureDeferred
async def test_they_are_one_transfer_in_whichever_order_they_come(town: Town, order: str) -> None:
    streams = {name: Stream(name) for name in order}
    streams["f"].bring(InstallLog(), b"log").bring(BACKUP, b"backup")
    jobs = [
        town.first(streams[name], "2") if name == "f" else town.further(streams[name], name)
        for name in order
    ]
    for job in jobs:
        await job
    assert [stream.answer for stream in streams.values()] == [None] * 3
    await town.settled()
    house = town.house
    assert house.world.calls == ["owns", "server", "create", "success", "sync"]
    assert house.world.told == [(BACKUP.uuid,)]
    world = house.data / UUID / "world"
    assert sorted(path.name for path in world.iterdir()) == sorted(order)
    assert set(house.kept()) == {f"{BACKUP.uuid}.tar.gz", f"install/{UUID}.log"}


@pytest_twisted.ensureDeferred
async def test_nothing_is_read_before_all_are_here(town: Town) -> None:
    first, other = Stream("first"), Stream("other")
    job = town.first(first, "1")
    await town.until(lambda: "server" in town.house.world.calls)
    await deferLater(reactor, 0.05)
    assert not first.read
    assert not await town.house.journal.was_used(town.token.digest, town.token.expires)
    town.further(other, "0")
    await job
    assert (first.answer, other.answer) == (None, None)


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
@pytest_twisted.ensureDeferred
async def test_one_that_fails_fails_all_of_them(
    town: Town, make: Callable[[], Stream], kind: type[WingsdError]
) -> None:
    first, good, bad = Stream("first"), Stream("good"), make()
    jobs = [town.first(first, "2"), town.further(good, "0"), town.further(bad, "1")]
    for job in jobs:
        await job
    error = await town.all_fail(kind, first, good, bad)
    assert error.detail.startswith("stream 1")


@pytest_twisted.ensureDeferred
async def test_so_does_the_first(town: Town) -> None:
    first, other = wrong(), Stream("other")
    jobs = [town.first(first, "1"), town.further(other, "0")]
    for job in jobs:
        await job
    error = await town.all_fail(ChecksumMismatch, first, other)
    assert error.detail.startswith("the first request: ")


@pytest_twisted.ensureDeferred
async def test_a_file_in_two_of_them_fails_all(town: Town) -> None:
    first, other = Stream("same"), Stream("same")
    jobs = [town.first(first, "1"), town.further(other, "0")]
    for job in jobs:
        await job
    error = await town.all_fail(WingsdError, first, other)
    assert "comes more than once" in error.detail


@pytest.mark.parametrize(
    ("number", "count", "reason"),
    [
        ("0", "", "stream 0 came twice"),
        ("3", "", "stream 3 came, and the first request tells of 0 to 1"),
        ("x", "", "expected a number"),
        ("1", "1", "not both"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_one_that_is_none_of_them_is_refused_alone(
    town: Town, number: str, count: str, reason: str
) -> None:
    first, good, bad, last = (Stream(name) for name in ("first", "good", "bad", "last"))
    jobs = [town.first(first, "2"), town.further(good, "0")]
    await town.further(bad, number, count)
    assert isinstance(bad.answer, StreamMismatch)
    assert reason in bad.answer.detail
    jobs.append(town.further(last, "1"))
    for job in jobs:
        await job
    assert [each.answer for each in (first, good, last)] == [None] * 3
    assert names(town) == ["first", "good", "last"]
    assert not bad.read


@pytest_twisted.ensureDeferred
async def test_so_is_one_while_the_others_are_read(town: Town) -> None:
    first, good, again, second = Held("first"), Held("good"), Stream("good"), Stream("first")
    jobs = [town.first(first, "1"), town.further(good, "0")]
    await town.until(lambda: first.read and good.read)
    await town.further(again, "0")
    await town.first(second, "1")
    assert isinstance(again.answer, StreamMismatch)
    assert isinstance(second.answer, StreamMismatch)
    assert "the first request came twice" in second.answer.detail
    for held in (first, good):
        held.go_on()
    for job in jobs:
        await job
    assert (first.answer, good.answer) == (None, None)
    assert names(town) == ["first", "good"]


@pytest.mark.parametrize("number", ["0", "x"])
@pytest_twisted.ensureDeferred
async def test_so_is_one_with_the_token_of_an_upload_alone(town: Town, number: str) -> None:
    first, foreign = Held("first"), Stream("foreign")
    job = town.first(first)
    await town.until(lambda: first.read)
    await town.further(foreign, number)
    assert isinstance(foreign.answer, StreamMismatch)
    first.go_on()
    await job
    assert first.answer is None
    assert names(town) == ["first"]


@pytest_twisted.ensureDeferred
async def test_one_too_many_is_told_to_those_that_came_before_the_first(town: Town) -> None:
    other, first = Stream("other"), Stream("first")
    jobs = [town.further(other, "5"), town.first(first, "2")]
    for job in jobs:
        await job
    error = await town.all_fail(StreamMismatch, first, other)
    assert "stream 5 came, and the first request tells of 0 to 1" in error.detail


@pytest_twisted.ensureDeferred
async def test_an_upload_alone_that_comes_twice_goes_on(town: Town) -> None:
    first, again = Held("first"), Stream("first")
    job = town.first(first)
    await town.until(lambda: first.read)
    await town.first(again)
    assert isinstance(again.answer, Unauthorized)
    first.go_on()
    await job
    assert first.answer is None


@pytest_twisted.ensureDeferred
async def test_an_upload_whose_token_is_used_meanwhile_is_not_read(town: Town) -> None:
    house, first = town.house, Stream("first")
    house.world.before["server"] = lambda: house.journal.use_token(
        town.token.digest, town.token.expires
    )
    await town.first(first)
    assert isinstance(first.answer, Unauthorized)
    assert not first.read


@pytest_twisted.ensureDeferred
async def test_an_upload_is_not_read_where_the_use_of_its_token_cannot_be_noted(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise StorageError("the disk is full")

    monkeypatch.setattr(town.house.store, "use_token", full)
    first = Stream("first")
    await town.first(first)
    assert isinstance(first.answer, StorageError)
    assert not first.read
