"""What leads from one state of a server to another."""

from __future__ import annotations

import pytest

from wingsd.servers.power_states import PowerAction, PowerEvent, PowerState, next_state


@pytest.mark.parametrize(
    "way",
    [
        [
            (PowerEvent.START, "starting"),
            (PowerEvent.READY, "running"),
            (PowerEvent.END, "offline"),
        ],
        [(PowerEvent.START, "starting"), (PowerEvent.END, "offline")],
        [
            (PowerEvent.START, "starting"),
            (PowerEvent.STOP, "stopping"),
            (PowerEvent.END, "offline"),
        ],
        [
            (PowerEvent.ADOPTED, "running"),
            (PowerEvent.STOP, "stopping"),
            (PowerEvent.STOP, "stopping"),
        ],
        [
            (PowerEvent.ADOPTED, "running"),
            (PowerEvent.STOP, "stopping"),
            (PowerEvent.READY, "stopping"),
        ],
        [
            (PowerEvent.ADOPTED, "running"),
            (PowerEvent.STOP, "stopping"),
            (PowerEvent.STOP_FAILED, "running"),
            (PowerEvent.STOP_FAILED, "running"),
        ],
        [(PowerEvent.END, "offline")],
    ],
)
def test_events_change_the_state(way: list[tuple[PowerEvent, str]]) -> None:
    state = PowerState.OFFLINE
    for event, word in way:
        state = next_state(state, event)
        assert state.value == word


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (PowerState.OFFLINE, PowerEvent.READY),
        (PowerState.OFFLINE, PowerEvent.STOP),
        (PowerState.RUNNING, PowerEvent.START),
        (PowerState.STARTING, PowerEvent.START),
        (PowerState.STARTING, PowerEvent.ADOPTED),
    ],
)
def test_an_impossible_event_is_a_value_error(state: PowerState, event: PowerEvent) -> None:
    with pytest.raises(ValueError, match=state.value):
        next_state(state, event)


def test_every_state_can_end() -> None:
    assert {next_state(state, PowerEvent.END) for state in PowerState} == {PowerState.OFFLINE}


def test_which_actions_lead_to_a_running_server() -> None:
    assert [action.value for action in PowerAction if action.starts] == ["start", "restart"]
