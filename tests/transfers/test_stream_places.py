"""The places that the requests of one server wait for together."""

from __future__ import annotations

from functools import partial

import pytest
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from tests.support.reactor import until
from tests.transfers.requests import Held, Stream, UploadRequests
from wingsd.transfers.cancellation import CancelScope, slots_held


def have_begun(streams: list[Held], count: int) -> bool:
    return sum(stream.read for stream in streams) == count


@pytest.mark.parametrize("slots", [1, 2, 3])
async def test_streams_take_turns_with_fewer_slots(requests: UploadRequests, slots: int) -> None:
    requests.receiver.slots.limit = slots
    requests.receiver.slots.tokens = slots
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
    assert requests.receiver.slots.tokens == slots


async def test_all_streams_of_a_server_wait_as_one(requests: UploadRequests) -> None:
    slots = requests.receiver.slots
    held = [slots.acquire() for _ in range(slots.limit)]
    first, other = Stream("first"), Stream("other")
    job = requests.bring(first, other)
    await until(lambda: slots.waiting)
    assert requests.receiver.transfers.waiting == 1
    for each in held:
        (await each).release()
    await job
    assert (first.answer, other.answer, requests.receiver.transfers.waiting) == (None, None, 0)


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
