"""The power states of a server, the transitions between them, and the ways to stop a server.

The values are those of the Panel's page (`status` events, `set state`).
"""

from __future__ import annotations

from enum import Enum

import attrs

from wingsd.panel.schemas import Stop

__all__ = [
    "EngineStop",
    "PowerAction",
    "PowerEvent",
    "PowerState",
    "StopCommand",
    "StopMethod",
    "StopSignal",
    "next_state",
    "stop_method",
]


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
        """Whether the action starts the server."""
        return self in (PowerAction.START, PowerAction.RESTART)


class PowerEvent(Enum):
    """What changes a server's state."""

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


#: Names and shorthands in eggs; for any other, Wings sends SIGKILL.
_SIGNALS = {
    "C": "SIGINT",
    "^C": "SIGINT",
    "SIGINT": "SIGINT",
    "SIGTERM": "SIGTERM",
    "SIGABRT": "SIGABRT",
}


@attrs.frozen(repr=False)
class StopCommand:
    """A line typed into the console."""

    line: str


@attrs.frozen(repr=False)
class StopSignal:
    """A signal to the program."""

    name: str


@attrs.frozen(repr=False)
class EngineStop:
    """The engine's stop, by the signal that the image names."""


StopMethod = StopCommand | StopSignal | EngineStop


def stop_method(stop: Stop) -> StopMethod:
    """Return how to stop. The command `^C` means SIGINT, as at a terminal."""
    value = stop.value.strip()
    match stop.type:
        case "command" if value == "^C":
            return StopSignal("SIGINT")
        case "command" if value:
            return StopCommand(stop.value)
        case "signal":
            return StopSignal(_SIGNALS.get(value.upper(), "SIGKILL"))
    return EngineStop()
