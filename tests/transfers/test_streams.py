"""One server that comes in several requests: one transfer, one outcome, one use of the token."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import permutations
from unittest.mock import Mock

import attrs
import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.requests import Held, Stream, UploadRequests
from wingsd.backups.store import AttachedLog, Backup
from wingsd.errors import (
    ChecksumMismatch,
    DaemonStopping,
    StorageError,
    StreamMismatch,
    StreamMissing,
    TooManyTransfers,
    TransferCancelled,
    Unauthorized,
    UploadTruncated,
    WingsdError,
)
from wingsd.transfers.cancellation import CancelScope, SharedSlots
from wingsd.transfers.incoming.uploads import StreamRegistry

BACKUP = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", "calagopus")


def names(requests: UploadRequests) -> list[str]:
    return sorted(path.name for path in (requests.receiver.data / UUID / "world").iterdir())


@pytest.mark.parametrize("order", ["f01", "1f0"])
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
    assert receiver.calls == ["owns", "describe", "create", "success", "sync"]
    assert receiver.panel.reported_backups == [(BACKUP.uuid,)]
    world = receiver.data / UUID / "world"
    assert sorted(path.name for path in world.iterdir()) == sorted(order)
    assert set(receiver.kept()) == {f"{BACKUP.uuid}.tar.gz", f"install/{UUID}.log"}


def wrong() -> Stream:
    return Stream("x", checksum="0" * 64)


def cut() -> Stream:
    return Stream("x", error=UploadTruncated("the upload ended before it was complete", "lost"))


def laden() -> Stream:
    stream = Stream("x")
    stream.bring(BACKUP, b"backup")
    return stream


@pytest.mark.promise("streams-succeed-together")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (wrong, ChecksumMismatch),
        (cut, UploadTruncated),
        (laden, StreamMismatch),
    ],
)
async def test_a_failed_stream_fails_all(
    requests: UploadRequests, make: Callable[[], Stream], kind: type[WingsdError]
) -> None:
    first, good, bad = Stream("first"), Stream("good"), make()
    await requests.bring(first, good, bad)
    error = await requests.all_fail(kind, first, good, bad)
    assert error.detail.startswith("stream 1")


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
async def test_a_stream_with_the_token_of_a_single_upload_is_refused(
    requests: UploadRequests,
) -> None:
    first, foreign = Held("first"), Stream("foreign")
    job = requests.first(first)
    await until(lambda: first.read)
    await requests.further(foreign, "0")
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
    receiver.before["describe"] = lambda: receiver.database.use_token(
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


# Requests that do not come, whose senders leave, or that the node has to give up


@pytest.mark.promise("streams-succeed-together")
async def test_a_missing_stream_fails_all(requests: UploadRequests) -> None:
    first, good = Stream("first"), Stream("good")
    jobs = [requests.first(first, "2"), requests.further(good, "1")]
    await until(lambda: "describe" in requests.receiver.calls)
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
    assert requests.receiver.calls == ["owns", "describe", "failure"]


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


# The places that the requests of one server wait for together


def have_begun(streams: list[Held], count: int) -> bool:
    return sum(stream.read for stream in streams) == count


@pytest.mark.promise("streams-share-slots")
@pytest.mark.parametrize("slots", [1, 3])
async def test_streams_take_turns_with_fewer_slots(requests: UploadRequests, slots: int) -> None:
    shared = requests.receiver.slots
    shared.limit, shared.most = 2 * slots, slots
    streams = [Held(str(number)) for number in range(4)]
    first = Held("first")
    jobs = [requests.first(first, "4")]
    jobs += [requests.further(stream, str(n)) for n, stream in enumerate(streams)]
    for number in range(0, 4, slots):
        begun = partial(have_begun, streams, min(number + slots, 4))
        await until(begun)
        assert not first.read
        for stream in streams[number : number + slots]:
            stream.go_on()
    await until(lambda: first.read)
    first.go_on()
    await gatherResults(jobs)
    assert [stream.answer for stream in (first, *streams)] == [None] * 5
    assert shared.free == shared.limit


@pytest.mark.promise("full-queue-refuses-early", "slots-are-shared-fairly")
@pytest.mark.parametrize(("limit", "most"), [(1, 1), (2, 1), (3, 2), (8, 4)])
async def test_one_server_has_at_most_half_of_the_slots(limit: int, most: int) -> None:
    slots = SharedSlots(limit)
    turns = [slots.acquire("slow") for _ in range(16)]
    assert sum(turn.called for turn in turns) == most
    others = [slots.acquire(f"{number}") for number in range(limit - most)]
    assert all(turn.called for turn in others)
    slots.release("slow")
    assert sum(turn.called for turn in turns) == most + 1


@pytest.mark.promise("full-queue-refuses-early", "slots-are-shared-fairly")
async def test_the_server_that_has_the_fewest_slots_is_next() -> None:
    slots = SharedSlots(4)
    for server in "aabc":
        await slots.acquire(server)
    turns = [slots.acquire(server) for server in "bbcde"]
    for server in "aa":
        slots.release(server)
    assert [turn.called for turn in turns] == [False, False, False, True, True]
    slots.release("b")
    assert [turn.called for turn in turns] == [True, False, False, True, True]


@pytest.mark.parametrize("seed", range(2))
async def test_servers_that_share_slots_all_have_their_turn(seed: int) -> None:
    random_, slots = random.Random(seed), SharedSlots(8)
    ends: list[Deferred[None]] = []
    counts: list[int] = []
    scopes = [CancelScope() for _ in range(50)]

    async def hold(server: str, scope: CancelScope) -> None:
        wanted = random_.randint(1, 9)
        async with slots.held(server, wanted, scope) as count:
            counts.append(count)
            assert 1 <= count <= min(wanted, slots.most)
            assert slots.free >= 0
            ends.append(Deferred())
            await ends[-1]

    jobs = [Deferred.fromCoroutine(hold(f"{n % 20}", each)) for n, each in enumerate(scopes)]
    cancelled = [n for n, job in enumerate(jobs) if n % 7 == 6 and scopes[n].is_waiting]
    for number in cancelled:
        scopes[number].cancel(TransferCancelled())
        with pytest.raises(TransferCancelled):
            await jobs[number]
    while ends:
        ends.pop(random_.randrange(len(ends))).callback(None)
    assert (len(counts), slots.free, slots.waiting) == (50 - len(cancelled), 8, {})
    await gatherResults([job for n, job in enumerate(jobs) if n not in cancelled])


# Which streams of one transfer may come: in any order, each once, and no other


FIRST = -1


def call(registry: StreamRegistry, number: int, count: int) -> None:
    if number == FIRST:
        registry.first(str(count))
    else:
        assert registry.further(str(number)) == number


def test_streams_may_come_in_any_order() -> None:
    for order in permutations([FIRST, 0, 1, 2]):
        registry = StreamRegistry(16)
        for number in order[:-1]:
            call(registry, number, 3)
            assert not registry.is_complete
        call(registry, order[-1], 3)
        assert registry.is_complete


def come(*numbers: int, count: int = 3) -> Callable[[StreamRegistry], object]:
    def come_all(registry: StreamRegistry) -> None:
        for number in numbers:
            call(registry, number, count)

    return come_all


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (come(FIRST, 1, 1), "stream 1 was sent twice"),
        (come(1, 1), "stream 1 was sent twice"),
        (come(FIRST, FIRST), "the first request was sent twice"),
        (come(FIRST, 0, 1, 2, 2), "stream 2 was sent twice"),
        (come(FIRST, 3), "stream 3 is not announced: the first request announces 0 to 2"),
        (come(3, FIRST), "stream 3 is not announced: the first request announces 0 to 2"),
        (come(FIRST, 0, count=0), "stream 0 is not announced: the first request announces none"),
        (come(0, FIRST, count=0), "stream 0 is not announced: the first request announces none"),
        (come(16), "this node accepts 16 besides the first"),
        (come(FIRST, count=17), "is 17, and this node accepts at most 16"),
    ],
)
def test_a_stream_with_a_wrong_number_is_refused(
    steps: Callable[[StreamRegistry], object], reason: str
) -> None:
    with pytest.raises(StreamMismatch) as caught:
        steps(StreamRegistry(16))
    assert reason in caught.value.detail
    assert caught.value.status == 400


@pytest.mark.parametrize("text", ["x", "-1", "1.5", " 1", "1_0", "٣", "9999999", "0x1", "1, 2"])
def test_a_header_that_is_not_a_number_is_refused(text: str) -> None:
    for read in (StreamRegistry(16).first, StreamRegistry(16).further):
        with pytest.raises(StreamMismatch):
            read(text)


def test_missing_streams_are_named() -> None:
    registry = StreamRegistry(16)
    registry.further("1")
    error = registry.missing(60)
    assert isinstance(error, StreamMissing)
    assert error.detail.startswith("the first request, the one with Multiplex-Stream-Count, did")
    registry.first("4")
    assert registry.missing(2.5).detail == (
        "stream 0, stream 2, stream 3 did not arrive within 2.5 s "
        "(system.transfers.streams.within)"
    )
