"""A cancel ends whatever a scope waits for."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from wingsd.errors import TransferCancelled
from wingsd.transfers.cancellation import CancelScope
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


def test_several_can_wait_for_one_cancel() -> None:
    end: Deferred[None] = Deferred()
    waiting = [when_fired(end), when_fired(end)]
    assert [one.called for one in waiting] == [False, False]
    end.callback(None)
    assert [one.called for one in waiting] == [True, True]
