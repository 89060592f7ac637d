"""One server that comes in several requests: one transfer, one outcome, one use of the token."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.task import Clock, deferLater

from tests.daemon.house import UUID, sha256
from tests.transfers.receiving import House, Source, reactor
from wingsd.bridge import Feed
from wingsd.config import Streams
from wingsd.errors import (
    AlreadyHere,
    BadRequest,
    ChecksumMismatch,
    DaemonStopping,
    NotAuthorized,
    StreamMissing,
    StreamRefused,
    TooManyTransfers,
    TransferCancelled,
    UploadCutShort,
    WingsdError,
)
from wingsd.tokens import TransferToken
from wingsd.transfers.extras import Backup, InstallLog
from wingsd.transfers.formdata import Checksums, UploadForm
from wingsd.transfers.interrupt import Interruptible
from wingsd.transfers.slots import slots_held
from wingsd.transfers.streams import StreamGroups

BACKUP = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", "calagopus")


def archive(name: str, data: bytes = b"data") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(data), 1_700_000_000
        tar.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue())


class Stream(Source):
    """One of the requests, and what its sender was answered: None for success."""

    def __init__(self, name: str, **how: Any) -> None:
        super().__init__(archive(f"world/{name}"), **how)
        self.answers: list[WingsdError | None] = []
        self.read = False

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[Checksums]:
        if self.stopped:
            raise self.stopped[0]
        self.read = True
        return super().read_into(form, feed)

    @property
    def answer(self) -> WingsdError | None:
        (answer,) = self.answers
        return answer


class Held(Stream):
    """One whose body does not come before `go_on`; the thread waits for it."""

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[Checksums]:
        if self.stopped:
            raise self.stopped[0]
        self.read = True
        self._feed = feed
        self._coming: Deferred[Checksums] = Deferred()
        return self._coming

    def go_on(self) -> None:
        self._feed.write(self.data)
        self._feed.finish()
        self._coming.callback(Checksums(self.checksum, {}))

    def stop(self, error: WingsdError) -> None:
        super().stop(error)
        if self.read and not self._coming.called:
            self._feed.fail(error)
            self._coming.errback(error)


class Town:
    """The requests of one token, on their way to a node."""

    def __init__(self, house: House, most: int = 16) -> None:
        self.house = house
        self.clock = Clock()
        self.token = TransferToken(UUID, "digest", reactor.seconds() + 1000)
        self.groups = StreamGroups(
            house.receiver, house.journal, Streams(most=most, within=60), self.clock
        )

    def first(self, stream: Stream, count: str = "") -> Deferred[None]:
        return self._come(stream, lambda group: group.open(count, stream))

    def further(self, stream: Stream, number: str, count: str = "") -> Deferred[None]:
        return self._come(stream, lambda group: group.join(number, count, stream))

    def _come(self, stream: Stream, enter: Callable[[Any], Awaitable[Any]]) -> Deferred[None]:
        group = self.groups.of(self.token)

        async def come() -> None:
            try:
                rest = await enter(group)
                await rest()
            except WingsdError as error:
                stream.answers.append(error)
            else:
                stream.answers.append(None)

        return Deferred.fromCoroutine(come())

    async def settled(self) -> None:
        for transfer in tuple(self.house.receiver._open.values()):
            await transfer.over
        assert self.groups._open == {}

    async def all_fail(self, kind: type[WingsdError], *streams: Stream) -> WingsdError:
        """See that each was answered with the same error, and that nothing is left."""
        error = streams[0].answer
        assert isinstance(error, kind)
        assert [stream.answer for stream in streams] == [error] * len(streams)
        await self.settled()
        assert self.house.world.calls == ["owns", "server", "failure"]
        assert self.house.left() == []
        assert self.house.kept() == {}
        assert await self.house.journal.was_used(self.token.digest, self.token.expires)
        return error

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(2000):
            if condition():
                return
            await deferLater(reactor, 0.005)
        raise AssertionError("it did not come to that")


@pytest.fixture
def town(house: House) -> Town:
    return Town(house)


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
    return Stream("x", error=UploadCutShort("the upload ended before it was complete", "lost"))


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
        (cut, UploadCutShort),
        (no_form, BadRequest),
        (laden, StreamRefused),
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
        ("3", "", "stream 3 came, and the first request tells of 0 to 2"),
        ("x", "", "expected a number"),
        ("1", "1", "not both"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_one_that_may_not_come_fails_all_that_are_here(
    town: Town, number: str, count: str, reason: str
) -> None:
    first, good, bad = Stream("first"), Stream("good"), Stream("bad")
    jobs = [town.first(first, "3"), town.further(good, "0"), town.further(bad, number, count)]
    for job in jobs:
        await job
    error = await town.all_fail(StreamRefused, first, good, bad)
    assert reason in error.detail
    assert [each.read for each in (first, good, bad)] == [False] * 3


@pytest_twisted.ensureDeferred
async def test_so_does_one_while_the_others_are_read(town: Town) -> None:
    first, good, again = Held("first"), Held("good"), Stream("good")
    jobs = [town.first(first, "1"), town.further(good, "0")]
    await town.until(lambda: first.read and good.read)
    jobs.append(town.further(again, "0"))
    for job in jobs:
        await job
    await town.all_fail(StreamRefused, first, good, again)


@pytest_twisted.ensureDeferred
async def test_so_does_a_first_that_comes_twice(town: Town) -> None:
    first, good, again = Held("first"), Held("good"), Stream("first")
    jobs = [town.first(first, "1"), town.further(good, "0")]
    await town.until(lambda: first.read and good.read)
    jobs.append(town.first(again, "1"))
    for job in jobs:
        await job
    error = await town.all_fail(StreamRefused, first, good, again)
    assert "the first request came twice" in error.detail


@pytest_twisted.ensureDeferred
async def test_an_upload_alone_that_comes_twice_goes_on(town: Town) -> None:
    first, again = Held("first"), Stream("first")
    job = town.first(first)
    await town.until(lambda: first.read)
    await town.first(again)
    assert isinstance(again.answer, AlreadyHere)
    first.go_on()
    await job
    assert first.answer is None


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
    assert isinstance(late.answer, NotAuthorized)
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
    assert isinstance(first.answer, UploadCutShort)
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
    await town.all_fail(UploadCutShort, first, other)


@pytest_twisted.ensureDeferred
async def test_after_the_transfer_none_is_let_in(town: Town) -> None:
    first, other = Stream("first"), Stream("other")
    town.further(other, "0")
    await town.first(first, "1")
    assert first.answer is None
    for late in (Stream("0"), Stream("1")):
        await town.further(late, "0")
        assert isinstance(late.answer, NotAuthorized)
    late = Stream("first")
    await town.first(late, "1")
    assert isinstance(late.answer, NotAuthorized)
    await town.settled()
    assert town.house.world.calls.count("failure") == 0


@pytest_twisted.ensureDeferred
async def test_those_who_wait_are_refused_with_the_first(town: Town) -> None:
    other, first = Stream("other"), Stream("first")
    town.further(other, "0")
    town.house.receiver._places = 0
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


def have_begun(streams: list[Held], count: int) -> bool:
    return sum(stream.read for stream in streams) == count


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest_twisted.ensureDeferred
async def test_with_fewer_places_they_are_read_in_turn(town: Town, slots: int) -> None:
    town.house.receiver._means.slots.limit = slots
    town.house.receiver._means.slots.tokens = slots
    streams = [Held(str(number)) for number in range(4)]
    first = Held("first")
    jobs = [town.first(first, "4")]
    jobs += [town.further(stream, str(n)) for n, stream in enumerate(streams)]
    for number in range(0, 4, slots):
        begun = partial(have_begun, streams, min(number + slots, 4))
        await town.until(begun)
        assert not first.read
        for stream in streams[number : number + slots]:
            stream.go_on()
    await town.until(lambda: first.read)
    first.go_on()
    for job in jobs:
        await job
    assert [stream.answer for stream in (first, *streams)] == [None] * 5
    assert town.house.receiver._means.slots.tokens == slots


@pytest_twisted.ensureDeferred
async def test_all_of_them_are_one_that_waits_for_its_turn(town: Town) -> None:
    slots = town.house.receiver._means.slots
    held = [slots.acquire() for _ in range(slots.limit)]
    first, other = Stream("first"), Stream("other")
    jobs = [town.first(first, "1"), town.further(other, "0")]
    await town.until(lambda: slots.waiting)
    assert town.house.receiver.waiting == 1
    for each in held:
        (await each).release()
    for job in jobs:
        await job
    assert (first.answer, other.answer, town.house.receiver.waiting) == (None, None, 0)


@pytest_twisted.ensureDeferred
async def test_two_transfers_never_wait_for_each_others_places() -> None:
    slots, held = DeferredSemaphore(5), []

    async def hold(name: str, end: Deferred[None]) -> None:
        async with slots_held(slots, 4, Interruptible()) as count:
            held.append((name, count))
            await end

    ends: list[Deferred[None]] = [Deferred(), Deferred()]
    jobs = [Deferred.fromCoroutine(hold(n, end)) for n, end in zip("ab", ends, strict=True)]
    assert held == [("a", 4)]
    ends[0].callback(None)
    assert held == [("a", 4), ("b", 4)]
    ends[1].callback(None)
    assert slots.tokens == 5
    for job in jobs:
        await job
