"""Ending a chain wherever it waits."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from wingsd.errors import TransferCancelled
from wingsd.transfers.cancellation import CancelScope, when_fired


async def test_what_is_waited_for_is_returned() -> None:
    assert await CancelScope().wait(succeed(3)) == 3


async def test_a_failure_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        await CancelScope().wait(fail(KeyError("x")))


async def test_a_wait_ends_with_the_reason_and_its_work_is_cancelled() -> None:
    chain, cancelled = CancelScope(), []  # type: CancelScope, list[object]
    waiting: Deferred[None] = Deferred.fromCoroutine(chain.wait(Deferred(cancelled.append)))
    chain.cancel(TransferCancelled())
    with pytest.raises(TransferCancelled):
        await waiting
    assert len(cancelled) == 1


async def test_nothing_is_waited_for_after_it() -> None:
    chain, cancelled = CancelScope(), []  # type: CancelScope, list[object]
    chain.cancel(TransferCancelled())
    with pytest.raises(TransferCancelled):
        await chain.wait(Deferred(cancelled.append))
    assert len(cancelled) == 1
    with pytest.raises(TransferCancelled):
        chain.check()


def test_several_can_wait_for_one_end() -> None:
    end: Deferred[None] = Deferred()
    waiting = [when_fired(end), when_fired(end)]
    assert [one.called for one in waiting] == [False, False]
    end.callback(None)
    assert [one.called for one in waiting] == [True, True]
