"""A browser on a server's page: keeps what it receives, and prints transfers as they happen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.error import ConnectError
from twisted.internet.ssl import Certificate
from twisted.internet.task import LoopingCall, deferLater

from demo.output import Failed, line
from tests.support import Node, Panel
from tests.support.browser import Browser, BrowserEvent, NotOpened

__all__ = ["Watch", "until"]

T = TypeVar("T")

_LOOK_EVERY = 0.1
#: Seconds that anything may take here. A slow machine packs, hashes and starts slowly.
_WITHIN = 120
_PERMISSIONS = ("*", "admin.websocket.install", "admin.websocket.transfer")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_DATE = re.compile(r"^.*(?=\[Transfer System\])")


async def until(reactor: Any, look: Callable[[], T | None], what: str) -> T:
    """Return the first result of `look` that is not None. Raises `Failed` naming `what`."""
    deadline = reactor.seconds() + _WITHIN
    while (seen := look()) is None or seen is False:
        if reactor.seconds() > deadline:
            raise Failed(f"waited {_WITHIN} s in vain for {what}")
        await deferLater(reactor, _LOOK_EVERY)
    return seen


class Watch:
    """One page, open on the node that the server is on. `leave` closes it."""

    def __init__(self, reactor: Any, panel: Panel, server: str) -> None:
        self._reactor = reactor
        self._server = server
        node: Node = panel.node_of(server)
        with open(node.ca, "rb") as file:
            authority = Certificate.loadPEM(file.read())
        url = f"{node.address.replace('https', 'wss')}/api/servers/{server}/ws"
        token = panel.console_token(server, _PERMISSIONS)
        self._browser = Browser(url, token, panel.url, authority)
        self._told = 0
        self._teller = LoopingCall(self._tell)
        self._teller.clock = reactor

    async def open(self) -> None:
        """Open the page: connect, and send the token. Raises `Failed`."""
        try:
            await self._browser.connect(self._reactor)
            await self._browser.auth()
        except (ConnectError, ConnectionError, NotOpened, TooLate) as error:
            raise Failed(f"the page cannot be opened: {error!r}") from error
        self._teller.start(_LOOK_EVERY)

    async def leave(self) -> None:
        """Close the page."""
        if self._teller.running:
            self._tell()
            self._teller.stop()
        if self._browser.wire is not None:
            await self._browser.close()

    def send(self, event: str, *args: str) -> None:
        """Send a user's action."""
        self._browser.send(event, *args)

    def console(self) -> Iterator[str]:
        """Yield the console's lines, without colours."""
        for event in self._events("console output"):
            yield from (_COLOUR.sub("", text) for text in event.args)

    def ask_for_logs(self) -> None:
        """Ask for the console's earlier lines, as a page does when it is opened."""
        self.send("send logs")

    def transfer_lines(self, pattern: str) -> list[float]:
        """Return when lines about transfers with `pattern` arrived, in the reactor's seconds."""
        return [
            event.received
            for event in self._events("transfer logs")
            if any(re.search(pattern, text) for text in event.args)
        ]

    def power_states(self) -> list[str]:
        """Return the states that the server was in, in order."""
        return [event.args[0] for event in self._events("status")]

    async def console_line(self, pattern: re.Pattern[str]) -> str:
        """Return the first line of the console with `pattern` in it."""

        def look() -> str | None:
            return next((text for text in self.console() if pattern.search(text)), None)

        return await self.until(look, f"a line like {pattern.pattern!r} in the console")

    def has_seen(self, event: str, text: str) -> bool:
        """Return whether an event with `text` in its first argument has arrived."""
        return any(text in entry.args[0] for entry in self._events(event) if entry.args)

    async def saw(self, event: str, text: str) -> None:
        """Wait for such an event."""
        await self.until(lambda: self.has_seen(event, text), f"{event} {text!r}")
        self._tell()

    async def until(self, look: Callable[[], T | None], what: str) -> T:
        """Return the first result of `look` that is not None, while the page is connected."""

        def look_connected() -> T | None:
            seen = look()
            if not seen and self._browser.closed is not None:
                raise Failed(f"the node closed the WebSocket: {self._browser.closed}")
            return seen

        return await until(self._reactor, look_connected, what)

    def _events(self, name: str) -> Iterator[BrowserEvent]:
        return (event for event in self._browser.events if event.event == name)

    def _tell(self) -> None:
        new, self._told = self._browser.events[self._told :], len(self._browser.events)
        for event in new:
            if event.event == "transfer status":
                line("status", event.args[0], "|")
            elif event.event == "install output":
                line("script", _COLOUR.sub("", event.args[0]), "|")
            elif event.event == "transfer logs":
                line("", _DATE.sub("", _COLOUR.sub("", event.args[0])), "|")
