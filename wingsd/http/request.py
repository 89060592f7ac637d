"""A twisted.web request whose body may be streamed to its resource.

twisted.web calls a resource when the whole body has arrived. Here the resource is looked up when
the headers are complete, and one with `open_body` returns a `BodyReader` for the body. Such a
request can be answered at any time, also while the client is sending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from io import BytesIO
from math import ceil
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request, datetimeToString, parse_qs
from twisted.web.resource import IResource

from wingsd.errors import BodyTooLarge, RangeNotSatisfiable, WingsdError
from wingsd.http.body_sender import (
    LONG,
    BytesSender,
    FileBody,
    StreamedBody,
    send_file,
    send_stream,
)
from wingsd.http.operations import BytesAnswer, Encoded, Error, PlainText
from wingsd.util.addresses import Address, parse_address, parse_network
from wingsd.util.media import MediaType, accepted, content_type, encode
from wingsd.util.net import below_tls, tcp_info
from wingsd.util.reactor import Timer

#: Bytes of a body for a resource that does not stream.
MAX_STORED_BODY = 1024 * 1024
# Limits for a body that is discarded after the answer. A client that reads only after it has sent
# everything would otherwise see a broken connection in place of the answer.
MAX_DRAINED_BODY = 1024 * 1024 * 1024  # bytes
MAX_DRAIN_TIME = 60  # seconds
#: The message of every failure that has no error class; as in Wings.
UNEXPECTED = "An unexpected error was encountered while processing this request"
#: Reason phrases of Wings, for statuses without one in twisted.web. Those of `http.HTTPStatus`
#: differ between versions of Python.
_REASONS: Mapping[int, bytes] = {
    HTTPStatus.UNPROCESSABLE_ENTITY: b"Unprocessable Entity",
    HTTPStatus.UPGRADE_REQUIRED: b"Upgrade Required",
}


class RateWatchdog:
    """Calls `too_slow` once, with the reason, when a client sends too little.

    The minimum is `rate` bytes a second on average over each window of `window` seconds. Time in
    which the client is paused does not count.
    """

    def __init__(
        self, reactor: IReactorTime, rate: int, window: float, too_slow: Callable[[str], object]
    ) -> None:
        self._reactor = reactor
        self._minimum = rate * window
        self._window = window
        self._too_slow = too_slow
        self._received = 0
        self._left = window
        self._since = 0.0
        self._timer = Timer(reactor)
        self.resume()

    def count(self, size: int) -> None:
        """Count received bytes."""
        self._received += size

    def pause(self) -> None:
        """Stop the clock: the client is not read from."""
        if self._timer.is_running:
            self._left -= self._reactor.seconds() - self._since
            self._timer.cancel()

    def resume(self) -> None:
        """Start the clock: the client is read from."""
        if not self._timer.is_running:
            self._since = self._reactor.seconds()
            self._timer.start(max(self._left, 0), self._check)

    def _check(self) -> None:
        received, self._received, self._left = self._received, 0, self._window
        if received < self._minimum:
            self._too_slow(
                f"{received} bytes were received in {self._window:g} s, the minimum is "
                f"{self._minimum:g}"
            )
        else:
            self.resume()


#: Seconds between two checks for a client that is not read from. A cancelled transfer should end
#: within 2.
CHECK_INTERVAL = 1.0


class BodyReader(Protocol):
    """Receives a request's body as it arrives."""

    def data(self, chunk: bytes) -> None:
        """Receive the next chunk."""

    def end(self) -> None:
        """The body is complete."""

    def lost(self, reason: Failure) -> None:
        """The connection is closed. May be called after `end`."""


