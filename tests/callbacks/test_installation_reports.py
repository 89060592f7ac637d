"""The ends of installations are reported until the Panel has accepted them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.callbacks.queue_harness import DOWN, A, QueueHarness, refused
from wingsd.statedb import Outcome


def end(harness: QueueHarness, outcome: Outcome, *, reinstall: bool = False) -> Deferred[bool]:
    harness.store.begin_installation(harness.clock.seconds(), A, reinstall=reinstall, start=False)
    ending = harness.callbacks.add_installation(A, outcome, reinstall=reinstall)
    pending: Any = Deferred.fromCoroutine(ending).result
    return pending.answer  # type: ignore[no-any-return]


@pytest.mark.promise("installation-continues")
@pytest.mark.parametrize(
    ("outcome", "reinstall", "call"),
    [
        (Outcome.SUCCESS, False, "installed"),
        (Outcome.FAILURE, False, "not installed"),
        (Outcome.SUCCESS, True, "installed again"),
        (Outcome.FAILURE, True, "not installed again"),
    ],
)
def test_the_end_of_an_installation_is_reported_until_it_is_taken(
    harness: QueueHarness, outcome: Outcome, reinstall: bool, call: str
) -> None:
    harness.panel.answers[A] = [DOWN, refused(429), True]
    answer = end(harness, outcome, reinstall=reinstall)
    assert harness.store.installations() == []
    harness.clock.pump([1, 2, 2])
    assert answer.result is True
    assert harness.panel.calls == [(call, A)] * 3
    assert harness.unsettled() == []


@pytest.mark.promise("installation-continues")
def test_the_end_of_an_installation_is_reported_by_the_next_daemon(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN]
    end(harness, Outcome.FAILURE, reinstall=True)
    harness.callbacks.stop()
    harness.store.close()
    harness.restart()
    Deferred.fromCoroutine(harness.callbacks.load())
    assert harness.panel.calls == [("not installed again", A)] * 2
    assert harness.unsettled() == []


@pytest.mark.parametrize("code", [403, 404, 422])
def test_a_report_of_an_installation_that_is_refused_is_settled(
    harness: QueueHarness, code: int
) -> None:
    harness.panel.answers[A] = [refused(code)]
    assert end(harness, Outcome.SUCCESS).result is False
    assert harness.unsettled() == []
    assert f"was answered {code}" in harness.store.reports()[0].answer


def test_a_later_installation_takes_the_place_of_an_unheard_one(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN, True]
    first = end(harness, Outcome.FAILURE)
    second = end(harness, Outcome.SUCCESS, reinstall=True)
    harness.clock.pump([1, 1])
    assert (first.result, second.result) == (False, True)
    assert harness.panel.calls == [("not installed", A), ("installed again", A)]
    assert harness.callbacks.before_reset() == []


def test_a_transfer_does_not_drop_the_report_of_an_installation(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN, True]
    answer = end(harness, Outcome.FAILURE)
    harness.callbacks.drop(A)
    assert harness.callbacks.success_of(A) is None
    harness.clock.pump([1])
    assert answer.result is True
