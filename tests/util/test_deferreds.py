from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from wingsd.util.deferreds import beside, fires_within


@pytest.mark.parametrize("outcome", ["a result", ValueError("a failure")])
def test_waiting_ends_with_a_result_or_a_failure(outcome: object) -> None:
    waiting: Deferred[object] = Deferred()
    fired = Deferred.fromCoroutine(fires_within(waiting, 12, Clock()))
    assert not fired.called
    if isinstance(outcome, Exception):
        waiting.errback(outcome)
    else:
        waiting.callback(outcome)
    assert fired.result is True
    kept: list[object] = []
    waiting.addCallbacks(kept.append, lambda failure: kept.append(failure.value))
    assert kept == [outcome]


async def test_work_beside_other_work_is_cancelled_with_it() -> None:
    under_way: Deferred[int] = Deferred()

    async def work() -> int:
        return await under_way

    with pytest.raises(ValueError, match="the other"):
        async with beside(work()):
            raise ValueError("the other")
    assert under_way.called
    under_way = Deferred()
    async with beside(work()) as doing:
        under_way.callback(3)
    assert await doing == 3


def test_waiting_can_be_cancelled() -> None:
    waiting: Deferred[None] = Deferred()
    clock = Clock()
    fired = Deferred.fromCoroutine(fires_within(waiting, 12, clock))
    fired.cancel()
    error: list[object] = []
    fired.addErrback(lambda failure: error.append(failure.type))
    assert error == [CancelledError]
    assert clock.getDelayedCalls() == []
    waiting.callback(None)
