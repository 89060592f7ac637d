"""A connection of a client: limits, timeouts, input in turns, and upgrades.

A client can send thousands of pipelined requests, chunks or frames in one segment. If all of them
were processed as they are read, every other client would wait meanwhile. So each channel keeps
what it has read, reads no more while something is kept, and processes one piece in a turn of the
reactor; the other channels have their turns in between.
"""

from __future__ import annotations

from collections import OrderedDict
from http import HTTPStatus
from typing import Any, Protocol
from uuid import uuid4

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from wingsd.config import LimitsConfig
from wingsd.errors import WingsdError
from wingsd.http.errors import HeaderTooLong, InvalidHttpRequest, error_json
from wingsd.http.request import StreamingRequest
from wingsd.util.tls import GATHERED

__all__ = ["InputScheduler", "NodeChannel", "ReadControl", "TakesInput", "Upgraded"]

#: Seconds of a turn after which the reactor sees to everything else it has, such as uploads.
TURN_SECONDS = 0.02


class TakesInput(Protocol):
    """A connection with input that waits."""

    def take_piece(self) -> None:
        """Process the next piece."""


class InputScheduler:
    """Has each connection process one piece of its input a turn, first come, first served."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._waiting: OrderedDict[TakesInput, None] = OrderedDict()
        self._call: IDelayedCall | None = None

    def add(self, connection: TakesInput) -> None:
        """Have a connection process one piece in the next turn; at most one, however often."""
        self._waiting[connection] = None
        if self._call is None:
            self._call = self._reactor.callLater(0, self._run)

    def remove(self, connection: TakesInput) -> None:
        """Forget a connection that was closed."""
        self._waiting.pop(connection, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _run(self) -> None:
        self._call = None
        begun = self._reactor.seconds()
        for _ in range(len(self._waiting)):
            if not self._waiting or self._reactor.seconds() - begun > TURN_SECONDS:
                break
            connection, _ = self._waiting.popitem(last=False)
            connection.take_piece()
        if self._waiting and self._call is None:
            self._call = self._reactor.callLater(0, self._run)


class _Transport(Protocol):
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: object, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...


class ReadControl:
    """Pauses a transport as long as there is a reason for it; there can be several at a time.

    It takes the transport's place as the channel's own network producer, by which twisted.web
    pauses and resumes for reasons of its own.
    """

    def __init__(self, transport: _Transport) -> None:
        self._transport = transport
        self._reasons: set[str] = set()

    def pause(self, reason: str) -> None:
        """Read no more until `resume` is called with the same reason."""
        if not self._reasons:
            self._transport.pauseProducing()
        self._reasons.add(reason)

    def resume(self, reason: str) -> None:
        """Read on, unless there is another reason not to."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons:
                self._transport.resumeProducing()

    def resume_all(self) -> None:
        """Read on, whatever the reasons were: a closed connection is noticed by reading alone."""
        for reason in tuple(self._reasons):
            self.resume(reason)

    def pauseProducing(self) -> None:
        """Pause for twisted.web."""
        self.pause("twisted.web")

    def resumeProducing(self) -> None:
        """Resume for twisted.web."""
        self.resume("twisted.web")

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Pass on who writes to the transport."""
        self._transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Pass on that nothing more will be written."""
        self._transport.unregisterProducer()


#: Seconds a peer has to close its side of a connection that was closed here. Over TLS it could
#: keep it open for ever otherwise.
CLOSE_WITHIN = 10
#: Bytes that are read at a time. As many may wait to be written before no more requests are taken.
READ_SIZE = 16 * 1024
#: Bytes of a client's input that are processed in one turn of the reactor. They take a millisecond
#: at most, even as 170 chunks of one byte.
PIECE = 1024
# What twisted.web reads a request by.
_PARSING = ("lineReceived", "rawDataReceived", "allHeadersReceived", "allContentReceived")
# Why the transport is paused; see `ReadControl`.
_INPUT_WAITS = "input waits"
_REQUEST_PAUSED = "a request has paused its body"


