"""How servers are asked to stop."""

from __future__ import annotations

import pytest

from tests.servers.harness import UUID, Outcome
from tests.support.environment import FakeContainers, FakeProcess
from wingsd.panel.schemas import Stop
from wingsd.servers.server import request_stop


@pytest.mark.parametrize(
    ("kind", "value", "request_"),
    [
        ("command", "stop", ("command", "stop")),
        ("command", "^C", ("signal", "SIGINT")),
        ("command", "", ("stop",)),
        ("signal", "C", ("signal", "SIGINT")),
        ("signal", "^C", ("signal", "SIGINT")),
        ("signal", "sigint", ("signal", "SIGINT")),
        ("signal", "SIGTERM", ("signal", "SIGTERM")),
        ("signal", "SIGABRT", ("signal", "SIGABRT")),
        ("signal", "SIGUSR1", ("signal", "SIGKILL")),
        ("signal", "", ("signal", "SIGKILL")),
        ("stop", "", ("stop",)),
        ("stop", "whatever", ("stop",)),
        ("", "", ("stop",)),
        ("nonsense", "x", ("stop",)),
    ],
)
def test_a_configuration_names_a_way(kind: str, value: str, request_: tuple[str, ...]) -> None:
    containers = FakeContainers()
    containers.running[UUID] = process = FakeProcess(UUID, containers, None)
    Outcome.of(request_stop(process, Stop(kind, value))).value()
    name, *argument = request_
    assert containers.calls == [(name, UUID, *argument)]
