from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wingsd.util.deferreds import fires_within


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


def test_waiting_ends_after_the_time() -> None:
    clock = Clock()
    fired = Deferred.fromCoroutine(fires_within(Deferred(), 12, clock))
    clock.advance(12)
    assert fired.result is False
    assert clock.getDelayedCalls() == []
