"""What the Panel makes of a transfer, and what is concluded from its answers."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wingsd.panel.errors import PanelRefused, PanelUnreachable
from wingsd.transfers.ownership import OwnershipCheck

DOWN = PanelUnreachable("down", "x")


def refused(code: int) -> PanelRefused:
    return PanelRefused("no", "x", code)


class ScriptedPanel:
    """Answers each call with the next of `answers`; an exception is raised."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []

    async def _answer(self, call: str) -> bool:
        self.calls.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, Deferred):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    async def owns(self, uuid: str) -> bool:
        return await self._answer("owns")

    async def transfer_succeeded(self, uuid: str) -> None:
        await self._answer("success")

    async def transfer_failed(self, uuid: str) -> bool:
        return await self._answer("failure")


def verdict(panel: ScriptedPanel, clock: Clock | None = None, age: float = 0) -> OwnershipCheck:
    return OwnershipCheck("a-server", panel, clock or Clock(), age)  # type: ignore[arg-type]


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
@pytest_twisted.ensureDeferred
async def test_the_source_asks_before_it_tells(
    answers: list[object], moved: bool, calls: list[str], lost: bool
) -> None:
    panel = ScriptedPanel(*answers)
    asked = verdict(panel, age=61)
    assert await asked.has_moved(lost=lost) is moved
    assert panel.calls == calls
    assert not asked.is_denied


# The transfer's first minute, in which the Panel may not have committed it

DENIED = [True, False, True]


@pytest.mark.parametrize(
    ("answers", "moved"), [([True, True], False), ([False], True), ([True, False, False], True)]
)
def test_a_lost_destination_may_succeed_while_the_panel_denies_the_transfer(
    answers: list[object], moved: bool
) -> None:
    clock = Clock()
    panel = ScriptedPanel(*DENIED, *DENIED, *answers)
    asking = Deferred.fromCoroutine(verdict(panel, clock, age=1).has_moved(lost=True))
    assert not asking.called
    clock.pump([0.5] * 8)
    assert asking.result is moved
    assert panel.answers == []


def test_after_that_minute_it_stays_where_it_is() -> None:
    clock = Clock()
    panel = ScriptedPanel(*DENIED * 30)
    asking = Deferred.fromCoroutine(verdict(panel, clock, age=10).has_moved(lost=True))
    clock.pump([0.5] * 99)
    assert not asking.called
    clock.pump([0.5] * 2)
    assert asking.result is False


@pytest_twisted.ensureDeferred
async def test_of_a_destination_that_has_failed_only_the_failure_is_to_be_told_again() -> None:
    asked = verdict(ScriptedPanel(*DENIED))
    assert await asked.has_moved() is False
    assert asked.is_denied


def test_a_cancel_ends_the_wait_for_a_transfer_that_the_panel_denies() -> None:
    clock = Clock()
    asked = verdict(ScriptedPanel(*DENIED * 2), clock)
    asking = Deferred.fromCoroutine(asked.has_moved(lost=True))
    asked.hurry()
    assert asking.result is False
    assert asked.is_denied
    assert clock.getDelayedCalls() == []


# The grace of a destination whose answer is lost


def test_in_the_grace_the_panel_is_asked_every_few_seconds_and_told_nothing() -> None:
    clock = Clock()
    panel = ScriptedPanel(*[True] * 1000)
    asking = Deferred.fromCoroutine(verdict(panel, clock).moves_within(600))
    clock.pump([1.0] * 599)
    assert not asking.called
    assert set(panel.calls) == {"owns"}
    assert 90 < len(panel.calls) < 200
    clock.pump([1.0] * 2)
    assert asking.result is False


def test_the_grace_ends_when_the_server_has_moved_whatever_else_the_panel_says() -> None:
    clock = Clock()
    panel = ScriptedPanel(True, DOWN, refused(403), False)
    asking = Deferred.fromCoroutine(verdict(panel, clock).moves_within(600))
    clock.pump([1.0] * 10)
    assert asking.result is True
    assert clock.getDelayedCalls() == []


def test_a_cancel_ends_the_grace_at_once() -> None:
    clock = Clock()
    asked = verdict(ScriptedPanel(True), clock)
    asking = Deferred.fromCoroutine(asked.moves_within(600))
    asked.hurry()
    assert asking.result is False
    assert clock.getDelayedCalls() == []


def test_so_it_does_while_the_panel_does_not_answer() -> None:
    asked = verdict(ScriptedPanel(Deferred()))
    asking = Deferred.fromCoroutine(asked.moves_within(600))
    asked.hurry()
    assert asking.result is False


def test_it_asks_until_the_panel_answers() -> None:
    clock = Clock()
    panel = ScriptedPanel(DOWN, True, DOWN, refused(500), False)
    asking = Deferred.fromCoroutine(verdict(panel, clock).has_moved())
    clock.pump([1, 2])
    assert not asking.called
    clock.advance(4)
    assert asking.result is True
    assert panel.calls == ["owns", "owns", "failure", "owns", "owns"]


def test_a_panel_that_is_down_for_long_is_asked_once_a_minute() -> None:
    clock = Clock()
    panel = ScriptedPanel(*[DOWN] * 30)
    asking = Deferred.fromCoroutine(verdict(panel, clock).has_moved())
    clock.pump([1, 2, 4, 8, 16, 32])
    asked = len(panel.calls)
    clock.pump([1.0] * 600)
    assert len(panel.calls) - asked == 10
    asking.addErrback(lambda _: None)
    asking.cancel()
