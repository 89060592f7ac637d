"""The ends of restores are reported until the Panel has accepted them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.callbacks.queue_harness import DOWN, A, QueueHarness, refused
from wingsd.statedb import Outcome

pytestmark = pytest.mark.promise("backup-report-is-repeated")

BACKUP = "0d0fbd6f-6b3e-4f8e-a9a4-52a2d7d2f1c3"


def end(harness: QueueHarness, outcome: Outcome) -> Deferred[bool]:
    record = harness.store.begin_restore(harness.clock.seconds(), A, BACKUP, truncate=False)
    pending: Any = Deferred.fromCoroutine(harness.callbacks.add_restore(record, outcome)).result
    return pending.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("outcome", "call"), [(Outcome.SUCCESS, "restored"), (Outcome.FAILURE, "not restored")]
)
def test_the_end_of_a_restore_is_reported_until_it_is_taken(
    harness: QueueHarness, outcome: Outcome, call: str
) -> None:
    harness.panel.answers[A] = [DOWN, refused(429), True]
    answer = end(harness, outcome)
    assert harness.store.restores() == []
    harness.clock.pump([1, 2, 2])
    assert answer.result is True
    assert harness.panel.calls == [(f"{call} {BACKUP}", A)] * 3
    assert harness.unsettled() == []


def test_the_end_of_a_restore_is_reported_by_the_next_daemon(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN]
    end(harness, Outcome.FAILURE)
    harness.restart()
    assert harness.panel.calls == [(f"not restored {BACKUP}", A)] * 2
    assert harness.unsettled() == []


@pytest.mark.parametrize("code", [403, 404, 409, 422])
def test_a_report_of_a_restore_that_is_refused_is_settled(
    harness: QueueHarness, code: int
) -> None:
    harness.panel.answers[A] = [refused(code)]
    assert end(harness, Outcome.SUCCESS).result is False
    assert harness.unsettled() == []


def test_an_installation_drops_no_report_of_a_restore(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN]
    end(harness, Outcome.SUCCESS)
    installing = harness.callbacks.add_installation(A, Outcome.SUCCESS, reinstall=True)
    Deferred.fromCoroutine(installing)
    harness.clock.pump([1, 1])
    assert harness.panel.calls == [(f"restored {BACKUP}", A)] * 2 + [("installed again", A)]
