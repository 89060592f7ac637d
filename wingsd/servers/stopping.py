"""How a server is asked to stop: `process_configuration.stop`, as Wings reads it."""

from __future__ import annotations

import attrs

from wingsd.model import Stop

__all__ = ["EngineStop", "StopCommand", "StopSignal", "StopWay", "stop_way"]

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
