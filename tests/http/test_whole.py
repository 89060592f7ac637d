"""The life of a server as a Panel and a browser see it: all but the engine is real."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred

from tests.api.node import Calls, FakeTransfers, api
from tests.support import FakeEnvironment, server_settings
from tests.support import Panel as FakePanel
from tests.support.browser import Browser
from tests.support.reactor import until
from wingsd.auth.tokens import DenyList
from wingsd.config import Config, SystemConfig
from wingsd.egg_files.rewriters import Rewriters
from wingsd.errors import EnvironmentFailed
from wingsd.events import EventBus
from wingsd.http.site import NodeSite, NotFound
from wingsd.panel.client import Panel
from wingsd.servers.registry import Servers
from wingsd.statedb import StateDatabase
from wingsd.statedb.store import Store
from wingsd.threadio import Workers
from wingsd.websocket import ConsoleSockets

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
reactor: Any = installed_reactor


class Harness:
    """A Panel, and a node of it that it can call."""

    def __init__(self, directory: Path) -> None:
        self.panel = FakePanel(strict=True)
        self.environment = FakeEnvironment()
        self.volumes = directory / "volumes"
        self.volumes.mkdir()
        self.disk = Workers(reactor, "disk", 1)
        self.store = Store(str(directory))
        self.site = NodeSite(NotFound(), reactor=reactor, timeout=60)
        self.listening: Any = None

    async def start(self) -> None:
        await self.panel.listen(reactor)
        self.listening = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.node = self.panel.add_node(f"http://127.0.0.1:{self.listening.getHost().port}")
        config = Config(
            token_id=self.node.token_id,
            token=self.node.token,
            remote=self.panel.url,
            system=SystemConfig(data=str(self.volumes)),
        )
        bus, denied = EventBus(), DenyList(time.time() - 60)
        panel, owner = Panel(config, reactor), (os.getuid(), os.getgid())
        disk, eggs = self.disk, Rewriters(self.disk, self.disk)
        self.servers = Servers(
            config,
            panel,
            self.environment,
            bus,
            disk=disk,
            rewriters=eggs,
            owner=owner,
            reactor=reactor,
        )
        transfers: Any = FakeTransfers("none", Calls())
        self.site.resource = api(
            config,
            servers=self.servers,
            sender=transfers,
            receiver=transfers,
            streams=transfers,
            database=StateDatabase(self.store, self.disk, time.time),
            direct=transfers,
            denied=denied,
            sockets=ConsoleSockets(config, bus, denied, reactor),
        )
        self.disk.start()
        self.store.open()
        await self.servers.boot()

    async def close(self) -> None:
        await self.servers.stop()
        await self.listening.stopListening()
        await self.site.drain(5)
        await self.panel.close()
        self.disk.stop()
        self.store.close()

    async def create(self, **settings: Any) -> None:
        await self.panel.create_server_on(self.node, server_settings(UUID, **settings))
        await self.panel.called("/install")
        server = self.servers.get(UUID)
        await until(lambda: not server.hold)

    async def ask(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        return await self.panel.ask(self.node, method, f"/api/servers/{UUID}{path}", body)

    async def browser(self) -> Browser:
        url = self.node.address.replace("http", "ws") + f"/api/servers/{UUID}/ws"
        token = self.panel.console_token(UUID, node=self.node)
        browser = await Browser(url, token, self.panel.url).connect(reactor)
        await browser.auth()
        return browser


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    pytest_twisted.blockon(Deferred.fromCoroutine(made.start()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


async def test_a_servers_life_as_a_panel_and_a_browser_see_it(harness: Harness) -> None:
    await harness.create()
    assert harness.panel.installed(UUID) is True
    assert (harness.volumes / UUID).is_dir()
    status, error = await harness.ask("POST", "/commands", {"commands": ["help"]})
    assert (status, error["error"], error["code"]) == (
        502,
        "Cannot send commands to a stopped server instance.",
        "server-not-running",
    )

    browser = await harness.browser()
    await harness.panel.power(UUID, "start")
    await browser.wait_for("status", "starting")
    await until(lambda: UUID in harness.environment.running)
    process = harness.environment.running[UUID]
    process.say(b"the server is listening on 25565\r\n")
    await browser.wait_for("status", "running")

    status, details = await harness.ask("GET")
    assert (status, details["state"], details["is_suspended"]) == (200, "running", False)
    assert details["configuration"] == server_settings(UUID)
    assert details["utilization"]["state"] == "running"
    assert await harness.ask("POST", "/commands", {"commands": ["say hello"]}) == (204, None)
    assert process.commands == ["say hello"]
    status, logs = await harness.ask("GET", "/logs?size=1")
    assert (status, logs) == (200, {"data": ["the server is listening on 25565"]})
    status, listed = await harness.panel.ask(harness.node, "GET", "/api/servers")
    assert [server["configuration"]["uuid"] for server in listed] == [UUID]

    await harness.panel.power(UUID, "kill")
    await browser.wait_for("status", "offline")
    assert await harness.ask("DELETE") == (204, None)
    await browser.wait_for("deleted")
    assert harness.environment.containers == {}
    assert (await harness.ask("GET"))[0] == 404
    assert (await harness.ask("DELETE"))[0] == 404


async def test_a_server_without_an_image_starts_when_it_has_one(harness: Harness) -> None:
    missing = EnvironmentFailed("the image of the server could not be pulled")
    harness.environment.faults |= {"create": missing, "recreate": missing}
    await harness.create()
    assert harness.panel.installed(UUID) is True
    status, details = await harness.ask("GET")
    assert (status, details["state"]) == (200, "offline")
    # A browser that comes only now sees why.
    browser = await harness.browser()
    browser.send("send logs")
    why = "[wingsd] The server's container could not be created: the image of the server could not"
    await browser.wait_for("console output", why)
    await browser.wait_for("console output", "[wingsd] The next start of the server tries again.")
    harness.environment.faults.clear()
    await harness.panel.power(UUID, "start")
    await browser.wait_for("status", "starting")
    await until(lambda: UUID in harness.environment.running)
    await browser.close()
