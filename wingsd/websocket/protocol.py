"""The WebSocket's own protocol, which autobahn speaks: one connection on a channel of the site.

What autobahn leaves open is bounded here: the size of messages, how many frames may come, and
that pings are not answered to somebody who does not read.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from txaio.tx import make_logger

from wingsd.errors import WingsdError
from wingsd.websocket.messages import RateLimit

__all__ = ["ConsoleProtocol", "MessageReceiver", "wire_factory"]

#: Bytes of a message of a browser's; Pelican's Wings has the same.
MESSAGE_MAX = 4096
#: Frames at once, and then per second: more than any page sends, so whoever does is sent away.
#: Frames count, not messages: pings and the pieces of a message cost as much.
FRAMES = (200, 50.0)
#: The same before a token was shown: a page sends nothing but that.
FRAMES_WITHOUT_TOKEN = (10, 1.0)
#: Seconds from ping to ping, and for an answer: nobody who is gone is kept for longer than both.
PING_EVERY = 30
PONG_WITHIN = 50
#: Seconds for a browser to take part in closing the connection. Autobahn cuts off fractions.
CLOSE_WITHIN = 2

POLICY_VIOLATION = 1008
# Not 1001, "going away": on that, the Panel's page would not come back by itself.
SERVICE_RESTART = 1012


class InvalidHandshake(WingsdError):
    """The opening handshake of a WebSocket is not that of RFC 6455."""

    code = "websocket-handshake-invalid"
    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)


class MessageReceiver(Protocol):
    """What takes the messages of a connection."""

    @property
    def admitted(self) -> bool:
        """Whether the browser has shown a token."""

    @property
    def paused(self) -> bool:
        """Whether the browser reads too slowly right now."""

    def opened(self, wire: ConsoleProtocol) -> None:
        """The connection can be used."""

    def message(self, payload: bytes) -> None:
        """The browser sent this text, in UTF-8."""

    def closed(self) -> None:
        """The connection is gone, or never could be used."""


class ConsoleProtocol(WebSocketServerProtocol):
    """A connection."""

    transport: Any  # the site's channel
    # Autobahn's own lines about connections that end do not say which server they are about.
    log = make_logger(level="critical")

    def __init__(self, receiver: MessageReceiver, factory: WebSocketServerFactory) -> None:
        super().__init__()
        self.factory = factory
        self._receiver = receiver
        self._frames = RateLimit(*FRAMES)
        self._frames_without_token = RateLimit(*FRAMES_WITHOUT_TOKEN)
        self._flooded = False

    def send(self, payload: bytes) -> None:
        """Send a text, in UTF-8; nothing is sent on a connection that is closing."""
        if self.state == self.STATE_OPEN:
            # Not sendMessage(), which holds what is sent to the limit of what is received.
            self.sendPreparedMessage(self.factory.prepareMessage(payload))

    def end(self, code: int, reason: str) -> None:
        """Close the connection with a code of RFC 6455 and at most 123 bytes of a reason."""
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, reason.encode())
        elif self.state == self.STATE_CONNECTING:
            self.dropConnection()

    def go_away(self) -> None:
        """Close it since the daemon ends."""
        self.end(SERVICE_RESTART, "this node is shutting down")

    # What the channel calls

    def dataReceived(self, data: bytes) -> None:
        """Take what has arrived; of one that floods, nothing more."""
        if not self._flooded:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        super().connectionLost(reason)
        self._receiver.closed()

    # What autobahn calls

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        """Refuse a handshake, in JSON as everything is refused here."""
        self.transport.refuse(InvalidHandshake(reason, code))

    def onOpen(self) -> None:
        """The handshake is over."""
        self._receiver.opened(self)

    def onMessageFrameBegin(self, length: int) -> None:
        """Take the beginning of a frame with a message, or a part of one, of `length` bytes."""
        super().onMessageFrameBegin(length)
        self._count()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Take a message. The page sends none that is binary, so it goes the way of nonsense."""
        if not self._flooded:
            self._receiver.message(b"" if isBinary else payload)

    def onPing(self, payload: bytes) -> None:
        """Answer, unless the answers pile up."""
        self._count()
        if not self._receiver.paused:
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        """Take an answer, or what looks like one."""
        self._count()

    def _count(self) -> None:
        meter = self._frames if self._receiver.admitted else self._frames_without_token
        if not self._flooded and not meter.allows(self.factory.reactor.seconds()):
            self._flooded = True
            self.end(POLICY_VIOLATION, "too many messages")


def wire_factory(reactor: Any) -> WebSocketServerFactory:
    """Return what wires have in common. Nothing is compressed, unless it is asked for."""
    factory = WebSocketServerFactory(reactor=reactor, server="")
    factory.setProtocolOptions(
        webStatus=False,
        maxFramePayloadSize=MESSAGE_MAX,
        maxMessagePayloadSize=MESSAGE_MAX,
        failByDrop=False,
        closeHandshakeTimeout=CLOSE_WITHIN,
        autoPingInterval=PING_EVERY,
        autoPingTimeout=PONG_WITHIN,
    )
    return factory
