"""How servers are asked to stop."""

from __future__ import annotations

import pytest

from wingsd.panel.schemas import Stop
from wingsd.servers.power_states import (
    EngineStop,
    StopCommand,
    StopMethod,
    StopSignal,
    stop_method,
)


@pytest.mark.parametrize(
    ("kind", "value", "way"),
    [
        ("command", "stop", StopCommand("stop")),
        ("command", "^C", StopSignal("SIGINT")),
        ("command", "", EngineStop()),
        ("signal", "C", StopSignal("SIGINT")),
        ("signal", "^C", StopSignal("SIGINT")),
        ("signal", "sigint", StopSignal("SIGINT")),
        ("signal", "SIGTERM", StopSignal("SIGTERM")),
        ("signal", "SIGABRT", StopSignal("SIGABRT")),
        ("signal", "SIGUSR1", StopSignal("SIGKILL")),
        ("signal", "", StopSignal("SIGKILL")),
        ("stop", "", EngineStop()),
        ("stop", "whatever", EngineStop()),
        ("", "", EngineStop()),
        ("nonsense", "x", EngineStop()),
    ],
)
def test_a_configuration_names_a_way(kind: str, value: str, way: StopMethod) -> None:
    assert stop_method(Stop(kind, value)) == way
