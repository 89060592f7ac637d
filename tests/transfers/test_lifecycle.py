"""Which way a transfer may go."""

from __future__ import annotations

import itertools

import pytest

from wingsd.transfers.lifecycle import Lifecycle, State, Step

GIVE_UP = {Step.ADMIT, Step.RECEIVE, Step.VERIFY}
ENDS = {Step.DONE, Step.FAILED}


def at(step: Step) -> Lifecycle:
    life = Lifecycle()
    if step is not Step.ADMIT:
        life.advance(step)
    return life


def test_the_states_are_the_documents_in_its_order() -> None:
    seen = [state for state, _ in itertools.groupby(step.state for step in Step)]
    assert [state.value for state in seen] == ["pending", "processing", "success", "failure"]
    assert set(seen) == set(State)


@pytest.mark.parametrize("step", Step)
def test_it_can_be_given_up_until_it_is_verified(step: Step) -> None:
    assert at(step).can_be_given_up == (step in GIVE_UP)


@pytest.mark.parametrize("step", set(Step) - ENDS)
def test_every_step_but_the_ends_can_fail(step: Step) -> None:
    life = at(step)
    life.advance(Step.FAILED)
    assert life.over


@pytest.mark.parametrize("step", ENDS)
@pytest.mark.parametrize("to", Step)
def test_nothing_follows_an_end(step: Step, to: Step) -> None:
    with pytest.raises(ValueError, match="cannot go from"):
        at(step).advance(to)


def test_there_is_no_way_back() -> None:
    for earlier, later in itertools.combinations_with_replacement(list(Step)[1:], 2):
        with pytest.raises(ValueError, match="cannot go from"):
            at(later).advance(earlier)
