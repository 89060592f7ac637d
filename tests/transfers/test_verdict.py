"""What the Panel makes of a transfer, and what is concluded from its answers."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wingsd.errors import PanelRefused, PanelUnreachable
from wingsd.transfers.verdict import Verdict

DOWN = PanelUnreachable("down", "x")


def refused(code: int) -> PanelRefused:
    return PanelRefused("no", "x", code)


class ScriptedPanel:
    """Answers each call with the next of `answers`; an exception is raised."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []

    def _answer(self, call: str) -> bool:
        self.calls.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    async def owns(self, uuid: str) -> bool:
        return self._answer("owns")

    async def transfer_succeeded(self, uuid: str) -> None:
        self._answer("success")

    async def transfer_failed(self, uuid: str) -> bool:
        return self._answer("failure")


def verdict(panel: ScriptedPanel, clock: Clock | None = None) -> Verdict:
    return Verdict("a-server", panel, clock or Clock())  # type: ignore[arg-type]


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
@pytest_twisted.ensureDeferred
async def test_the_source_asks_before_it_tells(
    answers: list[object], moved: bool, calls: list[str]
) -> None:
    panel = ScriptedPanel(*answers)
    assert await verdict(panel).has_moved() is moved
    assert panel.calls == calls


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
