"""A request's body as blocks that its handler asks for, with flow control.

The client is paused until the handler asks for the first block, and while the handler has not
taken the blocks that are there. So a body of any length takes little memory and no thread.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from wingsd.errors import BodyIncomplete, WingsdError

__all__ = ["BLOCK", "RawBody"]

#: Bytes of a block that is handed on, and of what waits when the client is paused.
BLOCK = 256 << 10


class PausableRequest(Protocol):
    """What is needed of a `StreamingRequest`."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def proceed(self) -> None: ...


class RawBody:
    """The body of one request: a `BodyReader` on one side, `next` on the other."""

    def __init__(self, request: PausableRequest) -> None:
        self._request = request
        # One buffer: pieces may be of two bytes each, which take 20 times as much as objects.
        self._waiting = bytearray()
        self._complete = False
        self._error: WingsdError | None = None
        self._asked: Deferred[bytes] | None = None
        self._began = False
        request.pause()

    # What the handler calls

    def next(self) -> Deferred[bytes]:
        """Return the next block, empty at the end.

        Raises `BodyIncomplete`, and what `stop` was given.
        """
        if self._error is not None:
            return fail(self._error)
        if len(self._waiting) >= BLOCK or self._complete:
            return succeed(self._taken())
        self._asked = Deferred()
        if not self._began:
            self._began = True
            self._request.proceed()
        self._request.resume()
        return self._asked

    def stop(self, error: WingsdError) -> None:
        """Hand on nothing more, for the reason `error`."""
        if self._error is None and not (self._complete and not self._waiting):
            self._error = error
            self._waiting.clear()
            if self._asked is not None:
                asked, self._asked = self._asked, None
                asked.errback(error)

    # What the request calls

    def data(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        if self._error is not None:
            return
        self._waiting += chunk
        if len(self._waiting) >= BLOCK:
            self._request.pause()
            self._hand_on()

    def end(self) -> None:
        """Take the body's end."""
        self._complete = True
        # Read on, though nothing more may come: only so is it seen when the client disconnects.
        self._request.resume()
        self._hand_on()

    def lost(self, reason: Failure) -> None:
        """Take the connection's end, which before the body's is an error."""
        if not self._complete:
            self.stop(BodyIncomplete(reason.getErrorMessage()))

    def _hand_on(self) -> None:
        if self._asked is not None:
            asked, self._asked = self._asked, None
            asked.callback(self._taken())

    def _taken(self) -> bytes:
        data = bytes(self._waiting)
        self._waiting.clear()
        return data
