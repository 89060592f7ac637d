"""The power states of a server, and the transitions between them.

The values are those of the Panel's page (`status` events, `set state`).
"""

from __future__ import annotations

from enum import Enum


class PowerState(Enum):
    """The state of a server's program."""

    OFFLINE = "offline"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class PowerAction(Enum):
    """The power actions of the API."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    KILL = "kill"

    @property
    def starts(self) -> bool:
        """True if the action starts the server."""
        return self in (PowerAction.START, PowerAction.RESTART)


class PowerEvent(Enum):
    """The events that change a server's state."""

    START = "a start begins"
    READY = "its program has printed the line for a finished startup"
    ADOPTED = "its program was found running"
    STOP = "it is asked to stop"
    STOP_FAILED = "it could not be asked to stop"
    END = "its program has ended, or could not be started"


_TRANSITIONS = {
    (PowerState.OFFLINE, PowerEvent.START): PowerState.STARTING,
    (PowerState.OFFLINE, PowerEvent.ADOPTED): PowerState.RUNNING,
    (PowerState.STARTING, PowerEvent.READY): PowerState.RUNNING,
    (PowerState.STARTING, PowerEvent.STOP): PowerState.STOPPING,
    (PowerState.RUNNING, PowerEvent.STOP): PowerState.STOPPING,
    (PowerState.STOPPING, PowerEvent.STOP_FAILED): PowerState.RUNNING,
    (PowerState.STARTING, PowerEvent.END): PowerState.OFFLINE,
    (PowerState.RUNNING, PowerEvent.END): PowerState.OFFLINE,
    (PowerState.STOPPING, PowerEvent.END): PowerState.OFFLINE,
    # Repeated or late events change nothing.
    (PowerState.OFFLINE, PowerEvent.END): PowerState.OFFLINE,
    (PowerState.RUNNING, PowerEvent.READY): PowerState.RUNNING,
    (PowerState.STOPPING, PowerEvent.READY): PowerState.STOPPING,
    (PowerState.STOPPING, PowerEvent.STOP): PowerState.STOPPING,
    (PowerState.RUNNING, PowerEvent.STOP_FAILED): PowerState.RUNNING,
}


def next_state(state: PowerState, event: PowerEvent) -> PowerState:
    """Return the state that follows. Raises `ValueError` where `event` is impossible."""
    try:
        return _TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"{event.value}, but the server is {state.value}") from None
