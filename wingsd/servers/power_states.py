"""The states of a server's power, and how it is stopped.

The words are those of the Panel's page (`status` events, `set state`).
"""

from __future__ import annotations

from enum import Enum

import attrs

from wingsd.panel.schemas import Stop

__all__ = [
    "EngineStop",
    "Happening",
    "PowerAction",
    "PowerState",
    "StopCommand",
    "StopSignal",
    "StopWay",
    "after",
    "stop_way",
]


class PowerState(Enum):
    """What a server's program is doing."""

    OFFLINE = "offline"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class PowerAction(Enum):
    """What people ask of a server's power."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    KILL = "kill"

    @property
    def starts(self) -> bool:
        """Whether the server is to run in the end."""
        return self in (PowerAction.START, PowerAction.RESTART)


class Happening(Enum):
    """What changes a server's state."""

    START = "it is being started"
    UP = "it says that it is up"
    FOUND = "it was found running"
    STOP = "it is asked to stop"
    GOES_ON = "it could not be asked to stop"
    END = "its program has ended, or could not be started"


_WAYS = {
    (PowerState.OFFLINE, Happening.START): PowerState.STARTING,
    (PowerState.OFFLINE, Happening.FOUND): PowerState.RUNNING,
    (PowerState.STARTING, Happening.UP): PowerState.RUNNING,
    (PowerState.STARTING, Happening.STOP): PowerState.STOPPING,
    (PowerState.RUNNING, Happening.STOP): PowerState.STOPPING,
    (PowerState.STOPPING, Happening.GOES_ON): PowerState.RUNNING,
    (PowerState.STARTING, Happening.END): PowerState.OFFLINE,
    (PowerState.RUNNING, Happening.END): PowerState.OFFLINE,
    (PowerState.STOPPING, Happening.END): PowerState.OFFLINE,
    # What changes nothing: asked once more, said once more, or said too late.
    (PowerState.OFFLINE, Happening.END): PowerState.OFFLINE,
    (PowerState.RUNNING, Happening.UP): PowerState.RUNNING,
    (PowerState.STOPPING, Happening.UP): PowerState.STOPPING,
    (PowerState.STOPPING, Happening.STOP): PowerState.STOPPING,
    (PowerState.RUNNING, Happening.GOES_ON): PowerState.RUNNING,
}


def after(state: PowerState, happening: Happening) -> PowerState:
    """Return the state that follows. Raises `ValueError` where `happening` cannot be."""
    try:
        return _WAYS[state, happening]
    except KeyError:
        raise ValueError(f"{happening.value}, but it is {state.value}") from None


#: The names and the shorthands that eggs use; Wings kills by any other.
_SIGNALS = {
    "C": "SIGINT",
    "^C": "SIGINT",
    "SIGINT": "SIGINT",
    "SIGTERM": "SIGTERM",
    "SIGABRT": "SIGABRT",
}


@attrs.frozen
class StopCommand:
    """A line typed into the console."""

    line: str


@attrs.frozen
class StopSignal:
    """A signal to the program."""

    name: str


@attrs.frozen
class EngineStop:
    """The engine's own way."""


StopWay = StopCommand | StopSignal | EngineStop


def stop_way(stop: Stop) -> StopWay:
    """Return how to stop. `^C` as a command is what it is at a terminal: SIGINT."""
    value = stop.value.strip()
    match stop.type:
        case "command" if value == "^C":
            return StopSignal("SIGINT")
        case "command" if value:
            return StopCommand(stop.value)
        case "signal":
            return StopSignal(_SIGNALS.get(value.upper(), "SIGKILL"))
    return EngineStop()
