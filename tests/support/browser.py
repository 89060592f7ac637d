"""A browser that watches a server: a WebSocket client, and the page of a Panel that uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import attrs
import msgpack
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from txaio.tx import make_logger

from tests.support.node_process import NodeProcess
from tests.support.panel import Panel
from tests.support.reactor import reactor

#: Seconds that anything is waited for.
TIMEOUT = 60.0


class NotOpened(Exception):
    """The node did not open the WebSocket; the text is its reason."""


@attrs.frozen
class BrowserEvent:
    """Something that was received: its name, its texts, and when (the reactor's seconds).

    `binary` is whether it came as MessagePack.
    """

    event: str
    args: tuple[str, ...]
    received: float
    binary: bool = False


class Browser:
    """A client of the WebSocket at `url` (`ws://` or `wss://`).

    `token` is the JWT for `auth`, `origin` the page's, None for none; `ca` is the authority's
    certificate (a twisted.internet.ssl.Certificate) for `wss`.
    """

    def __init__(
        self, url: str, token: str = "", origin: str | None = None, ca: Any = None
    ) -> None:
        self.token = token
        #: All that was received, in order.
        self.events: list[BrowserEvent] = []
        #: The code and the reason with which the connection ended; None while it goes on.
        self.closed: tuple[int | None, str | None] | None = None
        #: More headers of the request that opens the WebSocket.
        self.headers: dict[str, str] = {}
        #: Called with each event, and with the code of the connection's end.
        self.heard: Callable[[BrowserEvent], None] = lambda _: None
        self.ended: Callable[[int | None], None] = lambda _: None
        self._url = url
        self._origin = origin
        self._ca = ca
        self._wire: _Wire | None = None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    async def connect(self, reactor: Any) -> Browser:
        """Open the WebSocket. Raises `NotOpened`, or what connecting raises."""
        self._reactor = reactor
        factory: Any = WebSocketClientFactory(
            self._url, origin=self._origin, headers=self.headers, reactor=reactor
        )
        factory.setProtocolOptions(openHandshakeTimeout=TIMEOUT)
        endpoint: Any = HostnameEndpoint(reactor, factory.host, factory.port)
        if factory.isSecure:
            trust = trustRootFromCertificates([self._ca])
            endpoint = wrapClientTLS(optionsForClientTLS(factory.host, trust), endpoint)
        factory.protocol = lambda: _Wire(self)
        self._wire = await endpoint.connect(factory)
        await self._until(lambda: self._opened or self.closed is not None)
        if not self._opened:
            raise NotOpened(self.closed[1] if self.closed else "")
        return self

    async def auth(self, token: str | None = None) -> None:
        """Show the token, or another one from now on; return when it was accepted."""
        self.token = self.token if token is None else token
        before = self.count("auth success")
        self.send("auth", self.token)
        await self._until(lambda: self.count("auth success") > before)

    def send(self, event: str, *args: str) -> None:
        self.send_raw(json.dumps({"event": event, "args": args}).encode())

    def send_binary(self, event: str, *args: str) -> None:
        """Send it as Calagopus' page does in MessagePack."""
        self.send_raw(msgpack.packb([event, args]), binary=True)

    def send_raw(self, payload: bytes, *, binary: bool = False) -> None:
        self.wire.sendMessage(payload, binary)

    async def wait_for(self, event: str, *prefix: str) -> BrowserEvent:
        """Return the first event of that name whose texts begin as `prefix` does, in order.

        It may have been received already. Fails when the connection ends before it comes.
        """
        found: list[BrowserEvent] = []

        def received() -> bool:
            found[:] = [entry for entry in self.events if _matches(entry, event, prefix)][:1]
            return bool(found)

        await self._until(received)
        return found[0]

    async def wait_closed(self) -> tuple[int | None, str | None]:
        await self._until(lambda: self.closed is not None)
        assert self.closed is not None
        return self.closed

    def count(self, event: str) -> int:
        return sum(entry.event == event for entry in self.events)

    def pause(self) -> None:
        self.wire.transport.pauseProducing()

    def resume(self) -> None:
        self.wire.transport.resumeProducing()

    async def close(self) -> None:
        if self.closed is None:
            self.wire.sendClose(1000)
            await self.wait_closed()

    @property
    def wire(self) -> Any:
        return self._wire

    _opened = False

    def _on_open(self) -> None:
        self._opened = True
        self._look()

    def _on_message(self, payload: bytes, binary: bool) -> None:
        if binary:
            name, args = msgpack.unpackb(payload)
        else:
            message = json.loads(payload)
            name, args = message["event"], message.get("args") or ()
        event = BrowserEvent(name, tuple(args), self._reactor.seconds(), binary)
        self.events.append(event)
        self.heard(event)
        self._look()

    def _on_close(self, code: int | None, reason: str | None) -> None:
        self.closed = (code, reason)
        self.ended(code)
        self._look()
        waiting, self._waiting = self._waiting, []
        for _, deferred in waiting:
            deferred.errback(Failure(ConnectionError(f"the connection ended: {code}, {reason}")))

    async def _until(self, so: Callable[[], bool]) -> None:
        if so():
            return
        if self.closed is not None:
            raise ConnectionError(f"the connection has ended: {self.closed}")
        deferred: Deferred[None] = Deferred()
        self._waiting.append((so, deferred))
        deferred.addTimeout(TIMEOUT, self._reactor)
        try:
            await deferred
        finally:
            self._waiting = [entry for entry in self._waiting if entry[1] is not deferred]

    def _look(self) -> None:
        for entry in tuple(self._waiting):
            if entry[0]():
                self._waiting.remove(entry)
                entry[1].callback(None)


async def browse(
    at: NodeProcess, server: str, permissions: Collection[str] = ("*",), **options: Any
) -> Browser:
    """Return a browser that watches a server at a node, as the Panel's page does."""
    token = at.panel.console_token(server, permissions, **options)
    url = f"{at.address.replace('http', 'ws')}/api/servers/{server}/ws"
    authority = Certificate.loadPEM(at.ca.read_bytes())
    browser = await Browser(url, token, at.panel.url, authority).connect(reactor)
    await browser.auth()
    return browser


class _Wire(WebSocketClientProtocol):
    log = make_logger(level="critical")

    def __init__(self, browser: Browser) -> None:
        super().__init__()
        self._browser = browser

    def onOpen(self) -> None:
        self._browser._on_open()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._browser._on_message(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._browser._on_close(code, reason)


def _matches(entry: BrowserEvent, event: str, prefix: tuple[str, ...]) -> bool:
    texts = zip(entry.args, prefix, strict=False)
    enough = len(entry.args) >= len(prefix)
    return entry.event == event and enough and all(text.startswith(part) for text, part in texts)


# A Panel's page of one server: what it shows, and how it keeps to the node's WebSocket


#: Seconds after which a connection that failed or ended is tried again, with the same token.
RETRY_AFTER = 1.0
_PERMISSIONS = ("*", "admin.websocket.transfer")
_LINES = ("console output", "install output", "transfer logs", "daemon message", "daemon error")


# States of a transfer on which the page keeps its WebSocket.
_KEEPS_ON = ("starting", "success")


# Codes of RFC 6455 after which it does not come back by itself.
_STAYS_AWAY_AFTER = (1000, 1001, 1005)


class Page:
    """The page of `server` that the user with the UUID `user` has open."""

    _log = Logger()

    def __init__(self, reactor: Any, panel: Panel, server: str, user: str) -> None:
        #: Whether the banner "being transferred" is shown.
        self.is_transferring = panel.in_transfer(server)
        #: The lines in the console now.
        self.console: list[str] = []
        #: The states of transfers that were received, in order.
        self.states: list[str] = []
        #: Whether the node has accepted the token on the WebSocket that is open now.
        self.is_connected = False
        #: How many WebSockets were opened.
        self.opened = 0
        #: Called when the Panel has given a token; the WebSocket is opened when the result fires.
        self.before_opening: Callable[[], Deferred[None]] = lambda: succeed(None)
        self._reactor = reactor
        self._panel = panel
        self._server = server
        self._user = user
        self._browser: Browser | None = None
        self._connecting: Deferred[None] = succeed(None)
        self._connect()

    async def close(self) -> None:
        self._stop_connecting()
        browser = self._let_go()
        if browser is not None:
            await browser.close()

    def type(self, line: str) -> None:
        """Type a line into the server's console."""
        assert self._browser is not None
        self._browser.send("send command", line)

    def _connect(self) -> None:
        node = self._panel.node_of(self._server)
        token = self._panel.console_token(self._server, _PERMISSIONS, user=self._user)
        authority = Certificate.loadPEM(Path(node.ca).read_bytes()) if node.ca else None
        url = f"{node.address.replace('http', 'ws')}/api/servers/{self._server}/ws"
        self._in_background(
            self._open(lambda: Browser(url, token, self._panel.url, authority), wait=True)
        )

    def _in_background(self, work: Any) -> None:
        self._stop_connecting()
        self._connecting = connecting = Deferred.fromCoroutine(work)

        def failed(failure: Failure) -> None:
            if self._connecting is connecting:
                self._log.failure("the page cannot go on", failure)

        connecting.addErrback(failed)

    def _stop_connecting(self) -> None:
        connecting, self._connecting = self._connecting, succeed(None)
        connecting.cancel()

    async def _open(self, make: Callable[[], Browser], *, wait: bool) -> None:
        if wait:
            await self.before_opening()
        else:
            await deferLater(self._reactor, RETRY_AFTER)
        browser = make()
        while not await _is_opened(browser, self._reactor):
            await deferLater(self._reactor, RETRY_AFTER)
            browser = make()
        self.opened += 1
        self._browser = browser
        browser.heard = self._heard
        browser.ended = lambda code: self._ended(code, make)
        browser.send("auth", browser.token)

    def _let_go(self) -> Browser | None:
        browser, self._browser = self._browser, None
        self.is_connected = False
        if browser is not None:
            browser.heard = lambda _: None
            browser.ended = lambda _: None
        return browser

    def _reconnect(self) -> None:
        browser = self._let_go()
        if browser is not None:
            browser.wire.sendClose(1000)
        self._connect()

    def _ended(self, code: int | None, make: Callable[[], Browser]) -> None:
        self._let_go()
        if code not in _STAYS_AWAY_AFTER:
            self._in_background(self._open(make, wait=False))

    def _heard(self, event: BrowserEvent) -> None:
        if event.event == "auth success":
            self._connected()
        elif event.event in _LINES:
            self.console += event.args
        elif event.event == "install completed":
            self.is_transferring = self._panel.in_transfer(self._server)
        elif event.event == "transfer status":
            self._told(event.args[0])

    def _connected(self) -> None:
        assert self._browser is not None
        self.is_connected = True
        if not self.is_transferring:
            self.console.clear()
        self._browser.send_raw(b'{"event": "send logs", "args": [null]}')

    def _told(self, state: str) -> None:
        self.states.append(state)
        if state in ("pending", "processing"):
            self.is_transferring = True
        elif state == "failed":
            self.is_transferring = False
        elif state == "failure":
            self.console.append("Transfer has failed.")
        elif state == "completed":
            self.is_transferring = self._panel.in_transfer(self._server)
        if state not in _KEEPS_ON:
            self._reconnect()


async def _is_opened(browser: Browser, reactor: Any) -> bool:
    try:
        await browser.connect(reactor)
    except (ConnectError, ConnectionError, NotOpened):
        return False
    except CancelledError:
        if browser.wire is not None:
            browser.wire.transport.abortConnection()
        raise
    return True
