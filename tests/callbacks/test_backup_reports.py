"""The ends of backups are reported until the Panel has answered, over restarts."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.callbacks.queue_harness import DOWN, A, QueueHarness, refused
from wingsd.statedb import Outcome, ReportKind

pytestmark = pytest.mark.promise("backup-report-is-repeated")

BACKUP, SECOND = "a-backup", "another-backup"
BODY = {"successful": True, "size": 3}


def end(
    harness: QueueHarness, backup: str = BACKUP, kind: ReportKind = ReportKind.BACKUP
) -> Deferred[bool]:
    harness.store.begin_backup(harness.clock.seconds(), backup, A, "wings", "place")
    ending = harness.callbacks.add_backup(A, backup, Outcome.SUCCESS, BODY, kind)
    pending: Any = Deferred.fromCoroutine(ending).result
    return pending.answer  # type: ignore[no-any-return]


def test_a_report_takes_the_place_of_the_record_and_is_sent_until_it_is_taken(
    harness: QueueHarness,
) -> None:
    harness.panel.answers[BACKUP] = [DOWN, refused(429), refused(408), True]
    answer = end(harness)
    assert harness.store.backups() == []
    assert len(harness.callbacks.before_reset()) == 1
    harness.clock.pump([1, 2, 4])
    assert answer.result is True
    assert harness.panel.calls == [(f"/backups/{BACKUP}", BACKUP)] * 4
    assert harness.panel.bodies == [BODY] * 4
    assert harness.unsettled() == []
    assert harness.callbacks.before_reset() == []


def test_a_panel_in_maintenance_hears_of_it_from_the_next_daemon(harness: QueueHarness) -> None:
    harness.panel.answers[BACKUP] = [DOWN] * 3
    end(harness)
    harness.restart()
    harness.restart()
    assert harness.unsettled() == [A]
    harness.clock.pump([1])
    assert harness.unsettled() == []
    assert harness.panel.bodies == [BODY] * 4


@pytest.mark.promise("backup-report-is-repeated")
@pytest.mark.parametrize("code", [400, 403, 404, 422])
def test_a_report_that_is_refused_is_settled(harness: QueueHarness, code: int) -> None:
    harness.panel.answers[BACKUP] = [refused(code)]
    assert end(harness).result is False
    assert harness.unsettled() == []
    assert f"was answered {code}" in harness.store.reports()[0].answer


def test_a_report_does_not_wait_for_that_of_another_backup_or_of_a_transfer(
    harness: QueueHarness,
) -> None:
    harness.panel.answers = {BACKUP: [DOWN] * 9, A: [DOWN] * 9}
    transfer = harness.tell(Outcome.FAILURE)
    first, second = end(harness), end(harness, SECOND)
    assert (transfer.called, first.called, second.result) == (False, False, True)
    harness.callbacks.drop(A)
    assert (transfer.result, first.called) == (False, False)


def test_a_deletion_has_a_path_of_its_own_and_follows_the_report_of_its_backup(
    harness: QueueHarness,
) -> None:
    harness.panel.answers[BACKUP] = [DOWN, True, True]
    end(harness)
    end(harness, kind=ReportKind.BACKUP_DELETION)
    harness.clock.pump([1])
    made, deleted = f"/backups/{BACKUP}", f"/backups/{BACKUP}/deletion"
    assert [path for path, _ in harness.panel.calls] == [made, made, deleted]
