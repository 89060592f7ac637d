"""Which way a transfer may go, at either node."""

from __future__ import annotations

import itertools

import pytest

from wingsd.transfers.steps import Lifecycle, ReceiveStep, SendStep, State

STEPS = [*ReceiveStep, *SendStep]
ENDS = [ReceiveStep.DONE, ReceiveStep.FAILED, SendStep.DONE, SendStep.FAILED]


def at(step: ReceiveStep | SendStep) -> Lifecycle[ReceiveStep] | Lifecycle[SendStep]:
    life: Lifecycle[ReceiveStep] | Lifecycle[SendStep]
    life = Lifecycle(ReceiveStep) if isinstance(step, ReceiveStep) else Lifecycle(SendStep)
    if step is not life.step:
        life.advance(step)  # type: ignore[arg-type]  # of its own kind
    return life


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
    life = Lifecycle(ReceiveStep)
    if step is not ReceiveStep.ADMIT:
        life.advance(step)
    order = list(ReceiveStep)
    before = {other for other in order if life.before(other)}
    assert before == set(order[order.index(step) + 1 :])


@pytest.mark.parametrize("step", [step for step in STEPS if step not in ENDS])
def test_every_step_but_the_ends_can_fail(step: ReceiveStep | SendStep) -> None:
    life = at(step)
    life.advance(type(step).FAILED)  # type: ignore[arg-type]  # of its own kind
    assert life.over


@pytest.mark.parametrize("step", ENDS)
def test_nothing_follows_an_end(step: ReceiveStep | SendStep) -> None:
    for to in type(step):
        with pytest.raises(ValueError, match="cannot go from"):
            at(step).advance(to)  # type: ignore[arg-type]  # of its own kind


@pytest.mark.parametrize("steps", [ReceiveStep, SendStep])
def test_a_step_cannot_go_back(steps: type[ReceiveStep] | type[SendStep]) -> None:
    for earlier, later in itertools.combinations_with_replacement(list(steps)[1:], 2):
        with pytest.raises(ValueError, match="cannot go from"):
            at(later).advance(earlier)  # type: ignore[arg-type]  # of its own kind
