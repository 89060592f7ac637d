"""Servers and a real Panel: what goes over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.servers.harness import UUID
from tests.support import (
    Answer,
    Call,
    FakeContainers,
    process_configuration,
    server_settings,
)
from tests.support import Panel as FakePanel
from tests.support.harness import Harness, node_config
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor, until
from wingsd.config import RemoteQuery
from wingsd.panel import client as panel_module
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.threadio import Workers
from wingsd.util.retry import Backoff


class NodeWithPanel:
    """A node with threads and files, and a Panel on loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.data = directory, directory / "volumes"
        self.data.mkdir()
        self.panel = FakePanel()
        self.registered = self.panel.add_node("https://here.invalid:8080")
        self.environment = FakeContainers()
        self.workers = Workers(reactor, "disk", 2)

    async def open(self) -> None:
        self.workers.start()
        config = node_config(
            self.directory,
            remote=await self.panel.listen(reactor),
            token_id=self.registered.token_id,
            token=self.registered.token,
            remote_query=RemoteQuery(boot_servers_per_page=2),
        )
        self.daemon = Harness(config, self.workers, None, self.environment)
        self.servers = self.daemon.servers

    async def close(self) -> None:
        await self.servers.stop()
        await self.daemon.running.stop()
        await self.panel.close()
        self.daemon.store.close()
        self.workers.stop()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeWithPanel]:
    monkeypatch.setattr(panel_module, "BACKOFF", Backoff(0.001, 12.0, factor=1.5))
    made = NodeWithPanel(tmp_path)
    pytest_twisted.blockon(Deferred.fromCoroutine(made.open()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


async def test_all_pages_but_bad_servers_are_loaded(node: NodeWithPanel, logged: Logged) -> None:
    uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(5)]
    for uuid in uuids:
        node.panel.add_server(server_settings(uuid), node.registered)
    node.panel.settings_of(uuids[1])["mounts"] = "nonsense"
    node.panel.inject("/servers", Answer(502, b"updating", "text/html"))
    await node.servers.boot()
    assert [server.uuid for server in node.servers.all()] == uuids[:1] + uuids[2:]
    assert any(line.startswith(f"{uuids[1]}: not loaded") for line in logged.lines)
    await node.panel.called("/servers/reset")
    assert node.panel.calls[-1] == Call("POST", "/api/remote/servers/reset")


async def test_a_server_is_created_started_and_deleted(node: NodeWithPanel) -> None:
    await node.servers.boot()
    node.panel.add_server(
        server_settings(UUID), node.registered, process_configuration(startup={"done": ["ready"]})
    )
    await node.servers.create(UUID)
    await until(lambda: UUID in node.environment.scripts and node.environment.scripts[UUID].runs)
    node.environment.scripts[UUID].end()
    await until(lambda: node.panel.installed(UUID) is not None)
    server = node.servers.get(UUID)
    await until(lambda: not server.hold)
    assert node.panel.installed(UUID) is True
    await server.power(PowerAction.START)
    node.environment.running[UUID].say(b"now ready\r\n")
    assert server.state is PowerState.RUNNING
    node.panel.settings_of(UUID)["suspended"] = True
    await server.sync()
    assert server.suspended
    assert node.environment.running == {}
    await node.servers.delete(UUID)
    assert not (node.data / UUID).exists()


async def test_each_start_fetches_the_settings_again(node: NodeWithPanel) -> None:
    node.panel.add_server(server_settings(UUID), node.registered)
    await node.servers.boot()
    server = node.servers.get(UUID)
    node.panel.settings_of(UUID)["invocation"] = "another"
    await server.power(PowerAction.START)
    assert node.environment.containers[UUID].invocation == "another"
    assert server.configuration.settings.invocation == "another"
