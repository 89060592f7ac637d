"""A twisted.web request whose body is not stored: the resource gets it as it arrives.

twisted.web calls a resource when the whole body is there. Here the resource is found as soon as
the headers are, and one with `open_body` returns a `BodyReader` that takes the body from then on.
Such a request can be answered at any time, also while the client is still sending.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from io import BytesIO
from math import ceil
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes
from uuid import uuid4

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from wingsd.errors import WingsdError
from wingsd.http.errors import BodyTooLarge, error_json
from wingsd.http.watchdogs import Pace, Presence

__all__ = ["BodyReader", "GuardedResource", "StreamingRequest", "StreamingResource"]

#: Bytes of a body that is stored after all, since its resource takes it whole.
MAX_STORED_BODY = 1024 * 1024
# What a client may go on sending after its answer, so that it gets to read that: one that reads
# only when it has sent everything would otherwise see nothing but a broken connection.
MAX_DRAINED_BODY = 1024 * 1024 * 1024  # bytes
MAX_DRAIN_TIME = 60  # seconds
#: Reason phrases as Wings sends them, for statuses that twisted.web has none for. Those of
#: `http.HTTPStatus` are not the same in all versions of Python.
_REASONS: Mapping[int, bytes] = {
    HTTPStatus.UNPROCESSABLE_ENTITY: b"Unprocessable Entity",
    HTTPStatus.UPGRADE_REQUIRED: b"Upgrade Required",
}


class BodyReader(Protocol):
    """Takes a request's body as it arrives."""

    def data(self, chunk: bytes) -> None:
        """Take the next piece."""

    def end(self) -> None:
        """The body is complete."""

    def lost(self, reason: Failure) -> None:
        """The connection is gone. May come after `end`."""


@runtime_checkable
class StreamingResource(Protocol):
    """A resource that takes the bodies of its requests as they arrive."""

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Return what takes the body. The request has its headers and nothing else yet."""


@runtime_checkable
class GuardedResource(Protocol):
    """A resource that takes whole bodies, from those alone whom it lets in."""

    def authorize(self, request: StreamingRequest) -> None:
        """Raise a `WingsdError` when the request's headers do not open this resource."""


