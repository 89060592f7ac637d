"""Which way a transfer may go, at either node."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.support.step_logs import StepLogHarness
from wingsd.transfers.steps import ReceiveStep, SendStep, State, StepLog

STEPS = [*ReceiveStep, *SendStep]
ENDS = [ReceiveStep.DONE, ReceiveStep.FAILED, SendStep.DONE, SendStep.FAILED]


def at(step: Any) -> StepLog[Any]:
    """Return the log of a transfer that has come to a step."""
    log = StepLogHarness(type(step)).step_log
    if step is not log.current:
        log.advance(step)
    return log


@pytest.mark.parametrize("steps", [ReceiveStep, SendStep])
def test_states_are_in_the_documents_order(steps: type[ReceiveStep] | type[SendStep]) -> None:
    seen = [state for state, _ in itertools.groupby(step.state for step in steps)]
    words = ["pending", "processing", "success", "failure"]
    assert [state.name.lower() for state in seen] == words
    assert all(state.name.lower() in state.value for state in seen)
    assert set(seen) == set(State)


def test_final_states_have_the_words_of_the_panels_page() -> None:
    assert State.SUCCESS.value == ("success", "completed")
    assert State.FAILURE.value == ("failed", "failure")


@pytest.mark.parametrize("step", ReceiveStep)
def test_steps_are_ordered(step: ReceiveStep) -> None:
    order, log = list(ReceiveStep), at(step)
    before = {other for other in order if log.before(other)}
    assert before == set(order[order.index(step) + 1 :])


@pytest.mark.parametrize("step", [step for step in STEPS if step not in ENDS])
def test_every_step_but_the_ends_can_fail(step: ReceiveStep | SendStep) -> None:
    log = at(step)
    log.advance(type(step).FAILED)
    assert log.over


@pytest.mark.parametrize("step", ENDS)
def test_nothing_follows_an_end(step: ReceiveStep | SendStep) -> None:
    for to in type(step):
        with pytest.raises(ValueError, match="cannot go from"):
            at(step).advance(to)


@pytest.mark.parametrize("steps", [ReceiveStep, SendStep])
def test_a_step_cannot_go_back(steps: type[ReceiveStep] | type[SendStep]) -> None:
    for earlier, later in itertools.combinations_with_replacement(list(steps)[1:], 2):
        with pytest.raises(ValueError, match="cannot go from"):
            at(later).advance(earlier)
