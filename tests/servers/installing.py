"""Installations in tests: begun, and checked at their end."""

from __future__ import annotations

from tests.servers.harness import UUID, FakeNode, Outcome
from wingsd.errors import PanelUnreachable
from wingsd.servers.installations import InstallOptions
from wingsd.servers.server import Server

DOWN = PanelUnreachable("the request to the Panel failed", "no answer")


def reinstall(
    node: FakeNode, server: Server, options: InstallOptions = InstallOptions()
) -> Outcome:
    return Outcome.of(node.installations.repeat(server, options, reinstall=True))


def installing(node: FakeNode) -> Server:
    """Return a server whose script runs."""
    server = node.server()
    reinstall(node, server).value()
    return server


def log(node: FakeNode, *, output: bool = True) -> str:
    return str(Outcome.of(node.installations.log(UUID, output=output)).value())


def ended(node: FakeNode, *, successful: bool) -> None:
    """Check how it was reported, and that nothing is left of it."""
    reports = [call for call in node.panel.calls if call[0] == "reinstalled"]
    assert reports[-1] == ("reinstalled", UUID, successful)
    assert node.told("install completed") == [""]
    assert (node.environment.scripts, node.unfinished(), node.scripts()) == ({}, [], [])
    assert node.servers.get(UUID).hold == ""
