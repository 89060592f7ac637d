"""The places that the requests of one server wait for together."""

from __future__ import annotations

import random
from functools import partial

import pytest
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from tests.support.reactor import until
from tests.transfers.requests import Held, Stream, UploadRequests
from wingsd.errors import TransferCancelled
from wingsd.transfers.cancellation import CancelScope, SharedSlots, slots_held


def have_begun(streams: list[Held], count: int) -> bool:
    return sum(stream.read for stream in streams) == count


@pytest.mark.promise("streams-share-slots")
@pytest.mark.parametrize("slots", [1, 2, 3])
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


async def test_all_streams_of_a_server_wait_as_one(requests: UploadRequests) -> None:
    slots = requests.receiver.slots
    others = [f"{number}" for number in range(slots.limit)]
    for each in others:
        await slots.acquire(each)
    first, other = Stream("first"), Stream("other")
    job = requests.bring(first, other)
    await until(lambda: slots.waiting)
    assert requests.receiver.transfers.waiting == 1
    for each in others:
        slots.release(each)
    await job
    assert (first.answer, other.answer, requests.receiver.transfers.waiting) == (None, None, 0)


@pytest.mark.promise("streams-share-slots")
async def test_two_transfers_never_deadlock_on_slots() -> None:
    slots, held = DeferredSemaphore(5), []

    async def hold(name: str, end: Deferred[None]) -> None:
        async with slots_held(slots, 4, CancelScope()) as count:
            held.append((name, count))
            await end

    ends: list[Deferred[None]] = [Deferred(), Deferred()]
    jobs = [Deferred.fromCoroutine(hold(n, end)) for n, end in zip("ab", ends, strict=True)]
    assert held == [("a", 4)]
    ends[0].callback(None)
    assert held == [("a", 4), ("b", 4)]
    ends[1].callback(None)
    assert slots.tokens == 5
    await gatherResults(jobs)


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


@pytest.mark.parametrize("seed", range(5))
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