@runtime_checkable
class StreamingResource(Protocol):
    """A resource that receives the bodies of some methods as they arrive.

    With an attribute `keeps_connection` that is true the connection stays open behind a body that
    was received whole before the answer; a client that sends many such bodies needs one handshake.
    """

    streamed_methods: frozenset[bytes]

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Return the reader of the body. The request has only its headers yet."""


@runtime_checkable
class GuardedResource(Protocol):
    """A resource that gets whole bodies, from authorized clients only."""

    def admits_body(self, request: StreamingRequest) -> bool:
        """Return whether it gets the body of a request, of which there are only the headers yet.

        Raises `WingsdError` when they do not authorize it.
        """


class StreamingRequest(Request):
    """A request that looks up its resource when its headers are complete."""

    _log = Logger()
    channel: Any  # a `NodeChannel`, which imports this module
    content: BytesIO
    site: Any  # a `NodeSite`
    #: The parts of the path that have been looked up, and the others.
    prepath: list[bytes]
    postpath: list[bytes]
    _resource: IResource
    _reader: BodyReader | None = None
    _rate_watchdog: RateWatchdog | None = None
    _connection_check: IDelayedCall | None = None
    _stores = False
    _received = 0
    _complete = False
    _timed_out = False
    _wants_continue = False
    _keeps_connection = False
    #: The format of the request's body.
    media = MediaType.JSON
    #: False for a client that ignores the status: a failure then closes the connection.
    reads_status = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Identifies the request in its answer and in the log. Of an answer with status 500 or
        #: above a Panel shows nothing else.
        self.request_id = str(uuid4())

    # What twisted.web's channel calls

    def parseCookies(self) -> None:
        """Ignore cookies: a node has none."""

    def gotLength(self, length: int | None) -> None:
        """Look up the resource. The channel calls this when the headers are complete."""
        self.content = BytesIO()
        channel = self.channel
        # The base class sets these after the body, but an answer needs them.
        self.site = channel.site
        for name, value in self.common_headers.items():
            self.setHeader(name, value)
        self.setHeader(b"Date", datetimeToString())
        self.media = content_type(self.header("Content-Type"))
        self.method, self.uri = channel._command, channel._path
        self.clientproto = channel._version
        self.path, _, query = self.uri.partition(b"?")
        self.args = parse_qs(query, keep_blank_values=True)
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        self._resource = resource = self.site.getResourceFor(self)
        if isinstance(resource, StreamingResource) and self.method in resource.streamed_methods:
            self._open(resource)
        elif length != 0:
            self._expect_body(resource, length)

    def handleContentChunk(self, data: bytes) -> None:
        """Pass on a chunk of the body."""
        if self._rate_watchdog is not None:
            self._rate_watchdog.count(len(data))
        if self._reader is not None:
            self._reader.data(data)
            return
        self._received += len(data)
        if self._received > MAX_STORED_BODY:
            self._refuse_size()
        elif self._stores:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete."""
        self._complete = True
        self._stop_rate_watchdog()
        if self._reader is None:
            # No path accepts forms, but the base class would parse one.
            self.requestHeaders.removeHeader("Content-Type")
            super().requestReceived(command, path, version)
        else:
            self._reader.end()

    def connectionLost(self, reason: Failure) -> None:
        """The client has disconnected."""
        super().connectionLost(reason)
        self._stop_rate_watchdog()
        self._stop_connection_check()
        if self._reader is not None:
            self._reader.lost(reason)

    def process(self) -> None:
        """Call the resource: the body is complete."""
        try:
            self._resource.render(self)
        except Exception:
            self.fail(Failure())

    def time_out(self, reason: str) -> bool:
        """End a body whose client is silent or too slow. Return whether one was being read."""
        if self._reader is None or self._complete:
            return False
        self._timed_out = True
        self._stop_rate_watchdog()
        self._reader.lost(Failure(TimeoutError(reason)))
        return True

    def abort_body(self, reason: str) -> bool:
        """End a body that cannot be parsed further. Return whether the request was answered."""
        if self._reader is not None and not self._complete:
            self._reader.lost(Failure(ValueError(reason)))
        return bool(self.startedWriting)

    # What resources and readers call

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status of the answer, and its reason phrase."""
        super().setResponseCode(code, message or _REASONS.get(code))

    def header(self, name: str) -> str:
        """Return a header of the request as UTF-8; empty without it."""
        values = self.requestHeaders.getRawHeaders(name.encode())
        return values[-1].decode("utf-8", "replace") if values else ""

    def argument(self, name: str) -> str:
        """Return a value of the query; empty without it."""
        return (self.arguments(name) or ("",))[-1]

    def arguments(self, name: str) -> tuple[str, ...]:
        """Return the values of a name in the query; `name[]` is the same name."""
        given = self.args or {}
        found = [*given.get(name.encode(), ()), *given.get(f"{name}[]".encode(), ())]
        return tuple(value.decode("utf-8", "replace") for value in found)

    @property
    def common_headers(self) -> dict[str, str]:
        """The headers that every answer to this request has."""
        common: dict[str, str] = self.channel.site.common_headers(self.header("Origin"))
        return common | {"X-Request-Id": self.request_id}

    @property
    def is_streamed(self) -> bool:
        """True if the body is passed on or discarded as it arrives."""
        return self._reader is not None

    @property
    def peer(self) -> str:
        """The client's address, for the log."""
        return getattr(self.getClientAddress(), "host", "a Unix socket")

    def client_behind(self, proxies: Sequence[str]) -> str:
        """Return the address of the client behind these proxies.

        Of a client on a Unix socket it is a text that is not an address.
        """
        forwarded = self.requestHeaders.getRawHeaders("X-Forwarded-For", [])
        chain = [part.strip() for value in forwarded for part in value.split(",")]
        return client_of(proxies, self.peer, chain or [self.header("X-Real-IP").strip()])

    def proceed(self) -> None:
        """Send 100 Continue to a client that waits for it."""
        if self._wants_continue and not self._disconnected:
            self.channel.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._wants_continue = False

    def pause(self) -> None:
        """Stop reading from the client. Its timeouts are suspended."""
        if not self._disconnected:
            self.channel.setTimeout(None)
            if self._rate_watchdog is not None:
                self._rate_watchdog.pause()
            self.channel.pause_reading()
            if self._connection_check is None:
                self._check_connection_later()

    def resume(self) -> None:
        """Read from the client again, with the site's timeout."""
        if not self._disconnected:
            self._stop_connection_check()
            if not self._complete:
                self.channel.setTimeout(self.channel.site.timeOut)
                if self._rate_watchdog is not None:
                    self._rate_watchdog.resume()
            self.channel.resume_reading()

    def fail(self, failure: Failure) -> None:
        """Answer with the error in `failure`. An unexpected one is logged with its traceback.

        The connection to a client that ignores the status is closed without an answer.
        """
        error = failure.value
        if not isinstance(error, WingsdError):
            self._log.failure("request {request} failed", failure, request=self)
            error = WingsdError(UNEXPECTED, "see the log of this node")
        self.site.observer.answered(error)
        if not self.reads_status:
            if not self._disconnected:
                self.channel.abortConnection()
            return
        headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
        if error.retry_after:
            headers["Retry-After"] = str(ceil(error.retry_after))
        self.refuse(error, headers)

    def refuse(self, error: WingsdError, headers: Mapping[str, str] = {}) -> None:
        """Answer with `error`."""
        self.respond(error.status, Error.of(error, self.request_id), headers)

    def respond(
        self, status: int, content: object = None, headers: Mapping[str, str] = {}
    ) -> None:
        """Answer with `content`: plain data, instances of attrs classes, a file, or None.

        It is sent in the format that the client accepts. None is an empty body or, in MessagePack
        and for Calagopus' Panel, which decodes every body, an empty map with 200 in place of 204.
        """
        media = accepted(self.header("Accept"))
        if content is None:
            if not (media is MediaType.MESSAGE_PACK or self.site.sends_empty_maps):
                self.answer(status, b"", headers)
                return
            content = {}
            status = HTTPStatus.OK if status == HTTPStatus.NO_CONTENT else status
        if isinstance(content, FileBody):
            self._send(status, content)
            return
        if isinstance(content, StreamedBody):
            if not (self._disconnected or self.startedWriting):
                send_stream(self, status, content)
            return
        if isinstance(content, PlainText):
            body, kind = content.encode("utf-8", "replace"), "text/plain; charset=utf-8"
        elif isinstance(content, BytesAnswer):
            body, kind = content, content.media
        elif isinstance(content, Encoded):
            body, kind = content.body, content.media.value
        else:
            body, kind = encode(content, media), media.value
        self.answer(status, body, {"Content-Type": kind, **headers})

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        """Answer now; what still arrives of the request is discarded.

        The body is JSON unless `headers` have another type.
        """
        if self._disconnected or self.startedWriting:
            return
        if self._keeps_connection and not self._complete:
            self._close_after_answer()
        self.setResponseCode(status)
        if status != HTTPStatus.NO_CONTENT:
            self.setHeader("Content-Length", str(len(body)))
        if body:
            self.setHeader("Content-Type", "application/json")
        else:
            self.responseHeaders.removeHeader("Content-Type")
        for name, value in headers.items():
            self.setHeader(name, value)
        if self._complete and len(body) > LONG and self.method != b"HEAD":
            BytesSender(self, self.path.decode("latin-1"), body).start()
        elif self._complete:
            self.write(body)
            self.finish()
        else:
            # Not finish(): the channel would take the rest of the body for a new request.
            self.write(body)
            if self._timed_out:
                self.channel.loseConnection()
            else:
                self._drain()

    def _send(self, status: int, body: FileBody) -> None:
        """Answer with a file. What calls this has checked that the request's body is complete."""
        if self._disconnected or self.startedWriting:
            body.file.close()
            return
        try:
            send_file(self, status, body)
        except RangeNotSatisfiable as error:
            self.refuse(error)
        except Exception:
            body.file.close()
            raise

    def _open(self, resource: StreamingResource) -> None:
        # twisted.web would send 100 Continue at once; `proceed` does it later.
        expects = self.header("Expect").lower() == "100-continue"
        self._wants_continue = expects and self.clientproto == b"HTTP/1.1"
        self._keeps_connection = getattr(resource, "keeps_connection", False)
        if self._keeps_connection:
            self.requestHeaders.removeHeader("Expect")
        else:
            self._close_after_answer()
        site = self.channel.site
        self.channel.setTimeout(site.timeOut)
        if site.least_rate:
            self._rate_watchdog = RateWatchdog(
                site.reactor, site.least_rate, site.timeOut, self.time_out
            )
        try:
            reader = resource.open_body(self)
        except Exception:
            self.fail(Failure())
        else:
            if self._reader is None:
                self._reader = reader
                self.channel.enlarge_read_buffer()

    def _expect_body(self, resource: object, length: int | None) -> None:
        """Store the body when the client is authorized."""
        if isinstance(resource, GuardedResource):
            try:
                self._stores = resource.admits_body(self)
            except WingsdError:
                self._close_after_answer()
                self.fail(Failure())
                return
        if length is not None and length > MAX_STORED_BODY:
            self._refuse_size()

    def _refuse_size(self) -> None:
        self._close_after_answer()
        self.refuse(BodyTooLarge(MAX_STORED_BODY))

    def _stop_rate_watchdog(self) -> None:
        if self._rate_watchdog is not None:
            self._rate_watchdog.pause()
            self._rate_watchdog = None

    def _check_connection_later(self) -> None:
        """Check for the client while it is not read from: Twisted then misses its disconnect."""
        reactor = self.channel.site.reactor
        self._connection_check = reactor.callLater(CHECK_INTERVAL, self._check_connection)

    def _check_connection(self) -> None:
        self._connection_check = None
        if self.finished:
            return
        try:
            is_there = tcp_info(below_tls(self.channel.transport).getHandle()).established
        except OSError:
            is_there = True  # A Unix socket has no such information.
        if is_there:
            self._check_connection_later()
        else:
            self.resume()

    def _stop_connection_check(self) -> None:
        if self._connection_check is not None:
            self._connection_check.cancel()
            self._connection_check = None

    def _close_after_answer(self) -> None:
        """Close the connection after this request, and do not send 100 Continue automatically.

        The rest of the body and its timeouts can then not affect a next request.
        """
        self.channel.persistent = False
        self.setHeader("Connection", "close")
        self.requestHeaders.removeHeader("Expect")

    def _drain(self) -> None:
        self._stop_rate_watchdog()
        self._reader = _Drain(self)
        self.resume()


