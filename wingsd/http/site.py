"""The site: connections, the paths that are found, and answers to those that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Generic, Protocol, TypeVar
from uuid import uuid4

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from wingsd.config import LimitsConfig
from wingsd.http.answers import error_json
from wingsd.http.input import InputScheduler, ReadControl
from wingsd.http.request import StreamingRequest
from wingsd.util.observer import Observer
from wingsd.util.tls import GATHERED

__all__ = ["NodeSite", "NotFound", "Paths", "Upgraded"]

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


class _Channel(HTTPChannel):
    """A connection that its site knows of, that answers in JSON, and that ends when it is told.

    Input is kept and processed in turns (`wingsd.http.input`): at most one request a turn, and
    none while earlier answers still wait to be written. Only the body of an upload that was let in
    is passed on as it arrives.
    """

    site: NodeSite
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
        limits = self.site.limits
        self.timeOut = min(limits.request_timeout, self.timeOut)
        self.maxHeaders = limits.headers
        self.MAX_LENGTH = self.totalHeadersSize = limits.header_bytes
        super().connectionMade()
        self._networkProducer = ReadControl(self.transport)
        self._socket.bufferSize = READ_SIZE
        self.address = getattr(self.getPeer(), "host", "")
        self.site.connections[self] = None
        self.site.make_room()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self.site.input.remove(self)
        super().connectionLost(reason)
        if self._upgraded is not None:
            self._upgraded.connectionLost(reason)
        if self._abort is not None and self._abort.active():
            self._abort.cancel()
        self.site.connections.pop(self, None)
        self.site.lost_one()

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
            self.refuse(HTTPStatus.BAD_REQUEST, "a request must have one Host header")
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

    def wind_up(self) -> None:
        """Close the connection if it is idle or does not end by itself."""
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
        self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "a header line is too long")

    def _respondToBadRequestAndDisconnect(self) -> None:
        """What twisted.web calls for a request it cannot read."""
        self.refuse(HTTPStatus.BAD_REQUEST, "this is not a valid HTTP request")

    def refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer what is no request that could be answered, and close the connection."""
        # Nothing of it may be taken for anything, now or later.
        for method in _PARSING:
            setattr(self, method, _ignore)
        if not (self.requests and self.requests[-1].break_off(message)):
            body = error_json(message)
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


class NodeSite(Site):
    """A site of streaming requests. `timeout` is the seconds that an upload may be silent.

    `least_rate` is the bytes a second that must come of an upload over as long, 0 for any;
    `limits` is what holds for all connections; `observer` is told of requests that fail.

    It speaks HTTP/1.1 alone: one upload a connection gains nothing from HTTP/2.
    """

    protocol = _Channel  # type: ignore[assignment]  # narrower than Twisted's, on purpose
    requestFactory = StreamingRequest
    displayTracebacks = False
    noisy = False
    _log = Logger()

    def __init__(
        self,
        *args: Any,
        limits: LimitsConfig | None = None,
        least_rate: int = 0,
        observer: Observer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits or LimitsConfig()
        self.observer = observer or Observer()
        self.least_rate = least_rate
        self.input = InputScheduler(self.reactor)
        #: All that are open, the oldest first.
        self.connections: dict[_Channel, None] = {}
        self._drained: Deferred[None] | None = None

    def make_room(self) -> None:
        """Cut off a connection that waits for a request, when there are too many of them.

        Anybody can open them, but a process can hold only so many, and needs them for files too.
        It is the oldest of the address with the most: one client alone crowds out no other.
        """
        if len(self.connections) <= self.limits.connections:
            return
        waiting = [channel for channel in self.connections if channel.is_waiting]
        if len(waiting) > self.limits.connections:
            ((most, _),) = Counter(channel.address for channel in waiting).most_common(1)
            next(channel for channel in waiting if channel.address == most).abortConnection()

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 in the TLS handshake."""
        return [b"http/1.1"]

    def drain(self, within: float) -> Deferred[None]:
        """Close idle and upgraded connections, and after `within` seconds whatever is left.

        The Deferred fires when there are none left.
        """
        for channel in tuple(self.connections):
            channel.wind_up()
        if not self.connections:
            return succeed(None)
        self.reactor.callLater(within, self._abort_all)
        self._drained = Deferred()
        return self._drained

    def log(self, request: Any) -> None:
        """Note an answered request; without query and headers, which may hold secrets."""
        self._log.debug(
            "{peer}: {method} {path}: {status} (request {number})",
            peer=request.peer,
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
            status=request.code,
            number=request.request_id,
        )

    def _abort_all(self) -> None:
        for channel in tuple(self.connections):
            channel.abortConnection()

    def lost_one(self) -> None:
        """Note that a connection was closed."""
        if self._drained is not None and not self.connections:
            drained, self._drained = self._drained, None
            drained.callback(None)


class NotFound(Resource):
    """Answers 404 to whatever has no resource of its own; the root of the tree."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Be the answer to every path below."""
        return self

    def render(self, request: Any) -> bytes:
        """Say that there is nothing here."""
        path = request.path.decode("utf-8", "replace")
        return error_body(request, 404, f"this node has nothing at {path}")


def error_body(request: Any, status: int, message: str) -> bytes:
    """Set up an answer of `{"error": message}` and return its body."""
    request.setResponseCode(status)
    request.setHeader("Content-Type", "application/json")
    return error_json(message)


Rooms = TypeVar("Rooms")


class Paths(NotFound, Generic[Rooms]):
    """The root of a site: finds a path in the `table`, and nothing where it is not there.

    In the table a path has the names of its parts in braces. What is there is made for each
    request, of the `rooms` of the node and of those parts by their names.
    """

    def __init__(
        self,
        table: Mapping[str, Callable[[Rooms, Mapping[str, bytes]], Resource]],
        rooms: Rooms,
    ) -> None:
        super().__init__()
        self._rooms = rooms
        self._paths = [(path.split("/")[1:], make) for path, make in table.items()]

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return what is at a path, of which the first part is given and the others are left."""
        parts = [path, *request.postpath]
        for wanted, make in self._paths:
            found = _match(wanted, parts)
            if found is not None:
                return make(self._rooms, found)
        return NotFound()


def _match(wanted: list[str], parts: list[bytes]) -> dict[str, bytes] | None:
    """Return what is in the places of the names in braces; None when it is another path."""
    if len(wanted) != len(parts):
        return None
    found = {}
    for name, part in zip(wanted, parts, strict=True):
        if name.startswith("{"):
            found[name.strip("{}")] = part
        elif name.encode() != part:
            return None
    return found
