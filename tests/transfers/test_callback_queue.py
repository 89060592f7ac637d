"""Reports that are told until the Panel has heard them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support import SynchronousWorkers
from tests.support.logged_errors import LoggedErrors
from wingsd.errors import StorageError
from wingsd.panel.http_client import PanelRefused, PanelUnreachable, ServerNotAssigned
from wingsd.statedb import Direction, Outcome, Report, StateDatabase
from wingsd.statedb.store import Store
from wingsd.transfers.panel_callbacks import BACKOFF, CallbackQueue, PendingReport

A, B = "a-server", "b-server"
YEAR = 365 * 24 * 3600.0
DOWN = PanelUnreachable("down", "x")


def refused(code: int, retry_after: float = 0) -> PanelRefused:
    return PanelRefused("no", f"it was answered {code}", code, retry_after)


class ScriptedPanel:
    """Answers each call with the next of its server's `answers`; an exception is raised."""

    def __init__(self) -> None:
        self.answers: dict[str, list[object]] = {}
        self.calls: list[tuple[str, str]] = []
        #: Whether it describes a server to this node.
        self.describes = True

    async def _answer(self, call: str, server: str) -> bool:
        self.calls.append((call, server))
        answers = self.answers.get(server)
        answer = answers.pop(0) if answers else True
        if isinstance(answer, Deferred):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    async def owns(self, server: str) -> bool:
        return await self._answer("owns", server)

    async def describe(self, server: str) -> None:
        if not self.describes:
            raise ServerNotAssigned("not for this node")

    async def transfer_succeeded(
        self, server: str, backups: tuple[str, ...] | None = None
    ) -> None:
        await self._answer("success", server)

    async def transfer_failed(self, server: str) -> bool:
        return await self._answer("failure", server)


class House:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.panel = ScriptedPanel()
        self.clock = Clock()
        #: By how much the wall clock is ahead of the one that nobody sets.
        self.set_by = 0.0
        self.restart()

    def restart(self) -> None:
        """Be the next daemon."""
        self.store = Store(str(self.directory))
        self.store.open()
        workers: Any = SynchronousWorkers()
        self.database = StateDatabase(
            self.store, workers, lambda: self.clock.seconds() + self.set_by
        )
        panel: Any = self.panel
        self.callbacks = CallbackQueue(panel, self.database, self.clock)

    def begin(self, *, seconds_ago: float) -> None:
        """Have begun a transfer of A."""
        begun = self.clock.seconds() - seconds_ago
        self.store.begin(begun, A, Direction.IN, "RECEIVE")

    def tell(self, outcome: Outcome, server: str = A) -> Deferred[bool]:
        adding = Deferred.fromCoroutine(self.callbacks.add(server, outcome))
        pending: Any = adding.result
        return pending.answer  # type: ignore[no-any-return]

    def unsettled(self) -> list[str]:
        return [report.server for report in self.store.unsettled()]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.callbacks.stop()
    made.store.close()


def test_a_report_that_is_heard_is_settled(house: House) -> None:
    settled = house.tell(Outcome.SUCCESS)
    assert settled.result is True
    assert house.panel.calls == [("success", A)]
    assert house.unsettled() == []
    assert house.callbacks.success_of(A) is None


def test_what_is_said_to_be_told_is_settled_in_the_journal(
    house: House, logged_errors: LoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bool] = []
    settle = house.store.settle

    def settling(now: float, report: Report, answer: str) -> None:
        said.append(f"{A}: {answer}" in logged_errors.lines)
        settle(now, report, answer)

    monkeypatch.setattr(house.store, "settle", settling)
    house.tell(Outcome.SUCCESS)
    assert said == [False]
    assert f"{A}: the success was reported to the Panel" in logged_errors.lines


@pytest.mark.parametrize("fault", [DOWN, refused(401), refused(403), refused(429), refused(422)])
@pytest.mark.parametrize("outcome", Outcome)
def test_whatever_says_nothing_of_the_transfer_is_tried_again(
    house: House, outcome: Outcome, fault: Exception
) -> None:
    house.panel.answers[A] = [fault, fault]
    settled = house.tell(outcome)
    assert house.unsettled() == [A]
    house.clock.pump([1, 2])
    assert settled.result is True
    assert house.unsettled() == []


def test_the_pauses_grow_to_minutes(house: House) -> None:
    house.panel.answers[A] = [DOWN] * 40
    house.tell(Outcome.SUCCESS)
    house.clock.pump([1.0] * 511)
    before = len(house.panel.calls)
    house.clock.pump([BACKOFF.longest] * 10)
    assert len(house.panel.calls) == before + 10


def test_a_panel_that_wants_to_be_left_alone_is(house: House) -> None:
    house.panel.answers[A] = [refused(429, retry_after=60)]
    settled = house.tell(Outcome.SUCCESS)
    house.clock.advance(59)
    assert len(house.panel.calls) == 1
    house.clock.advance(1)
    assert settled.result is True


