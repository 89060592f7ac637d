"""The site: its connections, and the paths below its root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolNegotiationFactory
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource, getChildForRequest
from zope.interface import implementer

from wingsd.config import CALAGOPUS, Config, LimitsConfig, node_agent_of
from wingsd.errors import HeaderTooLong, InvalidHttpRequest, PathNotFound, WingsdError
from wingsd.http.operations import Error
from wingsd.http.request import StreamingRequest
from wingsd.util.media import MediaType, encode
from wingsd.util.net import below_tls
from wingsd.util.observer import Observer
from wingsd.util.tls_records import GATHERED, InputScheduler, ReadControl

# Those of Wings, letter for letter; pages of the Panel call from a browser, too.
_CORS: Mapping[str, str] = {
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Methods": "GET, POST, PATCH, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Accept, Accept-Encoding, Authorization, Cache-Control, Content-Type, Content-Length, "
        "Origin, X-Real-IP, X-CSRF-Token"
    ),
    "Access-Control-Max-Age": "7200",
}
#: Wings sends the first, which is the name of a request's header; browsers look for the second.
_PRIVATE_NETWORK: Mapping[str, str] = {
    "Access-Control-Request-Private-Network": "true",
    "Access-Control-Allow-Private-Network": "true",
}


#: Seconds for a peer to close its side of a connection that was closed here. Without a limit, a
#: peer could keep it open over TLS.
CLOSE_TIMEOUT = 10
#: Bytes read at a time, and limit of unsent bytes at which no more requests are processed.
READ_SIZE = 16 * 1024
#: Entries of a header with commas or semicolons, parts of a path, and values of a query. Splitting
#: what fits into a head otherwise takes up to 28 ms.
MAX_ENTRIES, MAX_PARTS, MAX_VALUES = 256, 32, 256
#: Bytes of a header's name. twisted.web keeps the first ten thousand names for ever.
MAX_NAME = 100
#: Bytes of a client's input processed in one turn. They take a millisecond at most, even as 170
#: chunks of one byte.
PIECE = 1024
# The methods by which twisted.web parses a request.
_PARSING = ("lineReceived", "rawDataReceived", "allHeadersReceived", "allContentReceived")
# Why the transport is paused; see `ReadControl`.
_INPUT_BUFFERED = "input is buffered"
_REQUEST_PAUSED = "a request has paused its body"


class NodeChannel(HTTPChannel):
    """An HTTP/1.1 connection with limits, whose errors are answered in JSON.

    A client can send thousands of pipelined requests, chunks or frames in one segment. If all of
    them were processed at once, other clients would wait. So input is buffered, nothing is read
    while it is, and it is processed in turns of the reactor: at most one request a turn, and none
    while earlier answers are unsent. Only the body of an accepted upload is passed on as it
    arrives.
    """

    site: NodeSite
    transport: Any
    timeOut: Any
    _networkProducer: ReadControl  # type: ignore[assignment]  # has what twisted.web calls
    #: The client's IP address; empty on a Unix socket.
    address = ""
    _aborted = False
    _abort: IDelayedCall | None = None
    #: The protocol of the connection after its upgrade from HTTP.
    _upgraded: Any = None
    #: Input that was read and is not processed yet.
    _unread = b""
    _closing = False
    #: Seconds for a request; see `LimitsConfig`.
    _request_timeout: float | None = None

    def connectionMade(self) -> None:
        """Apply the limits."""
        limits = self.site.limits
        self.timeOut = self._request_timeout = min(limits.request_timeout, self.timeOut)
        self.maxHeaders = limits.headers
        self.MAX_LENGTH = self.totalHeadersSize = limits.header_bytes
        super().connectionMade()
        self._networkProducer = ReadControl(self.transport)
        below_tls(self.transport).bufferSize = READ_SIZE
        self.address = getattr(self.getPeer(), "host", "")
        self.site.connection_opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Discard the input."""
        self._closing = True
        self.site.input.remove(self)
        super().connectionLost(reason)
        if self._upgraded is not None:
            self._upgraded.connectionLost(reason)
        if self._abort is not None and self._abort.active():
            self._abort.cancel()
        self._transferDecoder = None  # a cycle
        self.site.connection_closed(self)

    def upgrade(self, protocol: Any, opening: bytes) -> None:
        """Switch protocols: `protocol` gets `opening`, then all further data.

        `protocol` is Twisted's, with a method `go_away`: it is called when the daemon stops, and
        closes the connection as the protocol prescribes.

        The connection is never idle from then on. For backpressure the protocol registers itself
        as the channel's producer.
        """
        self._upgraded = protocol
        protocol.makeConnection(self)
        protocol.dataReceived(opening)
        self._process_later()

    def dataReceived(self, data: bytes) -> None:
        """Receive data."""
        if self._closing:
            return
        if self._upgraded is None:
            self.resetTimeout()
        self._unread += data
        if self._is_uploading:
            data, self._unread = self._unread, b""
            LineReceiver.dataReceived(self, data)
        self._process_later()

    def process_piece(self) -> None:
        """Process the next piece of the input."""
        if self._closing or not self._can_process:
            return
        # A body of known length is cheap to process; chunks, lines and frames are not.
        whole = self._upgraded is None and (self.length or self._is_uploading)
        size = len(self._unread) if whole else PIECE
        piece, self._unread = self._unread[:size], self._unread[size:]
        if self._upgraded is not None:
            self._upgraded.dataReceived(piece)
        else:
            LineReceiver.dataReceived(self, piece)
        self._process_later()

    @property
    def _can_process(self) -> bool:
        """True if input can be processed now, and not after an answer or a write."""
        busy = self._handlingRequest or self._waitingForTransport
        return self._upgraded is not None or not busy

    def _process_later(self) -> None:
        """Process more in the next turn; read more when the buffer is empty."""
        if self._closing:
            return
        if not self._unread:
            self._networkProducer.resume(_INPUT_BUFFERED)
            return
        self._networkProducer.pause(_INPUT_BUFFERED)
        if self._can_process:
            self.site.input.add(self)

    def lineReceived(self, line: bytes) -> None:
        """Parse a line of a head. A header has one line (RFC 9112, section 5.2)."""
        if line[:1] in (b" ", b"\t"):
            self.refuse(InvalidHttpRequest("a header line begins with a space"))
        else:
            super().lineReceived(line)

    def allHeadersReceived(self) -> None:
        """Look up the resource. One Host header is required (RFC 9112, section 3.2)."""
        hosts = self.requests[-1].requestHeaders.getRawHeaders("Host", [])
        path, _, query = self._path.partition(b"?")
        if self._version == b"HTTP/1.1" and len(hosts) != 1:
            self.refuse(InvalidHttpRequest("a request must have one Host header"))
        elif path.count(b"/") > MAX_PARTS:
            self.refuse(InvalidHttpRequest(f"the path has more than {MAX_PARTS} parts"))
        elif query.count(b"&") + query.count(b";") >= MAX_VALUES:
            self.refuse(InvalidHttpRequest(f"the query has more than {MAX_VALUES} values"))
        else:
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """Answer a request. The input behind it is buffered."""
        self._unread = b"".join([*self._dataBuffer, self.clearLineBuffer(), self._unread])
        self._dataBuffer = []
        super().allContentReceived()

    def requestDone(self, request: StreamingRequest) -> None:
        """Continue with the next request."""
        super().requestDone(request)
        if self.persistent and request.is_streamed and not self._closing:
            # That of uploads is longer.
            self.setTimeout(self._request_timeout)
        self._process_later()

    def resumeProducing(self) -> None:
        """Continue with requests: the transport has sent its buffer."""
        super().resumeProducing()
        self._process_later()

    def pause_reading(self) -> None:
        """Stop reading a request's body."""
        self._networkProducer.pause(_REQUEST_PAUSED)

    def resume_reading(self) -> None:
        """Read the body again."""
        self._networkProducer.resume(_REQUEST_PAUSED)

    def enlarge_read_buffer(self) -> None:
        """Read larger pieces, for an upload: as large as TLS records are joined to."""
        below_tls(self.transport).bufferSize = GATHERED

    def enlarge_send_limit(self) -> None:
        """Send larger pieces, for a file: as large as TLS records are joined to."""
        below_tls(self.transport).SEND_LIMIT = GATHERED

    @property
    def _is_uploading(self) -> bool:
        """True if an accepted upload is being received."""
        request = self.requests[-1] if self.requests else None
        return request is not None and request.is_streamed and not request.startedWriting

    @property
    def is_waiting(self) -> bool:
        """True if no request of the client is being processed."""
        busy = self._handlingRequest or self._upgraded is not None
        return not (self._is_uploading or busy or self._aborted)

    def resetTimeout(self) -> None:
        """Restart the timeout when data arrives: during an upload, and between requests.

        Any other request must be complete within the timeout, or a client could send one byte by
        byte and keep the connection for weeks.
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
        """Close the connection; abort it when the peer does not close its side in time."""
        self._closing, self._unread = True, b""
        self._networkProducer.resume_all()
        super().loseConnection()
        if self._abort is None:
            self._abort = self.callLater(CLOSE_TIMEOUT, self.abortConnection)

    def abortConnection(self) -> None:
        """Close the connection at once."""
        self._aborted = True
        self.transport.abortConnection()

    def timeoutConnection(self) -> None:
        """Abort the client's upload with an error, or close the connection."""
        reason = f"nothing was received for {self.site.timeOut} s"
        if not (self.requests and self.requests[-1].time_out(reason)):
            self.loseConnection()

    def headerReceived(self, line: bytes) -> bool:
        """Parse a header; return whether it is valid."""
        name, _, value = line.partition(b":")
        if problem := self._problem(name, value):
            self.refuse(InvalidHttpRequest(problem))
            return False
        try:
            taken: bool = super().headerReceived(line)
        except ValueError:  # A length with more digits than Python converts.
            self._respondToBadRequestAndDisconnect()
            return False
        return taken

    def _problem(self, name: bytes, value: bytes) -> str:
        """Return why a header is refused; empty for one that is not.

        twisted.web ignores the coding `identity`, so that a list over two lines could have a body
        end elsewhere than a proxy sees it end.
        """
        if name.lower() == b"transfer-encoding":
            is_chunked = value.strip(b" \t").lower() == b"chunked"
            if not is_chunked or self._version != b"HTTP/1.1":
                return "the only Transfer-Encoding is chunked, in HTTP/1.1"
        if len(value.translate(None, b"\r\n\0")) < len(value):  # Twisted 24.11 takes them
            return "a header line has a line break or a zero byte in it"
        if len(name) > MAX_NAME:
            return f"the name of a header has more than {MAX_NAME} bytes"
        if value.count(b",") + value.count(b";") >= MAX_ENTRIES:
            return f"a header has more than {MAX_ENTRIES} entries"
        return ""

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a header line that is longer than twisted.web's limit."""
        self.refuse(HeaderTooLong())

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Refuse an invalid request. Called by twisted.web."""
        self.refuse(InvalidHttpRequest())

    def refuse(self, error: WingsdError) -> None:
        """Answer an invalid request and close the connection."""
        # Nothing that follows may be parsed.
        for method in _PARSING:
            setattr(self, method, _ignore)
        if not (self.requests and self.requests[-1].abort_body(error.message)):
            request_id = str(uuid4())
            body = encode(Error.of(error, request_id), MediaType.JSON)
            status = HTTPStatus(error.status)
            headers = {
                "Content-Type": "application/json",
                "Content-Length": len(body),
                "Connection": "close",
                **self.site.common_headers(""),
                "X-Request-Id": request_id,
            }
            head = [
                f"HTTP/1.1 {status.value} {status.phrase}",
                *(f"{name}: {value}" for name, value in headers.items()),
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.loseConnection()


def _ignore(*_: object) -> None:
    pass


@implementer(IProtocolNegotiationFactory)
class NodeSite(HTTPFactory):
    """A site of streaming requests below `root`, HTTP/1.1 only: uploads gain nothing from HTTP/2.

    `timeout` is the seconds that an upload may be silent, `least_rate` the bytes a second that it
    must send on average over this time (0: any). `observer` is notified of requests that fail.
    `config` is that of the node whose answers it gives, None for a site beside the node's.
    """

    protocol = NodeChannel  # type: ignore[assignment]  # narrower than Twisted's, on purpose
    requestFactory = StreamingRequest
    noisy = False
    _log = Logger()

    def __init__(
        self,
        root: IResource,
        *args: Any,
        limits: LimitsConfig | None = None,
        least_rate: int = 0,
        observer: Observer | None = None,
        config: Config | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        #: What answers at `/`, and finds what answers below it.
        self.resource = root
        self.limits = limits or LimitsConfig()
        self.observer = observer or Observer()
        self.least_rate = least_rate
        #: Whether an empty answer is an empty map, as Calagopus' Panel expects it.
        self.sends_empty_maps = config is not None and config.family == CALAGOPUS
        self._config: Config | None = None
        if config is not None:
            self.use(config)
        self.input = InputScheduler(self.reactor)
        #: The open connections, the oldest first.
        self.connections: dict[NodeChannel, None] = {}
        self._drained: Deferred[None] | None = None

    def use(self, config: Config) -> None:
        """Answer later requests as a node of this configuration."""
        self._config = config
        panel = urlsplit(config.remote)
        self._panel = f"{panel.scheme}://{panel.netloc}"
        self._fixed = {
            "User-Agent": node_agent_of(config.family, config.token_id),
            # Bodies are JSON or MessagePack by `Accept`.
            "Vary": "Origin, Accept",
            **_CORS,
            **(_PRIVATE_NETWORK if config.allow_cors_private_network else {}),
        }

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return a new connection's protocol."""
        channel: Any = super().buildProtocol(addr)
        channel.requestFactory, channel.site = self.requestFactory, self
        return channel

    def getResourceFor(self, request: StreamingRequest) -> IResource:
        """Return the resource of a request's path."""
        found: IResource = getChildForRequest(self.resource, request)
        return found

    def connection_opened(self, channel: NodeChannel) -> None:
        """Add a connection. When too many wait for a request, one of them is aborted.

        It is the oldest of the address with the most, so that one client does not displace
        others. The limit keeps file descriptors free for transfers.
        """
        self.connections[channel] = None
        if len(self.connections) <= self.limits.connections:
            return
        waiting = [channel for channel in self.connections if channel.is_waiting]
        if len(waiting) > self.limits.connections:
            ((most, _),) = Counter(channel.address for channel in waiting).most_common(1)
            next(channel for channel in waiting if channel.address == most).abortConnection()

    def common_headers(self, origin: str) -> dict[str, str]:
        """Return the headers of all answers to requests with this `Origin`; empty for none."""
        if self._config is None:
            return {}
        allowed = origin if origin and self._config.allows_origin(origin) else self._panel
        return {**self._fixed, "Access-Control-Allow-Origin": allowed}

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 in the TLS handshake."""
        return [b"http/1.1"]

    def drain(self, within: float) -> Deferred[None]:
        """Close idle and upgraded connections, and abort the others after `within` seconds.

        The Deferred fires when all are closed.
        """
        for channel in tuple(self.connections):
            channel.close_if_idle()
        if not self.connections:
            return succeed(None)
        self.reactor.callLater(within, self._abort_all)
        self._drained = Deferred()
        return self._drained

    def log(self, request: Any) -> None:
        """Log an answered request, without query and headers, which may contain secrets."""
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

    def connection_closed(self, channel: NodeChannel) -> None:
        """Remove a connection."""
        self.connections.pop(channel, None)
        if self._drained is not None and not self.connections:
            drained, self._drained = self._drained, None
            drained.callback(None)


class NotFound(Resource):
    """Answers 404 on every path without a child resource."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return this resource for all paths below."""
        return self

    def render(self, request: Any) -> None:
        """Answer 404."""
        request.refuse(PathNotFound(request.path.decode("utf-8", "replace")))


class Paths(NotFound):
    """The root of a site. `table` has the paths, and what makes the resource of each.

    Variable parts of a path are names in braces. A resource is made for each request, from that
    and the values of these parts by name. Other paths are answered with 404.
    """

    def __init__(
        self, table: Mapping[str, Callable[[StreamingRequest, Mapping[str, bytes]], Resource]]
    ) -> None:
        super().__init__()
        self._paths = [(path.split("/")[1:], make) for path, make in table.items()]

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Return the resource of a path: of its first part, and `request.postpath`."""
        parts = [path, *request.postpath]
        for pattern, make in self._paths:
            variables = _match(pattern, parts)
            if variables is not None:
                return make(request, variables)
        return NotFound()


def _match(pattern: list[str], parts: list[bytes]) -> dict[str, bytes] | None:
    """Return the values of the names in braces; None when the path does not match."""
    if len(pattern) != len(parts):
        return None
    found = {}
    for name, part in zip(pattern, parts, strict=True):
        if name.startswith("{"):
            found[name.strip("{}")] = part
        elif name.encode() != part:
            return None
    return found