#: Bytes that wait for the coroutine when the client is paused.
MAX_PULLED = 1 << 20
#: Smaller pieces are joined up to this size: of two bytes each, they take 20 times as much.
_JOINED = 16 << 10


@attrs.define(eq=False, repr=False)
class PulledBody:
    """The body of a request for a coroutine, which takes what has arrived whenever it is ready.

    No thread waits for a client, and of a client that is faster than the coroutine little is kept.
    It is a `BodyReader`; the client is paused until `next` is called.

    `incomplete` makes the error of a body that has not arrived whole from the reason. `next` waits
    for `least` bytes, and the client is paused when `most` wait. Where both are the same, it stays
    so until the coroutine has used those bytes.
    """

    _request: StreamingRequest
    _incomplete: Callable[[str], WingsdError]
    _least: int = attrs.field(default=1, kw_only=True)
    _most: int = attrs.field(default=MAX_PULLED, kw_only=True)
    _pieces: list[bytes] = attrs.field(factory=list, init=False)
    #: Small pieces that come behind those.
    _small: bytearray = attrs.field(factory=bytearray, init=False)
    _size: int = attrs.field(default=0, init=False)
    _has_ended: bool = attrs.field(default=False, init=False)
    _is_paused: bool = attrs.field(default=False, init=False)
    _error: WingsdError | None = attrs.field(default=None, init=False)
    _waiting: Deferred[None] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._pause()

    # What the coroutine calls

    async def next(self) -> list[bytes]:
        """Return the next bytes, as soon as there are enough; none at the end.

        Raises the error of a connection that was lost before, and what `stop` was given.
        """
        while not (self._size >= self._least or self._has_ended or self._error):
            self._request.proceed()
            self._resume()
            self._waiting = Deferred()
            await self._waiting
        if self._error is not None:
            raise self._error
        self._join()
        pieces, self._pieces, self._size = self._pieces, [], 0
        if self._least < self._most:
            self._resume()
        return pieces

    def stop(self, error: WingsdError) -> None:
        """Hand on nothing more, for the reason `error`."""
        if self._error is None and not (self._has_ended and not self._size):
            self._error = error
            self._pieces.clear()
            self._small.clear()
            self._wake()

    # What the request calls

    def data(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        if self._error is not None:
            return
        self._size += len(chunk)
        if len(chunk) >= _JOINED or len(self._small) >= _JOINED:
            self._join()
        if len(chunk) >= _JOINED:
            self._pieces.append(chunk)
        else:
            self._small += chunk
        if self._size >= self._most:
            self._pause()
        if self._size >= self._least:
            self._wake()

    def end(self) -> None:
        """Take the body's end."""
        self._has_ended = True
        # Read on: only so is it seen when the client disconnects.
        self._resume()
        self._wake()

    def lost(self, reason: Failure) -> None:
        """Take the connection's end; after the body's it does not matter."""
        if not self._has_ended:
            self.stop(self._incomplete(reason.getErrorMessage()))

    def _join(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _pause(self) -> None:
        self._is_paused = True
        self._request.pause()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._request.resume()


class _Drain:
    """Discards what a client sends after its answer, up to a limit of bytes and of time."""

    def __init__(self, request: StreamingRequest) -> None:
        self._request = request
        self._left = MAX_DRAINED_BODY
        self._deadline = request.channel.callLater(MAX_DRAIN_TIME, self._close)

    def data(self, chunk: bytes) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            self._close()

    def end(self) -> None:
        self._stop()
        self._request.finish()

    def lost(self, reason: Failure) -> None:
        self._stop()

    def _close(self) -> None:
        self._stop()
        self._request.channel.loseConnection()

    def _stop(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()


def client_of(proxies: Sequence[str], peer: str, chain: Sequence[str]) -> str:
    """Return the address of the client that a connection from `peer` is for.

    `chain` are the addresses that were forwarded with the request, `proxies` the addresses and
    networks of trusted proxies. The client is the last address that is not a trusted proxy's; an
    invalid address ends the chain. A peer on a Unix socket is a trusted proxy where there are any.
    """
    networks = [parse_network(proxy) for proxy in proxies]
    if not networks:
        return peer
    client = peer
    for text in (*chain, *([peer] if _parsed(peer) else []))[::-1]:
        found = _parsed(text)
        if found is None:
            break
        client = str(found)
        if not any(found in network for network in networks):
            break
    return client


def _parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except ValueError:
        return None