@pytest.mark.parametrize("code", [404, 409])
@pytest.mark.parametrize("ours", [False, True])
def test_a_success_without_an_open_transfer_is_settled_by_asking(
    house: House, code: int, ours: bool
) -> None:
    house.begin(seconds_ago=61)
    house.panel.answers[A] = [refused(code), ours]
    assert house.tell(Outcome.SUCCESS).result is ours
    assert house.panel.calls == [("success", A), ("owns", A)]
    assert house.unsettled() == []


def test_while_that_cannot_be_asked_nothing_is_concluded(house: House) -> None:
    house.panel.answers[A] = [refused(409), DOWN, refused(409), True]
    settled = house.tell(Outcome.SUCCESS)
    assert not settled.called
    house.clock.advance(1)
    assert settled.result is True


@pytest.mark.parametrize("answer", [False, refused(404)])
def test_a_failure_that_the_other_node_told_first_is_settled(house: House, answer: object) -> None:
    house.begin(seconds_ago=61)
    house.panel.answers[A] = [answer]
    assert house.tell(Outcome.FAILURE).result is True
    assert house.unsettled() == []


# The transfer's first minute, in which the Panel may not have committed it


#: What a Panel says to a failure, and to a success, of a transfer that it does not know.
DENIALS: dict[Outcome, list[list[object]]] = {
    Outcome.FAILURE: [[False], [refused(404)]],
    Outcome.SUCCESS: [[refused(409), False], [refused(404), False]],
}


@pytest.mark.parametrize(
    ("outcome", "denial"), [(outcome, each) for outcome in Outcome for each in DENIALS[outcome]]
)
def test_a_transfer_that_the_panel_denies_is_told_again_in_its_first_minute(
    house: House, outcome: Outcome, denial: list[object]
) -> None:
    house.begin(seconds_ago=1)
    house.panel.answers[A] = [*denial, *denial, True]
    settled = house.tell(outcome)
    assert house.callbacks.is_denied(A)
    house.clock.pump([0.5] * 12)
    assert settled.result is True
    assert [call for call, _ in house.panel.calls].count(outcome.value) == 3
    assert house.unsettled() == []
    assert not house.callbacks.is_denied(A)


@pytest.mark.parametrize(("outcome", "so"), [(Outcome.FAILURE, True), (Outcome.SUCCESS, False)])
def test_after_that_minute_a_denial_is_the_end(house: House, outcome: Outcome, so: bool) -> None:
    house.begin(seconds_ago=1)
    house.panel.answers[A] = DENIALS[outcome][0] * 100
    settled = house.tell(outcome)
    house.clock.pump([0.5] * 117)
    assert not settled.called
    house.clock.pump([0.5] * 2)
    assert settled.result is so
    asked = [call for call, _ in house.panel.calls].count(outcome.value)
    assert 5 < asked < 12  # with growing pauses
    assert house.unsettled() == []


@pytest.mark.parametrize(("outcome", "so"), [(Outcome.FAILURE, True), (Outcome.SUCCESS, False)])
def test_a_panel_that_describes_the_server_no_more_has_closed_the_transfer(
    house: House, outcome: Outcome, so: bool
) -> None:
    # It did when the transfer began, for the transfer alone: so it has known it.
    house.begin(seconds_ago=1)
    house.panel.describes = False
    house.panel.answers[A] = list(DENIALS[outcome][0])
    assert house.tell(outcome).result is so


def test_a_success_that_was_heard_before_is_settled_in_the_first_minute(house: House) -> None:
    house.begin(seconds_ago=1)
    house.panel.answers[A] = [refused(409), True]
    assert house.tell(Outcome.SUCCESS).result is True


@pytest.mark.parametrize(("later", "is_told_again"), [(30, True), (70, False)])
def test_the_first_minute_goes_on_over_a_restart(
    house: House, later: float, is_told_again: bool
) -> None:
    house.begin(seconds_ago=1)
    house.panel.answers[A] = [False, False, True]
    house.tell(Outcome.FAILURE)
    house.callbacks.stop()
    house.store.close()
    house.clock.advance(later)
    house.restart()
    Deferred.fromCoroutine(house.callbacks.load())
    assert (house.unsettled() == [A]) is is_told_again
    house.clock.pump([0.5] * 4)
    assert house.unsettled() == []
    assert len(house.panel.calls) == (3 if is_told_again else 2)


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_no_clock_that_is_set_makes_the_first_minute_longer(house: House, jump: float) -> None:
    house.begin(seconds_ago=1)
    house.panel.answers[A] = [False] * 100
    settled = house.tell(Outcome.FAILURE)
    house.set_by = jump
    house.clock.pump([0.5] * 119)
    assert settled.result is True
    house.set_by = 0
    house.begin(seconds_ago=1)
    house.tell(Outcome.FAILURE)
    house.callbacks.stop()
    house.store.close()
    house.set_by = jump
    house.restart()
    Deferred.fromCoroutine(house.callbacks.load())
    assert house.unsettled() == []


