"""Whether a running server waits for a restart."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tests.servers.harness import UUID, FakeNode, Outcome, configuration, running
from wingsd.panel.schemas import Build, Image, Mount
from wingsd.servers.power_states import PowerAction
from wingsd.servers.server import Server


def changed(node: FakeNode, server: Server, **settings: Any) -> list[str]:
    """Return what is told when the Panel changes the settings to these."""
    node.events.clear()
    known = configuration()
    new = attrs.evolve(known, settings=attrs.evolve(known.settings, **settings))
    node.panel.known[UUID] = new
    Outcome.of(server.sync()).value()
    return node.told("pending restart")


@pytest.mark.parametrize(
    "settings",
    [
        {"invocation": "other"},
        {"environment": {"A": "1"}},
        {"container": Image("other")},
        {"mounts": (Mount("/a", "/b"),)},
        {"build": Build(oom_disabled=True)},
    ],
)
def test_settings_that_only_a_start_applies_are_pending(
    node: FakeNode, settings: dict[str, Any]
) -> None:
    server = running(node)
    assert changed(node, server, **settings) == ["true"]
    assert changed(node, server, **settings) == []
    assert server.pending_restart
    # The Panel has the first ones again.
    assert changed(node, server) == ["false"]
    assert not server.pending_restart


def test_limits_and_a_suspension_are_not(node: FakeNode) -> None:
    server = running(node)
    assert changed(node, server, build=Build(memory_limit=5, cpu_limit=3)) == []
    assert changed(node, server, suspended=True) == []


def test_the_next_start_has_them(node: FakeNode) -> None:
    server = running(node)
    changed(node, server, invocation="other")
    Outcome.of(server.power(PowerAction.KILL)).value()
    assert node.told("pending restart") == ["true", "false"]
    assert changed(node, server, invocation="third") == []
    Outcome.of(server.power(PowerAction.START)).value()
    assert node.told("pending restart") == []
    assert changed(node, server, invocation="third") == []
    assert changed(node, server, invocation="fourth") == ["true"]
