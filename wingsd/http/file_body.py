"""Answers whose body is a file, read in threads by descriptor and sent as fast as it is read.

A block is read while the one before it is sent, so no thread waits for a client. Only the
announced bytes are sent: of a file that has grown meanwhile not more, and where one has shrunk the
connection is closed. The file is closed as soon as the last block is read or the client has gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

import attrs
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.errors import RangeNotSatisfiable
from wingsd.http.body_sender import BodyRequest, BodySender
from wingsd.http.ranges import Validators, requested_range
from wingsd.threadio import Workers

__all__ = [
    "BLOCKS",
    "LARGEST_BLOCK",
    "SMALLEST_BLOCK",
    "FileBody",
    "ReadableFile",
    "send_file",
]

#: Bytes read at a time: of a client that takes a block within `QUICK` seconds, more and more. A
#: slow one keeps two of the smallest in memory. What stops to read keeps two of its last, so the
#: more connections there are, the smaller is the largest: all together have `BLOCKS` bytes.
SMALLEST_BLOCK = 64 << 10
LARGEST_BLOCK = 512 << 10
BLOCKS = 8 << 20
QUICK = 0.1


class ReadableFile(Protocol):
    """A file that is open."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from an offset, none behind the end. Blocking."""

    def close(self) -> None:
        """Close it; may be called twice."""


@attrs.frozen(eq=False)
class FileBody:
    """The content of an answer: an open file, which is closed when it has been sent.

    It is read by `workers`. `validators` has the size that is announced. `headers` are further
    ones, `name` is for the log.
    """

    file: ReadableFile
    validators: Validators
    workers: Workers
    name: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


def send_file(request: BodyRequest, status: int, body: FileBody) -> None:
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

    def __init__(self, request: BodyRequest, body: FileBody, part: range) -> None:
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

    def stopProducing(self) -> None:
        """The connection is closed; `notifyFinish` says so as well."""
        self._end()

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
