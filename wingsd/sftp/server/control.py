"""The SFTP process's side of its connection to the daemon."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from wingsd.errors import InvalidData
from wingsd.sftp.messages import (
    MAX_FROM_DAEMON,
    Begun,
    ChangedSettings,
    Decoder,
    Disconnect,
    Granted,
    Login,
    Rejected,
    ServerState,
    SftpMessage,
    Start,
    encode,
)

__all__ = ["DaemonLink"]

_Order = ChangedSettings | ServerState | Begun | Disconnect
#: Seconds for which messages that are in no hurry wait for others.
_DELAY = 0.2


class DaemonLink(asyncio.Protocol):
    """The connection to the daemon.

    Only `post` may be called by other threads than that of its loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[SftpMessage] = deque()
        self._is_due = False
        self._closed = asyncio.Event()
        self.started: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        #: Fires when the daemon has gone, or sends what is no message.
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Handles messages that nothing waits for.
        self.received: Callable[[_Order], None] = lambda _: None
        self._decoder = Decoder(MAX_FROM_DAEMON)
        self._transport: asyncio.Transport | None = None
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Granted | Rejected]] = {}

    def number(self) -> int:
        """Return the number of another request."""
        return next(self._numbers)

    async def login(self, login: Login) -> Granted | Rejected:
        """Ask the daemon to check a login."""
        answer: asyncio.Future[Granted | Rejected] = asyncio.get_running_loop().create_future()
        self._asked[login.request] = answer
        try:
            self.send(login)
            return await answer
        finally:
            del self._asked[login.request]

    def send(self, message: SftpMessage) -> None:
        """Send a message; nothing is sent when the daemon has gone.

        asyncio warns of what is written to a lost connection, and each warning is a message, too.
        """
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    def post(self, message: SftpMessage, *, now: bool = True) -> None:
        """Send a message, after those that were posted before it, from any thread.

        One that need not be sent `now` waits a moment, so that many of them wake the loop once.
        """
        self._outgoing.append(message)
        with suppress(RuntimeError):  # the loop is closed: the process ends
            if now:
                self._loop.call_soon_threadsafe(self._send_posted)
            elif not self._is_due:
                self._is_due = True
                self._loop.call_soon_threadsafe(self._loop.call_later, _DELAY, self._send_posted)

    def _send_posted(self) -> None:
        self._is_due = False  # before what is posted from now on is left out
        while self._outgoing:
            self.send(self._outgoing.popleft())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Handle the messages that are complete."""
        try:
            for message in self._decoder.feed(data):
                self._received(message)
        except InvalidData:
            self.connection_lost(None)

    def eof_received(self) -> bool:
        """End the process, of which the daemon still reads what it has to say."""
        self._end()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """End the process."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._closed.set()
        self._end()

    def _end(self) -> None:
        for answer in self._asked.values():
            answer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    async def close(self) -> None:
        """Close the connection when all is sent, within a moment."""
        self._send_posted()
        if self._transport is not None:
            self._transport.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _DELAY)

    def _received(self, message: SftpMessage) -> None:
        match message:
            case Start():
                if not self.started.done():
                    self.started.set_result(message)
            case Granted() | Rejected():
                answer = self._asked.get(message.request)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case ChangedSettings() | ServerState() | Begun() | Disconnect():
                self.received(message)
            case _:
                raise InvalidData("a message is not for this side")