class StreamingRequest(Request):
    """A request that is handed to its resource when its headers are complete."""

    _log = Logger()
    channel: Any  # an HTTPChannel, of which Twisted annotates too little
    content: BytesIO
    site: Any  # a NodeSite, which knows this class
    _reader: BodyReader | None = None
    _pace: Pace | None = None
    _presence: Presence | None = None
    _stores = False
    _received = 0
    _complete = False
    _stalled = False
    _wants_continue = False
    #: Whether the client looks at an answer's status; else a failure is told by no answer at all.
    minds_status = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Names the request in its answer and in the log. A Panel shows people no more of an
        #: answer of 500 and above.
        self.request_id = str(uuid4())
        self.setHeader("X-Request-Id", self.request_id)

    # What twisted.web's channel calls

    def gotLength(self, length: int | None) -> None:
        """Find the resource. The channel calls this when it has all headers."""
        self.content = BytesIO()
        channel = self.channel
        # The base class learns these only with the body's end, but an answer needs them.
        self.site = channel.site
        self.method, self.uri = channel._command, channel._path
        self.clientproto = channel._version
        self.path = self.uri.split(b"?", 1)[0]
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        resource = channel.site.getResourceFor(self)
        if self.method == b"POST" and isinstance(resource, StreamingResource):
            self._open(resource)
        elif length != 0:
            self._expect_body(resource, length)

    def handleContentChunk(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self._pace is not None:
            self._pace.note(len(data))
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
        self._forget_pace()
        if self._reader is None:
            # No path takes forms, but the base class would read one for anybody who sends it,
            # and some it cannot read.
            self.requestHeaders.removeHeader("Content-Type")
            super().requestReceived(command, path, version)
        else:
            self._reader.end()

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone."""
        super().connectionLost(reason)
        self._forget_pace()
        if self._presence is not None:
            self._presence.rest()
        if self._reader is not None:
            self._reader.lost(reason)

    def processingFailed(self, reason: Failure) -> Failure:
        """A resource failed: say so in the log and, as JSON, to the client."""
        self.fail(reason)
        return reason

    def stall(self, how: str) -> bool:
        """The client is silent, or too slow: tell the body's reader. Return whether there is one.

        `how` is what it is told.
        """
        if self._reader is None or self._complete:
            return False
        self._stalled = True
        self._forget_pace()
        self._reader.lost(Failure(TimeoutError(how)))
        return True

    def break_off(self, reason: str) -> bool:
        """No more of the body can be read: tell its reader. Return whether it was answered."""
        if self._reader is not None and not self._complete:
            self._reader.lost(Failure(ValueError(reason)))
        return bool(self.startedWriting)

    # What resources and readers call

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status of the answer, with its reason phrase."""
        super().setResponseCode(code, message or _REASONS.get(code))

    def header(self, name: str) -> str:
        """Return a header of the request, empty without it; any bytes may be in it."""
        values = self.requestHeaders.getRawHeaders(name.encode())
        return values[-1].decode("utf-8", "replace") if values else ""

    def argument(self, name: str) -> str:
        """Return a value of the query, empty without it."""
        values = (self.args or {}).get(name.encode())
        return values[-1].decode("utf-8", "replace") if values else ""

    @property
    def is_streamed(self) -> bool:
        """Whether its body is taken as it arrives, if only to be thrown away."""
        return self._reader is not None

    @property
    def peer(self) -> str:
        """Where the request came from, for the log."""
        return getattr(self.getClientAddress(), "host", "a UNIX socket")

    def proceed(self) -> None:
        """Tell a client that waits for it (Expect: 100-continue) to send its body."""
        if self._wants_continue and not self._disconnected:
            self.channel.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._wants_continue = False

    def pause(self) -> None:
        """Read no more from the client for now. It is not held against it as idleness."""
        if not self._disconnected:
            self.channel.setTimeout(None)
            if self._pace is not None:
                self._pace.rest()
            self.channel.pause_reading()
            if self._presence is None:
                reactor = self.channel.site.reactor
                self._presence = Presence(reactor, self.channel.transport, self.resume)
            self._presence.watch()

    def resume(self) -> None:
        """Read on; a client that is silent for the site's timeout is disconnected."""
        if not self._disconnected:
            if self._presence is not None:
                self._presence.rest()
            if not self._complete:
                self.channel.setTimeout(self.channel.site.timeOut)
                if self._pace is not None:
                    self._pace.go_on()
            self.channel.resume_reading()

    def fail(self, failure: Failure) -> None:
        """Answer with the error that `failure` holds; one nobody foresaw is logged whole.

        A client that takes any answer for success gets none.
        """
        error = failure.value
        if not isinstance(error, WingsdError):
            self._log.failure("request {request} failed", failure, request=self)
            error = WingsdError("an unforeseen error", "the reason is in the log of this node")
        self.site.observer.answered(error)
        if not self.minds_status:
            self._cut_off()
            return
        headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
        if error.retry_after:
            headers["Retry-After"] = str(ceil(error.retry_after))
        self.answer(error.status, error_json(error), headers)

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        """Answer, now, with a body or none; whatever still arrives is thrown away.

        The body is JSON, unless the headers say otherwise.
        """
        if self._disconnected or self.startedWriting:
            return
        self.setResponseCode(status)
        if status != HTTPStatus.NO_CONTENT:
            self.setHeader("Content-Length", str(len(body)))
        if body:
            self.setHeader("Content-Type", "application/json")
        else:
            self.responseHeaders.removeHeader("Content-Type")
        for name, value in headers.items():
            self.setHeader(name, value)
        if self._complete:
            self.write(body)
            self.finish()
        else:
            # Not finish(): the channel would no longer know whose the rest of the body is.
            self.write(body)
            if self._stalled:
                self.channel.loseConnection()
            else:
                self._drain()

    def _open(self, resource: StreamingResource) -> None:
        # twisted.web would say "continue" right away; `proceed` does it when it is time.
        expects = self.header("Expect").lower() == "100-continue"
        self._wants_continue = expects and self.clientproto == b"HTTP/1.1"
        self._be_the_last()
        site = self.channel.site
        self.channel.setTimeout(site.timeOut)
        if site.least_rate:
            self._pace = Pace(site.reactor, site.least_rate, site.timeOut, self.stall)
        try:
            reader = resource.open_body(self)
        except Exception:
            self.fail(Failure())
        else:
            if self._reader is None:
                self._reader = reader
                self.channel.expect_much()

    def _expect_body(self, resource: object, length: int | None) -> None:
        """Have a body stored, but not what anybody may send."""
        if isinstance(resource, GuardedResource):
            try:
                resource.authorize(self)
            except WingsdError:
                self._be_the_last()
                self.fail(Failure())
                return
            self._stores = True
        if length is not None and length > MAX_STORED_BODY:
            self._refuse_size()

    def _refuse_size(self) -> None:
        self._be_the_last()
        error = BodyTooLarge(MAX_STORED_BODY)
        self.answer(error.status, error_json(error))

    def _forget_pace(self) -> None:
        if self._pace is not None:
            self._pace.rest()
            self._pace = None

    def _be_the_last(self) -> None:
        """Have the connection closed after this request, and the body not asked for by itself.

        What is left of the body, or of its timeouts, can then never be taken for the next
        request's.
        """
        self.channel.persistent = False
        self.setHeader("Connection", "close")
        self.requestHeaders.removeHeader("Expect")

    def _cut_off(self) -> None:
        if not self._disconnected:
            self.channel.abortConnection()

    def _drain(self) -> None:
        self._forget_pace()
        self._reader = _Drain(self)
        self.resume()


class _Drain:
    """Throws away what a client sends after its answer, up to a limit of bytes and of time."""

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
