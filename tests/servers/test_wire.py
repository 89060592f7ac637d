"""Servers and a real Panel: what goes over the wire."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.servers.harness import OTHER, UUID
from tests.support import Answer, Call, FakeEnvironment, process_configuration, server_settings
from tests.support import Panel as FakePanel
from tests.support.logged_errors import LoggedErrors
from tests.support.reactor import reactor
from wingsd.config import Config, RemoteQuery, SystemConfig
from wingsd.egg_files.rewriters import Rewriters
from wingsd.events import EventBus
from wingsd.panel import client as panel_module
from wingsd.panel.client import Panel
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.registry import Servers
from wingsd.threadio import Workers
from wingsd.util.retry import Backoff


class House:
    """A node with threads and files, and a Panel on loopback."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "volumes"
        self.data.mkdir()
        self.panel = FakePanel()
        self.node = self.panel.add_node("https://here.invalid:8080")
        self.environment = FakeEnvironment()
        self.disk = Workers(reactor, "disk", 2)
        self.servers: Servers

    async def open(self) -> None:
        self.disk.start()
        config = Config(
            remote=await self.panel.listen(reactor),
            token_id=self.node.token_id,
            token=self.node.token,
            remote_query=RemoteQuery(boot_servers_per_page=2),
            system=SystemConfig(data=str(self.data)),
        )
        self.servers = Servers(
            config,
            Panel(config, reactor),
            self.environment,
            EventBus(),
            disk=self.disk,
            rewriters=Rewriters(self.disk, self.disk),
            owner=(os.getuid(), os.getgid()),
            reactor=reactor,
        )

    async def close(self) -> None:
        await self.servers.stop()
        await self.panel.close()
        self.disk.stop()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(panel_module, "BACKOFF", Backoff(0.001, 12.0, factor=1.5))
    made = House(tmp_path)
    pytest_twisted.blockon(Deferred.fromCoroutine(made.open()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest_twisted.ensureDeferred
async def test_all_pages_are_loaded_but_for_what_makes_no_sense(
    house: House, logged_errors: LoggedErrors
) -> None:
    uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(5)]
    for uuid in uuids:
        house.panel.add_server(server_settings(uuid), house.node)
    house.panel.settings_of(uuids[1])["mounts"] = "nonsense"
    house.panel.inject("/servers", Answer(502, b"updating", "text/html"))
    await house.servers.boot()
    assert [server.uuid for server in house.servers.all()] == uuids[:1] + uuids[2:]
    assert any(line.startswith(f"{uuids[1]}: not loaded") for line in logged_errors.lines)
    await house.panel.called("/servers/reset")
    assert house.panel.calls[-1] == Call("POST", "/api/remote/servers/reset")


@pytest_twisted.ensureDeferred
async def test_a_server_is_created_started_and_deleted(house: House) -> None:
    await house.servers.boot()
    house.panel.add_server(
        server_settings(UUID), house.node, process_configuration(startup={"done": ["ready"]})
    )
    server = await house.servers.create(UUID, start_on_completion=True)
    assert house.panel.installed(UUID) is True
    house.environment.running[UUID].say(b"now ready\r\n")
    assert server.state is PowerState.RUNNING
    house.panel.settings_of(UUID)["suspended"] = True
    await server.sync()
    assert server.suspended
    assert house.environment.running == {}
    await house.servers.delete(UUID)
    assert not (house.data / UUID).exists()


@pytest_twisted.ensureDeferred
async def test_a_creation_without_a_container_is_an_installation_all_the_same(
    house: House,
) -> None:
    await house.servers.boot()
    house.panel.add_server(server_settings(OTHER), house.node)
    house.environment.foreign.add(OTHER)
    server = await house.servers.create(OTHER, start_on_completion=False)
    assert any("another node's" in line for line in await server.logs(10))
    assert house.panel.installed(OTHER) is True


@pytest_twisted.ensureDeferred
async def test_each_start_asks_anew(house: House) -> None:
    house.panel.add_server(server_settings(UUID), house.node)
    await house.servers.boot()
    server = house.servers.get(UUID)
    house.panel.settings_of(UUID)["invocation"] = "another"
    await server.power(PowerAction.START)
    assert house.environment.containers[UUID].invocation == "another"
    assert server.configuration.settings.invocation == "another"