class Upgraded(Protocol):
    """What speaks on a connection that is HTTP no longer: a Twisted protocol that can part."""

    def makeConnection(self, transport: Any) -> None:
        """Begin; `transport` is the channel."""

    def dataReceived(self, data: bytes) -> None:
        """Take what has arrived."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone."""

    def go_away(self) -> None:
        """The daemon ends: close the connection in your own way."""


class ChannelSite(Protocol):
    """What a channel needs of its site. `timeOut` is the seconds an upload may be silent."""

    timeOut: Any
    limits: LimitsConfig
    input: InputScheduler

    def connection_opened(self, channel: NodeChannel) -> None:
        """A channel is connected."""

    def connection_closed(self, channel: NodeChannel) -> None:
        """A channel is disconnected."""


class NodeChannel(HTTPChannel):
    """A connection that its site knows of, that answers in JSON, and that ends when it is told.

    Input is kept and processed in turns (`wingsd.http.channel`): at most one request a turn, and
    none while earlier answers still wait to be written. Only the body of an upload that was let in
    is passed on as it arrives.
    """

    site: ChannelSite
    transport: Any
    timeOut: Any
    _networkProducer: ReadControl  # type: ignore[assignment]  # all that twisted.web calls of one
    #: Where the client is; empty on a UNIX socket.
    address = ""
    _aborted = False
    _abort: IDelayedCall | None = None
    _upgraded: Upgraded | None = None
    #: Input that has been read and not been processed.
    _unread = b""
    _closing = False

    def connectionMade(self) -> None:
        """Apply the limits."""
        limits = self.site.limits
        self.timeOut = min(limits.request_timeout, self.timeOut)
        self.maxHeaders = limits.headers
        self.MAX_LENGTH = self.totalHeadersSize = limits.header_bytes
        super().connectionMade()
        self._networkProducer = ReadControl(self.transport)
        self._socket.bufferSize = READ_SIZE
        self.address = getattr(self.getPeer(), "host", "")
        self.site.connection_opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Drop what is left of the input."""
        self._closing = True
        self.site.input.remove(self)
        super().connectionLost(reason)
        if self._upgraded is not None:
            self._upgraded.connectionLost(reason)
        if self._abort is not None and self._abort.active():
            self._abort.cancel()
        self.site.connection_closed(self)

    def upgrade(self, protocol: Upgraded, opening: bytes) -> None:
        """Hand the connection over for good: `protocol` gets `opening`, then all that arrives.

        Such a connection is never idle. A protocol that wants to know how fast the client reads
        registers itself as the channel's producer.
        """
        self._upgraded = protocol
        protocol.makeConnection(self)
        protocol.dataReceived(opening)
        self._process_later()

    def dataReceived(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._closing:
            return
        if self._upgraded is None:
            self.resetTimeout()
        self._unread += data
        if self._uploads:
            data, self._unread = self._unread, b""
            LineReceiver.dataReceived(self, data)
        self._process_later()

    def take_piece(self) -> None:
        """Process the next piece of what has arrived."""
        if self._closing or not self._may_process:
            return
        # A body whose length is known costs nothing to take; chunks, lines and frames do.
        whole = self._upgraded is None and (self.length or self._uploads)
        size = len(self._unread) if whole else PIECE
        piece, self._unread = self._unread[:size], self._unread[size:]
        if self._upgraded is not None:
            self._upgraded.dataReceived(piece)
        else:
            LineReceiver.dataReceived(self, piece)
        self._process_later()

    @property
    def _may_process(self) -> bool:
        """Whether input can be processed now; else that goes on with what it waits for."""
        busy = self._handlingRequest or self._waitingForTransport
        return self._upgraded is not None or not busy

    def _process_later(self) -> None:
        """Process more in the next turn; read more when there is nothing left."""
        if self._closing:
            return
        if not self._unread:
            self._networkProducer.resume(_INPUT_WAITS)
            return
        self._networkProducer.pause(_INPUT_WAITS)
        if self._may_process:
            self.site.input.add(self)

    def allHeadersReceived(self) -> None:
        """Find the request's resource, unless it has not one Host (RFC 9112, section 3.2)."""
        hosts = self.requests[-1].requestHeaders.getRawHeaders("Host", [])
        if self._version == b"HTTP/1.1" and len(hosts) != 1:
            self.refuse(InvalidHttpRequest("a request must have one Host header"))
        else:
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """Answer a request. What has arrived behind it waits for its turn."""
        self._unread = b"".join([*self._dataBuffer, self.clearLineBuffer(), self._unread])
        self._dataBuffer = []
        super().allContentReceived()

    def requestDone(self, request: StreamingRequest) -> None:
        """Take the next request, if its turn has come."""
        super().requestDone(request)
        self._process_later()

    def resumeProducing(self) -> None:
        """Take requests again: the transport has written what had piled up."""
        super().resumeProducing()
        self._process_later()

    def pause_reading(self) -> None:
        """Read no more of a request's body for now."""
        self._networkProducer.pause(_REQUEST_PAUSED)

    def resume_reading(self) -> None:
        """Read on."""
        self._networkProducer.resume(_REQUEST_PAUSED)

    def expect_much(self) -> None:
        """An upload comes: read as much at a time as its records are joined to."""
        self._socket.bufferSize = GATHERED

    @property
    def _socket(self) -> Any:
        """What is below TLS, or the transport itself."""
        return getattr(self.transport, "transport", self.transport)

    @property
    def _uploads(self) -> bool:
        """Whether an upload that was let in is on its way."""
        request = self.requests[-1] if self.requests else None
        return request is not None and request.is_streamed and not request.startedWriting

    @property
    def is_waiting(self) -> bool:
        """Whether the client has asked for nothing that is being done now."""
        busy = self._handlingRequest or self._upgraded is not None
        return not (self._uploads or busy or self._aborted)

    def resetTimeout(self) -> None:
        """Take it as a sign of life that something has arrived.

        Only an upload may go on for as long as something does. Any other request must be whole
        by then, or whoever sends one byte by byte could keep a connection for weeks.
        """
        begun = self.requests or self._buffer or self._unread
        if not begun or (self.requests and self.requests[-1].is_streamed):
            super().resetTimeout()

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being answered."""
        if self._upgraded is not None:
            self._upgraded.go_away()
        elif not self.requests:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close the connection; a peer that does not close its side in time is cut off."""
        self._closing, self._unread = True, b""
        self._networkProducer.resume_all()
        super().loseConnection()
        if self._abort is None:
            self._abort = self.callLater(CLOSE_WITHIN, self.abortConnection)

    def abortConnection(self) -> None:
        """Cut the connection off."""
        self._aborted = True
        self.transport.abortConnection()

    def timeoutConnection(self) -> None:
        """The client has been silent for too long: end its upload with a word, or just close."""
        how = f"nothing was received for {self.site.timeOut} s"
        if not (self.requests and self.requests[-1].stall(how)):
            self.loseConnection()

    def headerReceived(self, line: bytes) -> bool:
        """Take a header; return whether it can be one."""
        try:
            taken: bool = super().headerReceived(line)
        except ValueError:  # A length of more digits than Python makes a number of.
            self._respondToBadRequestAndDisconnect()
            return False
        return taken

    def lineLengthExceeded(self, line: bytes) -> None:
        """A header line is longer than twisted.web takes."""
        self.refuse(HeaderTooLong())

    def _respondToBadRequestAndDisconnect(self) -> None:
        """What twisted.web calls for a request it cannot read."""
        self.refuse(InvalidHttpRequest())

    def refuse(self, error: WingsdError) -> None:
        """Answer what is no request that could be answered, and close the connection."""
        # Nothing of it may be taken for anything, now or later.
        for method in _PARSING:
            setattr(self, method, _ignore)
        if not (self.requests and self.requests[-1].break_off(error.message)):
            body = error_json(error)
            status = HTTPStatus(error.status)
            head = [
                f"HTTP/1.1 {status.value} {status.phrase}",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                "Connection: close",
                f"X-Request-Id: {uuid4()}",
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.loseConnection()


def _ignore(*_: object) -> None:
    pass
