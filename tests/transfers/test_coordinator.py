"""Questions to the Panel: whose is a server that comes, and where one is that was sent."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from tests.support.faults import meet
from tests.support.sample_server import UUID
from wingsd.callbacks import COMMITS_WITHIN, FirstMinute, QueuedReport
from wingsd.config import PTERODACTYL
from wingsd.errors import (
    PanelRefused,
    PanelUnreachable,
    ServerNotAssigned,
    TransferCancelled,
    TransferNotCommitted,
)
from wingsd.panel.schemas import Configuration, Settings
from wingsd.statedb import Outcome, Report
from wingsd.transfers.coordinator import PanelCoordinators, PanelSending

DOWN = PanelUnreachable("down", "x")


def refused(code: int) -> PanelRefused:
    return PanelRefused("no", "x", code)


class AnsweringPanel:
    """Answers each call with the next of `answers`; an exception is raised."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []

    async def _answer(self, call: str) -> bool:
        self.calls.append(call)
        return bool(await meet(self.answers.pop(0)))

    async def owns(self, uuid: str) -> bool:
        return await self._answer("owns")

    async def transfer_succeeded(self, uuid: str) -> None:
        await self._answer("success")

    async def transfer_failed(self, uuid: str) -> bool:
        return await self._answer("failure")


class Reports:
    """A callback queue that only counts the failures."""

    def __init__(self) -> None:
        self.failures = 0

    async def add(self, server: str, outcome: object) -> None:
        self.failures += 1


class Sending:
    """The coordinator of a transfer, asked whether the server has moved."""

    def __init__(
        self,
        *answers: object,
        age: float = 0,
        grace: float = 0,
        lost: bool = False,
        refused: bool = False,
    ) -> None:
        self.clock = Clock()
        self.panel, self.reports = AnsweringPanel(*answers), Reports()
        panel: Any = self.panel
        reports: Any = self.reports
        parts = PanelCoordinators(panel, reports, self.clock, PTERODACTYL)
        self.coordinator = PanelSending("a-server", parts, grace, age)
        asking = self.coordinator.has_moved(lost=lost, refused=refused)
        self.asking = Deferred.fromCoroutine(asking)

    def cancel(self) -> None:
        self.coordinator.stop_waiting(TransferCancelled())


@pytest.mark.parametrize(
    ("answers", "moved", "calls"),
    [
        ([False], True, ["owns"]),
        ([True, True], False, ["owns", "failure"]),
        # The destination was faster, with a failure or with a success.
        ([True, False, True], False, ["owns", "failure", "owns"]),
        ([True, False, False], True, ["owns", "failure", "owns"]),
    ],
)
@pytest.mark.parametrize("lost", [False, True])
def test_the_source_asks_before_it_reports_a_failure(
    answers: list[object], moved: bool, calls: list[str], lost: bool
) -> None:
    sending = Sending(*answers, age=61, lost=lost)
    assert sending.asking.result is moved
    assert sending.panel.calls == calls
    assert sending.reports.failures == 0


# The transfer's first minute, in which the Panel may not have committed it

DENIED = [True, False, True]


@pytest.mark.parametrize(
    ("answers", "moved"), [([True, True], False), ([False], True), ([True, False, False], True)]
)
def test_a_lost_destination_may_succeed_while_denied(answers: list[object], moved: bool) -> None:
    sending = Sending(*DENIED, *DENIED, *answers, age=1, lost=True)
    assert not sending.asking.called
    sending.clock.pump([0.5] * 8)
    assert sending.asking.result is moved
    assert sending.panel.answers == []


def test_a_server_stays_after_a_minute_of_denials() -> None:
    sending = Sending(*DENIED * 30, age=10, lost=True)
    sending.clock.pump([0.5] * 99)
    assert not sending.asking.called
    sending.clock.pump([0.5] * 2)
    assert sending.asking.result is False


def test_the_failure_of_a_denied_transfer_is_queued_when_the_destination_has_failed() -> None:
    sending = Sending(*DENIED, refused=True)
    assert sending.asking.result is False
    assert sending.reports.failures == 1


class SlowPanel:
    """A Panel that commits the transfer of a server `at` some second, for both of its nodes."""

    def __init__(self, clock: Clock, at: float) -> None:
        self._clock, self._at = clock, at
        self.outcome = ""

    def _closes(self, outcome: str) -> bool:
        is_open = self._clock.seconds() >= self._at and not self.outcome
        if is_open:
            self.outcome = outcome
        return is_open

    async def transfer_failed(self, uuid: str) -> bool:
        return self._closes("failure")

    async def transfer_succeeded(self, uuid: str, backups: object = None) -> None:
        if not self._closes("success"):
            raise refused(409)

    async def describe(self, uuid: str) -> None:
        pass


class PanelOfSource(SlowPanel):
    async def owns(self, uuid: str) -> bool:
        return self.outcome != "success"


