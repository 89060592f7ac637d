"""What leads from one state of a server to another."""

from __future__ import annotations

import pytest

from wingsd.servers.power_states import Happening, PowerAction, PowerState, after


@pytest.mark.parametrize(
    "way",
    [
        [(Happening.START, "starting"), (Happening.UP, "running"), (Happening.END, "offline")],
        [(Happening.START, "starting"), (Happening.END, "offline")],
        [(Happening.START, "starting"), (Happening.STOP, "stopping"), (Happening.END, "offline")],
        [(Happening.FOUND, "running"), (Happening.STOP, "stopping"), (Happening.STOP, "stopping")],
        [(Happening.FOUND, "running"), (Happening.STOP, "stopping"), (Happening.UP, "stopping")],
        [
            (Happening.FOUND, "running"),
            (Happening.STOP, "stopping"),
            (Happening.GOES_ON, "running"),
            (Happening.GOES_ON, "running"),
        ],
        [(Happening.END, "offline")],
    ],
)
def test_a_life_goes_its_way(way: list[tuple[Happening, str]]) -> None:
    state = PowerState.OFFLINE
    for happening, word in way:
        state = after(state, happening)
        assert state.value == word


@pytest.mark.parametrize(
    ("state", "happening"),
    [
        (PowerState.OFFLINE, Happening.UP),
        (PowerState.OFFLINE, Happening.STOP),
        (PowerState.RUNNING, Happening.START),
        (PowerState.STARTING, Happening.START),
        (PowerState.STARTING, Happening.FOUND),
    ],
)
def test_what_cannot_be_is_a_mistake(state: PowerState, happening: Happening) -> None:
    with pytest.raises(ValueError, match=state.value):
        after(state, happening)


def test_every_life_can_end() -> None:
    assert {after(state, Happening.END) for state in PowerState} == {PowerState.OFFLINE}


def test_which_actions_lead_to_a_running_server() -> None:
    assert [action.value for action in PowerAction if action.starts] == ["start", "restart"]
