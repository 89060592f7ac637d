"""Reports are repeated until the Panel has accepted them."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from tests.callbacks.queue_harness import DOWN, YEAR, A, B, QueueHarness, refused
from tests.support.logged_errors import Logged
from wingsd.callbacks import PendingReport
from wingsd.errors import StorageError
from wingsd.statedb import Outcome, Report


def test_a_settled_report_is_settled_in_the_database(
    harness: QueueHarness, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bool] = []
    settle = harness.store.close_report

    def settling(now: float, report: Report, answer: str) -> None:
        said.append(f"{A}: {answer}" in logged.lines)
        settle(now, report, answer)

    monkeypatch.setattr(harness.store, "close_report", settling)
    harness.tell(Outcome.SUCCESS)
    assert said == [False]
    assert f"{A}: the success was reported to the Panel" in logged.lines


@pytest.mark.parametrize("fault", [DOWN, refused(401), refused(403), refused(429), refused(422)])
@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILURE])
def test_errors_are_retried(harness: QueueHarness, outcome: Outcome, fault: Exception) -> None:
    harness.panel.answers[A] = [fault, fault]
    settled = harness.tell(outcome)
    assert harness.unsettled() == [A]
    harness.clock.pump([1, 2])
    assert settled.result is True
    assert harness.unsettled() == []


@pytest.mark.promise("success-is-repeated")
def test_retry_after_is_respected(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [refused(429, retry_after=60)]
    settled = harness.tell(Outcome.SUCCESS)
    harness.clock.advance(59)
    assert len(harness.panel.calls) == 1
    harness.clock.advance(1)
    assert settled.result is True


@pytest.mark.promise("refused-server-is-quarantined")
@pytest.mark.parametrize("code", [404, 409])
@pytest.mark.parametrize("ours", [False, True])
def test_a_success_without_an_open_transfer_is_settled_by_asking(
    harness: QueueHarness, code: int, ours: bool
) -> None:
    harness.begin(seconds_ago=61)
    harness.panel.answers[A] = [refused(code), ours]
    assert harness.tell(Outcome.SUCCESS).result is ours
    assert harness.panel.calls == [("success", A), ("owns", A)]
    assert harness.unsettled() == []


def test_nothing_is_settled_while_the_panel_cannot_be_asked(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [refused(409), DOWN, refused(409), True]
    settled = harness.tell(Outcome.SUCCESS)
    assert not settled.called
    harness.clock.advance(1)
    assert settled.result is True


@pytest.mark.parametrize("answer", [False, refused(404)])
def test_a_failure_reported_by_the_other_is_settled(harness: QueueHarness, answer: object) -> None:
    harness.begin(seconds_ago=61)
    harness.panel.answers[A] = [answer]
    assert harness.tell(Outcome.FAILURE).result is True
    assert harness.unsettled() == []


# The transfer's first minute, in which the Panel may not have committed it


#: What a Panel says to a failure, and to a success, of a transfer that it does not know.
DENIALS: dict[Outcome, list[list[object]]] = {
    Outcome.FAILURE: [[False], [refused(404)]],
    Outcome.SUCCESS: [[refused(409), False], [refused(404), False]],
}


@pytest.mark.parametrize(
    ("outcome", "denial"),
    [(outcome, each) for outcome, denials in DENIALS.items() for each in denials],
)
def test_a_denied_report_is_retried_in_the_first_minute(
    harness: QueueHarness, outcome: Outcome, denial: list[object]
) -> None:
    harness.begin(seconds_ago=1)
    harness.panel.answers[A] = [*denial, *denial, True]
    settled = harness.tell(outcome)
    assert harness.callbacks.is_denied(A)
    harness.clock.pump([0.5] * 12)
    assert settled.result is True
    assert [call for call, _ in harness.panel.calls].count(outcome.value) == 3
    assert harness.unsettled() == []
    assert not harness.callbacks.is_denied(A)


@pytest.mark.parametrize(("outcome", "so"), [(Outcome.FAILURE, True), (Outcome.SUCCESS, False)])
def test_a_denial_after_the_first_minute_settles_the_report(
    harness: QueueHarness, outcome: Outcome, so: bool
) -> None:
    harness.begin(seconds_ago=1)
    harness.panel.answers[A] = DENIALS[outcome][0] * 100
    settled = harness.tell(outcome)
    harness.clock.pump([0.5] * 117)
    assert not settled.called
    harness.clock.pump([0.5] * 2)
    assert settled.result is so
    asked = [call for call, _ in harness.panel.calls].count(outcome.value)
    assert 5 < asked < 12  # with growing pauses
    assert harness.unsettled() == []


@pytest.mark.parametrize(("outcome", "so"), [(Outcome.FAILURE, True), (Outcome.SUCCESS, False)])
def test_a_panel_that_describes_the_server_no_more_has_closed_the_transfer(
    harness: QueueHarness, outcome: Outcome, so: bool
) -> None:
    # It did when the transfer began, for the transfer alone: so it has known it.
    harness.begin(seconds_ago=1)
    harness.panel.describes = False
    harness.panel.answers[A] = list(DENIALS[outcome][0])
    assert harness.tell(outcome).result is so


@pytest.mark.promise("late-commit-is-waited-for")
@pytest.mark.parametrize(("later", "is_told_again"), [(30, True), (70, False)])
def test_the_first_minute_continues_over_a_restart(
    harness: QueueHarness, later: float, is_told_again: bool
) -> None:
    harness.begin(seconds_ago=1)
    harness.panel.answers[A] = [False, False, True]
    harness.tell(Outcome.FAILURE)
    harness.callbacks.stop()
    harness.clock.advance(later)
    harness.restart()
    assert (harness.unsettled() == [A]) is is_told_again
    harness.clock.pump([0.5] * 4)
    assert harness.unsettled() == []
    assert len(harness.panel.calls) == (3 if is_told_again else 2)


@pytest.mark.promise("next-transfer-is-not-ended")
@pytest.mark.parametrize("within", [0.0, 5.0])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_report_that_would_close_the_next_transfer_is_not_sent_again(
    harness: QueueHarness, within: float, is_restarted: bool
) -> None:
    harness.begin(seconds_ago=1)
    # denied while the transfer may be uncommitted, and then taken: for the next one
    harness.panel.answers[A] = [False] * 3 if within else [False]
    add = harness.callbacks.add(A, Outcome.FAILURE, commits_within=within)
    pending: Any = Deferred.fromCoroutine(add).result
    if is_restarted:
        harness.restart()
    harness.clock.pump([0.5] * 60)
    assert pending.answer.called is not (is_restarted and within > 0)
    assert harness.unsettled() == []
    assert len(harness.panel.calls) == (4 if within else 1)


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_step_does_not_extend_the_first_minute(harness: QueueHarness, jump: float) -> None:
    harness.begin(seconds_ago=1)
    harness.panel.answers[A] = [False] * 100
    settled = harness.tell(Outcome.FAILURE)
    harness.set_by = jump
    harness.clock.pump([0.5] * 119)
    assert settled.result is True
    harness.set_by = 0
    harness.begin(seconds_ago=1)
    harness.tell(Outcome.FAILURE)
    harness.set_by = jump
    harness.restart()
    assert harness.unsettled() == []


@pytest.mark.promise("next-transfer-is-not-ended")
def test_a_failure_that_is_denied_is_dropped_for_the_next_transfer(harness: QueueHarness) -> None:
    harness.begin(seconds_ago=1)
    harness.panel.answers[A] = [False] * 9
    denied = harness.tell(Outcome.FAILURE)
    harness.callbacks.drop(A, denied=True)
    assert denied.result is False
    harness.panel.answers[A] = [DOWN, True]
    unheard = harness.tell(Outcome.FAILURE)
    harness.callbacks.drop(A, denied=True)
    harness.clock.advance(1)
    assert unheard.result is True


def test_a_daemon_that_stops_does_not_wait_for_denied_reports(harness: QueueHarness) -> None:
    harness.begin(seconds_ago=1)
    harness.panel.answers[A] = [False] * 9
    harness.tell(Outcome.FAILURE)
    drained = Deferred.fromCoroutine(harness.callbacks.drain(2))
    assert drained.called
    assert harness.unsettled() == [A]


def test_reports_of_a_server_keep_their_order_and_block_no_other(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN]
    first, second = harness.tell(Outcome.SUCCESS), harness.tell(Outcome.FAILURE)
    assert harness.tell(Outcome.SUCCESS, B).result is True
    assert (first.called, second.called) == (False, False)
    harness.clock.advance(1)
    assert (first.result, second.result) == (True, True)
    assert harness.panel.calls == [("success", A), ("success", B), ("success", A), ("failure", A)]


@pytest.mark.promise("success-is-repeated")
def test_unsettled_reports_are_sent_by_the_next_daemon(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN, True]
    settled = harness.tell(Outcome.SUCCESS)
    assert harness.callbacks.success_of(A) == PendingReport(settled)
    (report,) = harness.store.unsettled()
    assert (report.server, report.outcome, report.attempts) == (A, Outcome.SUCCESS, 1)
    harness.restart()
    assert harness.unsettled() == []
    assert harness.panel.calls == [("success", A), ("success", A)]
    assert harness.clock.getDelayedCalls() == []


@pytest.mark.promise("clock-steps-do-no-harm")
@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_step_changes_neither_pauses_nor_order(harness: QueueHarness, jump: float) -> None:
    harness.panel.answers[A] = [DOWN, DOWN, DOWN]
    harness.tell(Outcome.SUCCESS)
    harness.set_by = jump
    harness.tell(Outcome.FAILURE)
    harness.database.prune()
    harness.clock.advance(0.9)
    assert harness.panel.calls == [("success", A)]
    harness.clock.advance(0.1)
    assert harness.panel.calls == [("success", A)] * 2
    harness.set_by = 0
    harness.restart()
    harness.clock.advance(1)
    assert harness.panel.calls[2:] == [("success", A), ("success", A), ("failure", A)]
    assert harness.unsettled() == []


@pytest.mark.promise("next-transfer-is-not-ended")
def test_an_old_failure_does_not_end_a_new_transfer(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN] * 5
    failure, success = harness.tell(Outcome.FAILURE), harness.tell(Outcome.SUCCESS)
    harness.callbacks.drop(A)
    assert failure.result is False
    assert not success.called
    assert len(harness.store.unsettled()) == 1


def test_a_failure_is_reported_despite_a_full_disk(
    harness: QueueHarness, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(
        harness.store, "add_report", Mock(side_effect=StorageError("the disk is full"))
    )
    assert harness.tell(Outcome.FAILURE).result is True
    refused_success = Deferred.fromCoroutine(harness.callbacks.add(A, Outcome.SUCCESS))
    errors: list[Any] = []
    refused_success.addErrback(errors.append)
    assert errors[0].check(StorageError)
    assert ("success", A) not in harness.panel.calls
