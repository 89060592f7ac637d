"""The WebSocket protocol of consoles, by autobahn.

Imported when the first console is opened: autobahn and what it imports take 5 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from txaio.tx import make_logger

from wingsd.config import CALAGOPUS
from wingsd.errors import InvalidHandshake
from wingsd.util.reactor import Reactor
from wingsd.websocket.session import POLICY_VIOLATION, RateLimit

if TYPE_CHECKING:
    from wingsd.websocket.resource import ConsoleClient

#: Bytes of a browser's message: the figure of Wings since 1.12.
MESSAGE_MAX = 4096
#: The same on a node of Calagopus', whose tokens name the files that a user may not see. Its own
#: nodes take 1 MiB.
MESSAGE_MAX_CALAGOPUS = 64 * 1024
#: Frames at once, and then per second: more than any page sends; a client beyond it is closed.
#: Frames count, not messages: pings and fragments cost as much.
FRAMES = (200, 50.0)
#: The same before authentication: a page sends nothing but its token.
FRAMES_WITHOUT_TOKEN = (10, 1.0)
#: Seconds between pings, and until the pong: a lost connection is closed after their sum.
PING_INTERVAL = 30
PONG_TIMEOUT = 50
#: Seconds for the closing handshake. Autobahn takes whole seconds.
CLOSE_TIMEOUT = 2

# Not 1001, "going away": on that, the Panel's page would not come back by itself.
SERVICE_RESTART = 1012


class ConsoleProtocol(WebSocketServerProtocol):
    """The server's side of one WebSocket. `headers` are added to the answer that opens it."""

    transport: Any  # the site's channel
    # Autobahn's log lines do not name the server.
    log = make_logger(level="critical")

    def __init__(
        self,
        receiver: ConsoleClient,
        factory: WebSocketServerFactory,
        headers: Mapping[str, str] = {},
    ) -> None:
        super().__init__()
        self._headers = headers
        self.factory = factory
        self._receiver = receiver
        self._frames = RateLimit(*FRAMES)
        self._frames_without_token = RateLimit(*FRAMES_WITHOUT_TOKEN)
        self._flooded = False
        # Whether a message that is too long was reported.
        self._too_long = False

    def send(self, payload: bytes, *, binary: bool = False) -> None:
        """Send a text in UTF-8, or a binary message; nothing on a connection that is closing."""
        if self.state == self.STATE_OPEN:
            # Not sendMessage(), which holds what is sent to the limit of what is received.
            self.sendPreparedMessage(self.factory.prepareMessage(payload, isBinary=binary))

    def close_with(self, code: int, reason: str) -> None:
        """Close the connection with a code of RFC 6455 and at most 123 bytes of a reason."""
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, reason.encode())
        elif self.state == self.STATE_CONNECTING:
            self.dropConnection()

    def go_away(self) -> None:
        """Close the connection since the daemon stops."""
        self.close_with(SERVICE_RESTART, "this node is shutting down")

    # Called by the channel

    def dataReceived(self, data: bytes) -> None:
        """Take received bytes, until the rate limit is exceeded."""
        if not self._flooded:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Notify the receiver."""
        super().connectionLost(reason)
        self._receiver.closed()

    # Called by autobahn

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        """Refuse a handshake, in JSON like every refusal."""
        self.transport.refuse(InvalidHandshake(reason, code))

    def onConnect(self, request: ConnectionRequest) -> tuple[None, dict[str, str]]:
        """Accept the handshake, without a subprotocol."""
        return None, dict(self._headers)

    def onOpen(self) -> None:
        """Notify the receiver: the handshake is over."""
        self._receiver.opened(self)

    def onMessageFrameBegin(self, length: int) -> None:
        """Count a frame of a message. A message that is too long has the connection closed."""
        super().onMessageFrameBegin(length)
        if self.wasMaxMessagePayloadSizeExceeded and not self._too_long:
            self._too_long = True  # Autobahn has sent 1009, with both sizes.
            self._receiver.too_long(self.message_data_total_length)
        self._count()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Pass a message on."""
        if not self._flooded:
            self._receiver.message(payload, binary=isBinary)

    def onPing(self, payload: bytes) -> None:
        """Send a pong, unless the client reads too slowly."""
        self._count()
        if not self._receiver.buffer.paused:
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        """Count a pong."""
        self._count()

    def _count(self) -> None:
        limit = self._frames if self._receiver.session.admitted else self._frames_without_token
        if not self._flooded and not limit.allows(self.factory.reactor.seconds()):
            self._flooded = True
            self.close_with(POLICY_VIOLATION, "too many messages")


def protocol_factory(reactor: Reactor, family: str) -> WebSocketServerFactory:
    """Return the factory of all connections of a node of that family, without compression."""
    message_max = MESSAGE_MAX_CALAGOPUS if family == CALAGOPUS else MESSAGE_MAX
    factory = WebSocketServerFactory(reactor=reactor, server="")
    factory.setProtocolOptions(
        webStatus=False,
        maxFramePayloadSize=message_max,
        maxMessagePayloadSize=message_max,
        failByDrop=False,
        closeHandshakeTimeout=CLOSE_TIMEOUT,
        autoPingInterval=PING_INTERVAL,
        autoPingTimeout=PONG_TIMEOUT,
    )
    return factory
