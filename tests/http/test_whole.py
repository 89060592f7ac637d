"""The life of a server as a Panel and a browser see it: all but the engine is real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support import FakeContainers, server_settings
from tests.support import Panel as FakePanel
from tests.support.browser import Browser
from tests.support.fixtures import workers
from tests.support.harness import Harness, node_config
from tests.support.reactor import reactor, until
from wingsd.errors import EnvironmentFailed
from wingsd.panel.client import Panel
from wingsd.threadio import Workers

__all__ = ["workers"]

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


class WholeNode(Harness):
    """A node that listens, and its Panel, which can call it."""

    def __init__(self, directory: Path, workers: Workers, panel: FakePanel) -> None:
        self.fake, self.environment = panel, FakeContainers()
        self.here = panel.add_node("")
        config = node_config(
            directory,
            remote=panel.url,
            token_id=self.here.token_id,
            token=self.here.token,
        )
        super().__init__(config, workers, Panel(config, reactor), self.environment)
        self.http.open()
        self.here.address = self.http.address

    async def close(self) -> None:
        await self.servers.stop()
        await self.http.close()
        await self.http.site.drain(5)
        await self.fake.close()
        self.store.close()

    async def create(self, **settings: Any) -> None:
        await self.fake.create_server_on(self.here, server_settings(UUID, **settings))
        await until(
            lambda: UUID in self.environment.scripts and self.environment.scripts[UUID].runs
        )
        self.environment.scripts[UUID].end()
        await until(lambda: self.fake.installed(UUID) is not None)
        server = self.servers.get(UUID)
        await until(lambda: not server.hold)

    async def ask(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        return await self.fake.ask(self.here, method, f"/api/servers/{UUID}{path}", body)

    async def open(self, **claims: Any) -> Browser:
        """Return a browser that is connected and has shown no token."""
        url = self.here.address.replace("http", "ws") + f"/api/servers/{UUID}/ws"
        token = self.fake.console_token(UUID, node=self.here, **claims)
        return await Browser(url, token, self.fake.url).connect(reactor)

    async def browser(self, **claims: Any) -> Browser:
        browser = await self.open(**claims)
        await browser.auth()
        return browser


@pytest.fixture
def whole(tmp_path: Path, workers: Workers) -> Iterator[WholeNode]:
    panel = FakePanel(strict=True)
    pytest_twisted.blockon(Deferred.fromCoroutine(panel.listen(reactor)))
    made = WholeNode(tmp_path, workers, panel)
    pytest_twisted.blockon(Deferred.fromCoroutine(made.servers.boot()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.mark.promise("failed-installation-is-explained")
async def test_a_browser_sees_why_an_installation_has_failed(whole: WholeNode) -> None:
    whole.environment.faults["create_installer"] = EnvironmentFailed("no such image")
    await whole.fake.create_server_on(whole.here, server_settings(UUID))
    await whole.fake.called("/install", 2)
    await until(lambda: whole.fake.installed(UUID) is False)
    status, output = await whole.ask("GET", "/install-logs")
    assert (status, output) == (200, {"data": "[wingsd] The installation failed: no such image\n"})
    # A browser that comes only now sees why.
    browser = await whole.browser(permissions=("*", "admin.websocket.install"))
    browser.send("send logs")
    await browser.wait_for("console output", "[wingsd] The installation failed: no such image")
    whole.environment.faults.clear()
    await until(lambda: not whole.servers.get(UUID).hold)
    assert await whole.ask("POST", "/reinstall") == (202, None)
    await browser.wait_for("install started", "")
    await until(lambda: UUID in whole.environment.scripts and whole.environment.scripts[UUID].runs)
    status, error = await whole.ask("POST", "/reinstall")
    assert (status, error["error"]) == (409, "server is currently installing")
    whole.environment.scripts[UUID].say(b"unpacking\r\n")
    await browser.wait_for("install output", "unpacking")
    assert await whole.ask("POST", "/install/abort") == (202, None)
    await browser.wait_for("install completed", "")
    status, error = await whole.ask("POST", "/install/abort")
    assert (status, error["error"]) == (409, "server is not installing")
    status, text = await whole.ask("GET", "/logs/install?lines=2")
    assert (status, text.split("\r\n")) == (
        200,
        ["unpacking", "[wingsd] The installation was aborted.\n"],
    )
    await browser.close()


async def test_a_suspension_stops_the_server_and_ends_without_a_start(whole: WholeNode) -> None:
    await whole.create()
    await whole.fake.power(UUID, "start")
    await until(lambda: UUID in whole.environment.running)
    browser = await whole.browser()
    whole.fake.settings_of(UUID)["suspended"] = True
    assert await whole.ask("POST", "/sync") == (204, None)
    await browser.wait_for("status", "offline")
    assert UUID not in whole.environment.running
    status, error = await whole.ask("POST", "/power", {"action": "start"})
    assert (status, error["error"]) == (
        400,
        "Cannot start or restart a server that is suspended.",
    )
    assert (await whole.ask("GET"))[1]["is_suspended"] is True
    await whole.browser()

    whole.fake.settings_of(UUID)["suspended"] = False
    assert await whole.ask("POST", "/sync") == (204, None)
    assert browser.closed is None
    assert UUID not in whole.environment.running