class OfDestination:
    """The same Panel, as the destination asks it."""

    def __init__(self, panel: SlowPanel) -> None:
        self.transfer_succeeded, self.describe = panel.transfer_succeeded, panel.describe
        self._panel = panel

    async def owns(self, uuid: str) -> bool:
        return self._panel.outcome == "success"


@pytest.mark.promise("cancel-is-quick-and-safe")
@pytest.mark.parametrize("cancelled", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("committed", [1.0, 2.5, 20.0, 59.0])
def test_a_server_is_at_one_node_after_a_cancel_whenever_the_panel_commits_its_transfer(
    cancelled: float, committed: float
) -> None:
    """Its destination has all, does not hear of the cancel, and reports the success."""
    clock = Clock()
    panel: Any = PanelOfSource(clock, committed)
    reports: Any = Reports()
    source = PanelCoordinators(panel, reports, clock, PTERODACTYL, 600).sending("a-server")
    report = Report(1, "a-server", Outcome.SUCCESS, 0)
    destination: Any = OfDestination(panel)
    first = FirstMinute(clock, seconds=COMMITS_WITHIN)
    delivery = QueuedReport(report, destination, first)

    async def deliver() -> bool:
        while True:
            try:
                return (await delivery.attempt())[0]
            except TransferNotCommitted as error:
                await deferLater(clock, error.pause)

    is_there = Deferred.fromCoroutine(deliver())
    clock.advance(cancelled)
    source.stop_waiting(TransferCancelled())
    has_moved = Deferred.fromCoroutine(source.has_moved())
    clock.pump([0.1] * 700)
    assert has_moved.result is is_there.result is (panel.outcome == "success")
    assert panel.outcome


def test_in_the_grace_the_panel_is_asked_every_few_seconds_and_gets_no_report() -> None:
    sending = Sending(*[True] * 1000, grace=600, lost=True)
    sending.clock.pump([1.0] * 599)
    assert not sending.asking.called
    calls = sending.panel.calls
    assert set(calls) == {"owns"}
    assert 90 < len(calls) < 200
    sending.clock.pump([1.0] * 2)
    assert sending.asking.result is False
    assert calls[-2:] == ["owns", "failure"]


def test_a_cancel_ends_the_grace_while_the_panel_does_not_answer() -> None:
    sending = Sending(Deferred(), True, True, grace=600, lost=True)
    sending.cancel()
    assert sending.asking.result is False


@pytest.mark.promise("lost-answer-is-asked-for")
def test_the_panel_is_asked_until_it_answers() -> None:
    sending = Sending(DOWN, True, DOWN, refused(500), False)
    sending.clock.pump([1, 2])
    assert not sending.asking.called
    sending.clock.advance(4)
    assert sending.asking.result is True
    assert sending.panel.calls == ["owns", "owns", "failure", "owns", "owns"]


def test_a_panel_that_is_down_for_long_is_asked_once_a_minute() -> None:
    sending = Sending(*[DOWN] * 30)
    sending.clock.pump([1, 2, 4, 8, 16, 32])
    asked = len(sending.panel.calls)
    sending.clock.pump([1.0] * 600)
    assert len(sending.panel.calls) - asked == 10
    sending.asking.addErrback(lambda _: None)
    sending.asking.cancel()


# The Panel's word for a server that comes, in the first minute of its transfer


class AssigningPanel(AnsweringPanel):
    """Raises `answers`, one with each question about the server, and then describes it."""

    async def owns(self, uuid: str) -> bool:
        return False

    async def describe(self, uuid: str) -> Configuration:
        if self.answers:
            await self._answer("describe")
        return Configuration(Settings(uuid))


def admit(panel: AssigningPanel, clock: Clock) -> Deferred[Configuration]:
    faked: Any = panel
    parts = PanelCoordinators(faked, faked, clock, PTERODACTYL)
    return Deferred.fromCoroutine(parts.receiving(UUID).admit())


@pytest.mark.promise("late-commit-is-waited-for")
def test_a_server_is_admitted_once_the_panel_has_committed_its_transfer() -> None:
    clock = Clock()
    admitting = admit(AssigningPanel(*[ServerNotAssigned("no")] * 3), clock)
    assert not admitting.called
    clock.pump([0.5] * 14)
    assert admitting.result.settings.uuid == UUID  # type: ignore[attr-defined]


@pytest.mark.promise("late-commit-is-waited-for")
def test_after_a_minute_a_server_that_no_transfer_brings_is_refused() -> None:
    clock = Clock()
    panel = AssigningPanel(*[ServerNotAssigned("no")] * 100)
    admitting = admit(panel, clock)
    refused: list[Any] = []
    admitting.addErrback(refused.append)
    clock.pump([0.5] * 119)
    assert refused == []
    clock.pump([0.5] * 2)
    assert refused[0].check(ServerNotAssigned)
    assert len(panel.answers) > 88  # asked with growing pauses
