"""Servers and a real Panel: what goes over the wire."""

from __future__ import annotations

import os
import time
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
    SynchronousWorkers,
    process_configuration,
    server_settings,
)
from tests.support import Panel as FakePanel
from tests.support.installer import fake_installations
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor, until
from wingsd.config import Config, RemoteQuery, SystemConfig, User
from wingsd.egg_files.rewriters import Rewriters
from wingsd.events import EventBus
from wingsd.panel import client as panel_module
from wingsd.panel.client import Panel
from wingsd.servers.files import ServerDirectories, ServerStorage
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.registry import Servers
from wingsd.servers.server import ServerParts
from wingsd.statedb import StateDatabase, Store
from wingsd.threadio import Workers
from wingsd.util.retry import Backoff


class NodeWithPanel:
    """A node with threads and files, and a Panel on loopback."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "volumes"
        self.store = Store(str(directory))
        self.data.mkdir()
        self.panel = FakePanel()
        self.registered = self.panel.add_node("https://here.invalid:8080")
        self.environment = FakeContainers()
        self.disk = Workers(reactor, "disk", 2)
        self.servers: Servers

    async def open(self) -> None:
        self.disk.start()
        config = Config(
            remote=await self.panel.listen(reactor),
            token_id=self.registered.token_id,
            token=self.registered.token,
            remote_query=RemoteQuery(boot_servers_per_page=2),
            system=SystemConfig(
                data=str(self.data),
                log_directory=str(self.data.parent / "logs"),
                tmp_directory=str(self.data.parent / "tmp"),
                user=User(os.getuid(), os.getgid()),
            ),
        )
        panel = Panel(config, reactor)
        database = StateDatabase(self.store, SynchronousWorkers(), time.time)  # type: ignore[arg-type]
        self.store.open()
        parts = ServerParts(
            config,
            panel,
            self.environment,
            EventBus(),
            ServerStorage(
                ServerDirectories(str(self.data), (os.getuid(), os.getgid())),
                self.disk,
                self.disk,
            ),
            Rewriters(self.disk, self.disk),
            reactor,
        )
        self.servers = Servers(
            parts,
            fake_installations(config, panel, database, self.disk, reactor, self.environment),
        )

    async def close(self) -> None:
        await self.servers.stop()
        await self.panel.close()
        self.store.close()
        self.disk.stop()


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