def test_the_minute_is_that_of_the_transfer_that_is_reported(house: House) -> None:
    house.begin(seconds_ago=1)
    house.store.begin(house.clock.seconds() - 3600, A, Direction.OUT, "SEND", direct=True)
    house.panel.answers[A] = [False, True]
    settled = house.tell(Outcome.FAILURE)
    # One that begins later changes nothing.
    house.begin(seconds_ago=3600)
    assert not settled.called
    house.clock.pump([0.5] * 4)
    assert settled.result is True


def test_a_failure_that_is_denied_is_dropped_for_the_next_transfer(house: House) -> None:
    house.begin(seconds_ago=1)
    house.panel.answers[A] = [False] * 9
    denied = house.tell(Outcome.FAILURE)
    house.callbacks.drop(A, denied=True)
    assert denied.result is False
    house.panel.answers[A] = [DOWN, True]
    unheard = house.tell(Outcome.FAILURE)
    house.callbacks.drop(A, denied=True)
    house.clock.advance(1)
    assert unheard.result is True


def test_a_daemon_that_ends_does_not_wait_for_what_is_denied(house: House) -> None:
    house.begin(seconds_ago=1)
    house.panel.answers[A] = [False] * 9
    house.tell(Outcome.FAILURE)
    drained = Deferred.fromCoroutine(house.callbacks.drain(2))
    assert drained.called
    assert house.unsettled() == [A]


def test_one_servers_reports_are_told_in_order_and_hold_up_no_other(house: House) -> None:
    house.panel.answers[A] = [DOWN]
    first, second = house.tell(Outcome.SUCCESS), house.tell(Outcome.FAILURE)
    assert house.tell(Outcome.SUCCESS, B).result is True
    assert (first.called, second.called) == (False, False)
    house.clock.advance(1)
    assert (first.result, second.result) == (True, True)
    assert house.panel.calls == [("success", A), ("success", B), ("success", A), ("failure", A)]


def test_what_was_not_heard_is_told_by_the_next_daemon(house: House) -> None:
    house.panel.answers[A] = [DOWN, True]
    settled = house.tell(Outcome.SUCCESS)
    assert house.callbacks.success_of(A) == PendingReport(settled)
    house.callbacks.stop()
    house.store.close()
    house.restart()
    (report,) = house.store.unsettled()
    assert (report.server, report.outcome, report.attempts) == (A, Outcome.SUCCESS, 1)
    Deferred.fromCoroutine(house.callbacks.load())
    assert house.unsettled() == []
    assert house.panel.calls == [("success", A), ("success", A)]
    assert house.clock.getDelayedCalls() == []


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_is_set_changes_neither_pauses_nor_order(house: House, jump: float) -> None:
    house.panel.answers[A] = [DOWN, DOWN, DOWN]
    house.tell(Outcome.SUCCESS)
    house.set_by = jump
    house.tell(Outcome.FAILURE)
    house.database.prune()
    house.clock.advance(0.9)
    assert house.panel.calls == [("success", A)]
    house.clock.advance(0.1)
    assert house.panel.calls == [("success", A)] * 2
    house.callbacks.stop()
    house.store.close()
    house.set_by = 0
    house.restart()
    Deferred.fromCoroutine(house.callbacks.load())
    house.clock.advance(1)
    assert house.panel.calls[2:] == [("success", A), ("success", A), ("failure", A)]
    assert house.unsettled() == []


def test_a_stopped_outbox_tells_nothing_more(house: House) -> None:
    house.panel.answers[A] = [DOWN] * 5
    settled = house.tell(Outcome.SUCCESS)
    house.callbacks.stop()
    house.clock.advance(1000)
    assert len(house.panel.calls) == 1
    assert not settled.called


def test_an_old_failure_does_not_end_a_new_transfer(house: House) -> None:
    house.panel.answers[A] = [DOWN] * 5
    failure, success = house.tell(Outcome.FAILURE), house.tell(Outcome.SUCCESS)
    house.callbacks.drop(A)
    assert failure.result is False
    assert not success.called
    assert len(house.store.unsettled()) == 1


def test_a_full_disk_keeps_no_failure_from_being_told(
    house: House, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(house.store, "add_report", full)
    assert house.tell(Outcome.FAILURE).result is True
    refused_success = Deferred.fromCoroutine(house.callbacks.add(A, Outcome.SUCCESS))
    errors: list[Any] = []
    refused_success.addErrback(errors.append)
    assert errors[0].check(StorageError)
    assert ("success", A) not in house.panel.calls
