"""A Panel's page of one server: what it shows, and how it keeps to the node's WebSocket.

It does what the page of Pterodactyl's Panel does. On every `transfer status` but `starting` and
`success` it closes its WebSocket, gets another token and opens another WebSocket. It asks for the
console's lines on each. The banner "being transferred" is shown from `processing` on until
`failed`, or until the Panel says after `completed` or `install completed` that no transfer is
open.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError
from twisted.internet.ssl import Certificate
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from tests.support.browser import Browser, BrowserEvent, NotOpened
from tests.support.panel import Panel

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
