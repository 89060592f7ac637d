"""Answers with long bodies: bytes, files and parts of files, and data that a thread makes.

Their pace is watched, and their end waits for delivery. A body that a thread makes has no length
before: where it fails, or the client reads too slowly, the connection is closed, so that the
client knows that the body is not whole.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from email.utils import formatdate
from fcntl import ioctl
from http import HTTPStatus
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.errors import RangeNotSatisfiable
from wingsd.threadio import Outflow, OutflowClosed, Workers
from wingsd.util.net import below_tls, tcp_info
from wingsd.util.reactor import Reactor, Timer

if TYPE_CHECKING:
    from wingsd.filesystem.directory import OpenFile
    from wingsd.http.request import StreamingRequest

#: Bytes of a body in memory above which it is written in pieces, and those of a piece.
LONG, PIECE = 64 << 10, 16 << 10

#: Bytes that the kernel may still have to deliver when the answer counts as sent; until then it is
#: looked at every so many seconds. What an idle connection has not delivered is lost.
DELIVERED = 64 << 10
LOOK_EVERY = 0.1


@attrs.define(eq=False, repr=False)
class DeliveryWatchdog:
    """Calls `too_slow` once, with the reason, when a client receives too little.

    The minimum is `rate` bytes a second, or a single byte for 0, on average over each window of
    `window` seconds. What counts is what the client has acknowledged, since the kernel buffers
    megabytes. `transport` is TCP with or without TLS; with anything else no client is too slow.
    """

    _reactor: IReactorTime
    _transport: Any
    _rate: int
    _window: float
    _too_slow: Callable[[str], object]
    _acknowledged: int = attrs.field(default=0, init=False)
    _timer: Timer = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(self._reactor)

    def start(self) -> None:
        """Begin a window."""
        self.stop()
        acknowledged = _acknowledged(self._transport)
        if acknowledged is not None:
            self._acknowledged = acknowledged
            self._timer.start(self._window, self._check)

    def stop(self) -> None:
        """Stop the clock."""
        self._timer.cancel()

    def undelivered(self) -> int:
        """Return the bytes that the kernel has and the client has not acknowledged."""
        try:
            found = ioctl(below_tls(self._transport).getHandle().fileno(), TIOCOUTQ, bytes(4))
        except (OSError, AttributeError):  # in memory
            return 0
        return int.from_bytes(found, sys.byteorder)

    def _check(self) -> None:
        received = (_acknowledged(self._transport) or 0) - self._acknowledged
        minimum = max(self._rate * self._window, 1)
        if received < minimum:
            self._too_slow(
                f"{received} bytes were received in {self._window:g} s, the minimum is {minimum:g}"
            )
        else:
            self.start()


def _acknowledged(transport: Any) -> int | None:
    """Return the bytes that the client has acknowledged; None where it is not TCP."""
    try:
        return tcp_info(below_tls(transport).getHandle()).acknowledged
    except OSError:
        return None


class BodySender:
    """Sends one body as the answer to one request, and closes the connection when that fails.

    `name` is for the log. A subclass says by `_end` what is closed when the answer has ended, and
    by `_too_slow` whether the client is the reason.
    """

    _log = Logger()

    def __init__(self, request: StreamingRequest, name: str) -> None:
        site = request.channel.site
        self._request = request
        self._name = name
        self._reactor: Reactor = site.reactor
        self._watchdog = DeliveryWatchdog(
            site.reactor, request.channel.transport, site.least_rate, site.timeOut, self._too_slow
        )
        self._has_ended = False

    def stopProducing(self) -> None:
        """The connection is closed; `notifyFinish` says so as well."""
        self._end()

    def _begin(self, producer: object) -> None:
        """Register a push producer, and watch the pace from now on."""
        self._request.notifyFinish().addBoth(self._end)
        self._request.channel.enlarge_send_limit()
        self._request.registerProducer(producer, True)
        self._watchdog.start()

    def _finish(self) -> None:
        """End the answer when the client has received it: what is left may not be discarded."""
        if self._has_ended:
            return
        if self._watchdog.undelivered() > DELIVERED:
            self._reactor.callLater(LOOK_EVERY, self._finish)
            return
        self._request.unregisterProducer()
        self._request.finish()

    def _abort(self, reason: str) -> None:
        """Close the connection, so that the client knows that the body is not whole."""
        if self._has_ended:
            return
        self._log.warn("{file}: download ended early: {reason}", file=self._name, reason=reason)
        self._end()
        self._request.channel.abortConnection()

    def _too_slow(self, reason: str) -> None:
        """The client has received too little since the last look."""
        self._abort(reason)

    def _end(self, _: object = None) -> None:
        """The answer has ended, whichever way. May be called twice."""
        self._has_ended = True
        self._watchdog.stop()


@implementer(IPushProducer)
class BytesSender(BodySender):
    """Sends a body that is in memory, in pieces, no faster than the client reads it.

    Written at once, it would be encrypted at once, and kept so for each client that does not read.
    """

    def __init__(self, request: StreamingRequest, name: str, body: bytes) -> None:
        super().__init__(request, name)
        self._left = memoryview(body)
        self._is_paused = self._is_due = False

    def start(self) -> None:
        """Write the first piece."""
        self._begin(self)
        self._write()

    def pauseProducing(self) -> None:
        """The connection has enough to send."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """The connection has sent everything."""
        self._is_paused = False
        if self._left and not self._is_due:
            self._write()

    def _write(self) -> None:
        """Write a piece in each turn of the reactor: TLS passes on what the last one wrote."""
        self._is_due = False
        if self._is_paused or self._has_ended:
            return
        piece, self._left = self._left[:PIECE], self._left[PIECE:]
        self._request.write(bytes(piece))
        if self._left:
            self._is_due = True
            self._reactor.callLater(0, self._write)
        else:
            self._finish()

    def _end(self, _: object = None) -> None:
        super()._end()
        self._left = memoryview(b"")


#: More digits than the size of any file has are not converted.
_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*")

#: The first and the last second of the years that a date can have, 1 to 9999.
_FIRST, _LAST = -62_135_596_800, 253_402_300_799


@attrs.frozen(eq=False, repr=False)
class Validators:
    """The mark of one version of a file: its size, and its mtime in nanoseconds."""

    size: int
    modified: int

    @property
    def etag(self) -> str:
        """The value of the header `ETag`."""
        return f'"{self.modified:x}-{self.size:x}"'

    @property
    def last_modified(self) -> str:
        """The value of the header `Last-Modified`."""
        seconds = self.modified // 1_000_000_000
        return formatdate(min(max(seconds, _FIRST), _LAST), usegmt=True)

    def match(self, condition: str) -> bool:
        """Return whether an `If-Range` is about this version; without one every version is."""
        return condition.strip() in ("", self.etag, self.last_modified)


def requested_range(header: str, condition: str, validators: Validators) -> range | None:
    """Return the bytes that a `Range` with this `If-Range` asks for; None for the whole file.

    A header with several ranges, or one that is invalid, is ignored as the RFC allows. Raises
    `RangeNotSatisfiable`.
    """
    found = _RANGE.fullmatch(header)
    if found is None or not validators.match(condition):
        return None
    begin, end, last = found.groups()
    size = validators.size
    if last is not None:
        start, stop = max(size - int(last), 0), size
    else:
        start = int(begin)
        stop = min(int(end) + 1, size) if end else size
        if end and int(end) < start:
            return None
    if start >= size or start >= stop:
        raise RangeNotSatisfiable(size)
    return range(start, stop)


@attrs.frozen(eq=False)
class StreamedBody:
    """The content of an answer: `produce` has a thread write it to an `Outflow`, and finish that.

    `name` is for the log.
    """

    produce: Callable[[Outflow], Deferred[None]]
    name: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


def send_stream(request: StreamingRequest, status: int, body: StreamedBody) -> None:
    """Answer with what a thread makes; to HEAD with the headers alone, and nothing is made."""
    request.setResponseCode(status)
    for name, value in body.headers.items():
        request.setHeader(name, value)
    if request.method == b"HEAD":
        request.write(b"")
        request.finish()
        return
    _StreamSender(request, body).start()


class _StreamSender(BodySender):
    """Sends one stream as the answer to one request."""

    def __init__(self, request: StreamingRequest, body: StreamedBody) -> None:
        super().__init__(request, body.name)
        self._body = body
        self._outflow = Outflow(self._reactor)

    def start(self) -> None:
        """Start the thread."""
        self._begin(self._outflow)
        self._outflow.start(self._request.write, self._finish)
        self._body.produce(self._outflow).addErrback(self._failed)

    def _too_slow(self, reason: str) -> None:
        if self._watchdog.undelivered():
            self._abort(reason)
        else:
            # The disk is slow, and not the client.
            self._watchdog.start()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(OutflowClosed):
            self._abort(failure.getErrorMessage())

    def _end(self, _: object = None) -> None:
        super()._end()
        self._outflow.close()


#: Bytes read at a time: of a client that takes a block within `QUICK` seconds, more and more. A
#: slow one keeps two of the smallest in memory. What stops to read keeps two of its last, so the
#: more connections there are, the smaller is the largest: all together have `BLOCKS` bytes.
SMALLEST_BLOCK = 64 << 10
LARGEST_BLOCK = 512 << 10
BLOCKS = 8 << 20
QUICK = 0.1


@attrs.frozen(eq=False)
class FileBody:
    """The content of an answer: an open file, which is closed when it has been sent.

    It is read by `workers`. `validators` has the size that is announced. `headers` are further
    ones, `name` is for the log.
    """

    file: OpenFile
    validators: Validators
    workers: Workers
    name: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


def send_file(request: StreamingRequest, status: int, body: FileBody) -> None:
    """Answer with a file, or with the range of it that is asked for.

    Raises `RangeNotSatisfiable`, with the file closed and nothing written.
    """
    validators = body.validators
    headers = {
        **body.headers,
        "Accept-Ranges": "bytes",
        "ETag": validators.etag,
        "Last-Modified": validators.last_modified,
    }
    try:
        part = requested_range(request.header("Range"), request.header("If-Range"), validators)
    except RangeNotSatisfiable:
        body.file.close()
        request.setHeader("Content-Range", f"bytes */{validators.size}")
        raise
    if part is None:
        part = range(validators.size)
    else:
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{validators.size}"
    request.setResponseCode(status)
    for name, value in (headers | {"Content-Length": str(len(part))}).items():
        request.setHeader(name, value)
    if not part or request.method == b"HEAD":
        body.file.close()
        request.write(b"")
        request.finish()
        return
    _FileSender(request, body, part).start()


@implementer(IPushProducer)
class _FileSender(BodySender):
    """Sends one part of a file as the answer to one request."""

    def __init__(self, request: StreamingRequest, body: FileBody, part: range) -> None:
        super().__init__(request, body.name)
        self._body = body
        self._at, self._stop = part.start, part.stop
        self._size = SMALLEST_BLOCK
        #: A block that was read and is not written yet.
        self._block = b""
        self._is_reading = self._is_paused = False
        self._paused_at = 0.0

    def start(self) -> None:
        """Read the first block."""
        self._begin(self)
        self._read()

    def pauseProducing(self) -> None:
        """The connection has enough to send."""
        self._is_paused = True
        self._paused_at = self._reactor.seconds()

    def resumeProducing(self) -> None:
        """The connection has sent everything."""
        if not self._is_paused or self._has_ended:
            return
        self._is_paused = False
        was_quick = self._reactor.seconds() - self._paused_at < QUICK
        share = BLOCKS // max(len(self._request.channel.site.connections), 1)
        largest = max(min(LARGEST_BLOCK, share), SMALLEST_BLOCK)
        self._size = min(2 * self._size, largest) if was_quick else SMALLEST_BLOCK
        self._write()

    def _read(self) -> None:
        if not self._is_reading and self._at < self._stop:
            self._is_reading = True
            size = min(self._size, self._stop - self._at)
            reading = self._body.workers.run(self._body.file.read_at, self._at, size)
            reading.addCallbacks(self._has_read, self._failed)

    def _has_read(self, block: bytes) -> None:
        self._is_reading = False
        if self._has_ended:
            self._body.file.close()
            return
        if not block:
            self._abort("it has shrunk")
            return
        self._at += len(block)
        if self._at == self._stop:
            self._body.file.close()
        self._block = block
        if not self._is_paused:
            self._write()

    def _write(self) -> None:
        block, self._block = self._block, b""
        if block:
            self._read()
            self._request.write(block)
        if self._at == self._stop and not (self._block or self._is_paused or self._has_ended):
            self._finish()

    def _failed(self, failure: Failure) -> None:
        self._is_reading = False
        if self._has_ended:
            self._body.file.close()
        else:
            self._abort(failure.getErrorMessage())

    def _too_slow(self, reason: str) -> None:
        if self._is_reading and not self._block and not self._is_paused:
            # The disk is slow, and not the client.
            self._watchdog.start()
        else:
            self._abort(reason)

    def _end(self, _: object = None) -> None:
        super()._end()
        self._block = b""
        if not self._is_reading:  # else when the thread has ended
            self._body.file.close()
