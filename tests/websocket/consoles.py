"""A site with one server's WebSocket, and browsers that open it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource

from tests.support.browser import Browser
from tests.support.recording_observer import RecordedActivity
from tests.websocket.tokens import KEY, UUID, console_token
from wingsd.auth.tokens import DenyList
from wingsd.config import Config
from wingsd.errors import ServerNotRunning
from wingsd.events import Event, EventBus
from wingsd.http.site import NodeSite, NotFound
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.websocket.resource import ConsoleSockets

ORIGIN = "https://panel.example.com"
reactor: Any = installed_reactor


class FakeServer:
    """A server with only a console."""

    uuid = UUID
    disowned = suspended = pending_restart = False

    def __init__(self) -> None:
        self.state = PowerState.RUNNING
        self.lines = [f"line {number}" for number in range(200)]
        self.done: list[tuple[Any, ...]] = []
        self.fault: Exception | None = None

    def stats(self) -> str:
        return '{"state": "running"}'

    async def power(self, action: PowerAction, wait_seconds: float = 30) -> None:
        self.done.append((action, wait_seconds))
        if self.fault is not None:
            raise self.fault

    async def command(self, line: str) -> None:
        if self.state is PowerState.OFFLINE:
            raise ServerNotRunning("Cannot send commands to a stopped server instance.")
        self.done.append((line,))

    async def logs(self, lines: int) -> list[str]:
        return self.lines[-lines:]


class Door(Resource):
    """Opens the WebSocket of a server, None for one that has left, as the API does."""

    isLeaf = True

    def __init__(self, sockets: ConsoleSockets, server: Callable[[], Any]) -> None:
        super().__init__()
        self._sockets = sockets
        self._server = server

    def render_GET(self, request: Any) -> None:
        server = self._server()
        if server is None and not self._sockets.transfers.has_moved(UUID):
            NotFound().render(request)
        else:
            self._sockets.open(UUID, server, request)


class ConsoleNode:
    """A site with one server's WebSocket, and the browsers that a test opens."""

    def __init__(self) -> None:
        self.server = FakeServer()
        #: Whether the server has left this node.
        self.has_left = False
        self.bus = EventBus()
        self.denied = DenyList(booted=time.time() - 1000)
        self.activity = RecordedActivity(UUID)
        self.authority = trustme.CA()
        self.browsers: list[Browser] = []
        self.url = ""

    def listen(self, *, secure: bool = False, timeout: float = 60, **changes: Any) -> None:
        config = Config(token_id="id", token=KEY, remote=f"{ORIGIN}/", **changes)
        self.sockets = ConsoleSockets(config, self.bus, self.denied, self.activity, reactor)
        root = NotFound()
        door = Door(self.sockets, lambda: None if self.has_left else self.server)
        root.putChild(b"servers", door)
        self.site = NodeSite(root, reactor=reactor, timeout=timeout, config=config)
        factory: Any = self.site
        if secure:
            issued = self.authority.issue_cert("localhost")
            pem = issued.private_key_and_cert_chain_pem.bytes()
            certificate = ssl.PrivateCertificate.loadPEM(pem)
            factory = TLSMemoryBIOFactory(certificate.options(), False, factory)
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        scheme = "wss" if secure else "ws"
        self.url = f"{scheme}://localhost:{self.port.getHost().port}/servers/ws"

    def token(self, *permissions: str, **claims: Any) -> str:
        return console_token(int(time.time()), *permissions, **claims)

    async def open(
        self, *permissions: str, origin: str | None = ORIGIN, **headers: str
    ) -> Browser:
        """Return a browser that is connected and has shown no token; the site listens for it."""
        if not self.url:
            self.listen()
        ca = ssl.Certificate.loadPEM(self.authority.cert_pem.bytes())
        browser = Browser(self.url, self.token(*permissions), origin, ca)
        browser.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.browsers.append(browser)
        return await browser.connect(reactor)

    async def watch(self, *permissions: str) -> Browser:
        browser = await self.open(*permissions)
        await browser.auth()
        await browser.wait_for("status")
        return browser

    def publish(self, name: str, *args: str) -> None:
        self.bus.publish(Event(UUID, name, args))

    @property
    def clients(self) -> list[Any]:
        return list(self.sockets._clients.get(UUID, ()))

    async def gone(self) -> None:
        while self.site.connections:
            await deferLater(reactor, 0.001)

    async def close(self) -> None:
        for browser in self.browsers:
            if browser.closed is None and browser._wire is not None:
                browser.wire.transport.abortConnection()
        await self.port.stopListening()
        await self.gone()
        assert self.sockets.count(UUID) == 0
        assert self.bus._subscribers == {}
        now = time.time()
        assert all(at is not None and abs(at - now) < 60 for at in self.activity.times)


@pytest.fixture
def node() -> Iterator[ConsoleNode]:
    made = ConsoleNode()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
