"""A cancel ends whatever a scope waits for."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, DeferredSemaphore, fail, gatherResults, succeed

from wingsd.errors import TransferCancelled
from wingsd.transfers.cancellation import CancelScope, SharedSlots, slots_held
from wingsd.util.deferreds import when_fired


async def test_a_result_is_returned() -> None:
    assert await CancelScope().wait(succeed(3)) == 3


async def test_a_failure_is_raised() -> None:
    with pytest.raises(KeyError):
        await CancelScope().wait(fail(KeyError("x")))


async def test_a_cancel_ends_a_wait_with_its_reason() -> None:
    scope, cancelled = CancelScope(), []  # type: CancelScope, list[object]
    waiting: Deferred[None] = Deferred.fromCoroutine(scope.wait(Deferred(cancelled.append)))
    scope.cancel(TransferCancelled())
    with pytest.raises(TransferCancelled):
        await waiting
    assert len(cancelled) == 1


async def test_no_wait_begins_after_a_cancel() -> None:
    scope, cancelled = CancelScope(), []  # type: CancelScope, list[object]
    scope.cancel(TransferCancelled())
    with pytest.raises(TransferCancelled):
        await scope.wait(Deferred(cancelled.append))
    assert len(cancelled) == 1
    with pytest.raises(TransferCancelled):
        scope.check()


@pytest.mark.promise("shown-figures-are-true")
async def test_who_waits_for_a_slot_has_a_place_in_the_queue() -> None:
    scopes = [CancelScope() for _ in range(4)]
    ends: list[Deferred[None]] = [Deferred() for _ in scopes]
    sent, received = DeferredSemaphore(1), SharedSlots(1)

    async def hold(number: int, slots: DeferredSemaphore | SharedSlots) -> None:
        scope = scopes[number]
        held = (
            slots.held(f"{number}", 1, scope)
            if isinstance(slots, SharedSlots)
            else slots_held(slots, 1, scope)
        )
        async with held:
            await ends[number]

    for slots in (sent, received):
        jobs = [Deferred.fromCoroutine(hold(number, slots)) for number in range(4)]
        assert [scope.place for scope in scopes] == [0, 1, 2, 3]
        scopes[1].cancel(TransferCancelled())
        with pytest.raises(TransferCancelled):
            await jobs.pop(1)
        ends[0].callback(None)
        assert [scope.place for scope in scopes] == [0, 0, 0, 1]
        for number in (2, 3):
            ends[number].callback(None)
        await gatherResults(jobs)
        scopes[:] = [CancelScope() for _ in range(4)]
        ends[:] = [Deferred() for _ in scopes]


def test_several_can_wait_for_one_cancel() -> None:
    end: Deferred[None] = Deferred()
    waiting = [when_fired(end), when_fired(end)]
    assert [one.called for one in waiting] == [False, False]
    end.callback(None)
    assert [one.called for one in waiting] == [True, True]
