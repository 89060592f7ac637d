"""The ends of backups, installations and restores are reported until the Panel has answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from twisted.internet.defer import Deferred

from tests.callbacks.queue_harness import DOWN, A, QueueHarness, answer_to, refused
from wingsd.statedb import Outcome, ReportKind

BACKUP, SECOND = "0d0fbd6f-6b3e-4f8e-a9a4-52a2d7d2f1c3", "another-backup"
BODY = {"successful": True, "size": 3}
FAILURE = Outcome.FAILURE


def end_backup(
    harness: QueueHarness, backup: str = BACKUP, kind: ReportKind = ReportKind.BACKUP
) -> Deferred[bool]:
    harness.store.begin_backup(harness.clock.seconds(), backup, A, "wings", "place")
    return answer_to(harness.callbacks.add_backup(A, backup, Outcome.SUCCESS, BODY, kind))


def end_installation(
    harness: QueueHarness, outcome: Outcome = Outcome.SUCCESS, *, reinstall: bool = False
) -> Deferred[bool]:
    harness.store.begin_installation(harness.clock.seconds(), A, reinstall=reinstall, start=False)
    return answer_to(harness.callbacks.add_installation(A, outcome, reinstall=reinstall))


def end_restore(harness: QueueHarness, outcome: Outcome = Outcome.SUCCESS) -> Deferred[bool]:
    record = harness.store.begin_restore(harness.clock.seconds(), A, BACKUP, truncate=False)
    return answer_to(harness.callbacks.add_restore(record, outcome))


#: How something ends, whose answers of the Panel it gets, and the call that reports it.
ENDS: list[tuple[Callable[[QueueHarness], Deferred[bool]], str, str]] = [
    (end_backup, BACKUP, f"/backups/{BACKUP}"),
    (end_installation, A, "installed"),
    (partial(end_installation, outcome=FAILURE), A, "not installed"),
    (partial(end_installation, reinstall=True), A, "installed again"),
    (partial(end_installation, outcome=FAILURE, reinstall=True), A, "not installed again"),
    (end_restore, A, f"restored {BACKUP}"),
    (partial(end_restore, outcome=FAILURE), A, f"not restored {BACKUP}"),
]


@pytest.mark.promise("backup-report-is-repeated", "installation-continues")
@pytest.mark.parametrize(("end", "asked", "call"), ENDS)
def test_an_end_takes_the_place_of_its_record_and_is_reported_until_it_is_taken(
    harness: QueueHarness, end: Callable[[QueueHarness], Deferred[bool]], asked: str, call: str
) -> None:
    harness.panel.answers[asked] = [DOWN, refused(429), refused(408), True]
    answer = end(harness)
    store = harness.store
    assert [*store.backups(), *store.installations(), *store.restores()] == []
    assert len(harness.callbacks.before_reset()) == 1
    harness.clock.pump([1, 2, 4])
    assert answer.result is True
    assert harness.panel.calls == [(call, asked)] * 4
    assert harness.panel.bodies == ([BODY] * 4 if end is end_backup else [])
    assert harness.unsettled() == []
    assert harness.callbacks.before_reset() == []


@pytest.mark.promise("backup-report-is-repeated", "installation-continues")
@pytest.mark.parametrize(("end", "asked", "call"), ENDS)
def test_a_panel_in_maintenance_hears_of_an_end_from_the_next_daemon(
    harness: QueueHarness, end: Callable[[QueueHarness], Deferred[bool]], asked: str, call: str
) -> None:
    harness.panel.answers[asked] = [DOWN] * 3
    end(harness)
    harness.restart()
    harness.restart()
    assert harness.unsettled() == [A]
    harness.clock.pump([1])
    assert harness.unsettled() == []
    assert harness.panel.calls == [(call, asked)] * 4
    assert harness.panel.bodies == ([BODY] * 4 if end is end_backup else [])


@pytest.mark.promise("backup-report-is-repeated")
@pytest.mark.parametrize("code", [400, 403, 404, 409, 422])
def test_a_report_that_is_refused_is_settled(harness: QueueHarness, code: int) -> None:
    for number, (end, asked, call) in enumerate((ENDS[0], ENDS[1], ENDS[5])):
        harness.panel.answers[asked] = [refused(code)]
        assert end(harness).result is False
        assert harness.panel.calls[number:] == [(call, asked)]
        assert harness.unsettled() == []
        assert f"was answered {code}" in harness.store.reports()[0].answer


@pytest.mark.promise("backup-report-is-repeated")
def test_a_report_does_not_wait_for_that_of_another_backup_or_of_a_transfer(
    harness: QueueHarness,
) -> None:
    harness.panel.answers = {BACKUP: [DOWN] * 9, A: [DOWN] * 9}
    transfer = harness.tell(FAILURE)
    first, second = end_backup(harness), end_backup(harness, SECOND)
    assert (transfer.called, first.called, second.result) == (False, False, True)
    harness.callbacks.drop(A)
    assert (transfer.result, first.called) == (False, False)


@pytest.mark.promise("backup-report-is-repeated")
def test_a_deletion_has_a_path_of_its_own_and_follows_the_report_of_its_backup(
    harness: QueueHarness,
) -> None:
    harness.panel.answers[BACKUP] = [DOWN, True, True]
    end_backup(harness)
    end_backup(harness, kind=ReportKind.BACKUP_DELETION)
    harness.clock.pump([1])
    made, deleted = f"/backups/{BACKUP}", f"/backups/{BACKUP}/deletion"
    assert [path for path, _ in harness.panel.calls] == [made, made, deleted]


def test_a_later_installation_takes_the_place_of_an_unheard_one(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN, True]
    first = end_installation(harness, FAILURE)
    second = end_installation(harness, reinstall=True)
    harness.clock.pump([1, 1])
    assert (first.result, second.result) == (False, True)
    assert harness.panel.calls == [("not installed", A), ("installed again", A)]
    assert harness.callbacks.before_reset() == []


def test_a_transfer_does_not_drop_the_report_of_an_installation(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN, True]
    answer = end_installation(harness, FAILURE)
    harness.callbacks.drop(A)
    assert harness.callbacks.success_of(A) is None
    harness.clock.pump([1])
    assert answer.result is True


@pytest.mark.promise("backup-report-is-repeated")
def test_an_installation_drops_no_report_of_a_restore(harness: QueueHarness) -> None:
    harness.panel.answers[A] = [DOWN]
    end_restore(harness)
    end_installation(harness, reinstall=True)
    harness.clock.pump([1, 1])
    assert harness.panel.calls == [(f"restored {BACKUP}", A)] * 2 + [("installed again", A)]
