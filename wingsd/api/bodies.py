"""The body of a request for a coroutine, which takes what has arrived whenever it is ready.

No thread waits for a client, and of a client that is faster than the coroutine little is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wingsd.errors import WingsdError

__all__ = ["PulledBody"]

#: Bytes that wait for the coroutine when the client is paused.
MOST = 1 << 20
#: Smaller pieces are joined up to this size: of two bytes each, they take 20 times as much.
_JOINED = 16 << 10


class PausableRequest(Protocol):
    """The part of a `StreamingRequest` that a reader of its body uses."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def proceed(self) -> None: ...


class PulledBody:
    """A reader of a request's body (`BodyReader`). The client is paused until `next` is called.

    `incomplete` makes the error of a body that has not arrived whole from the reason. `next` waits
    for `least` bytes, and the client is paused when `most` wait. Where both are the same, it stays
    so until the coroutine has used those bytes.
    """

    def __init__(
        self,
        request: PausableRequest,
        incomplete: Callable[[str], WingsdError],
        *,
        least: int = 1,
        most: int = MOST,
    ) -> None:
        self._request = request
        self._incomplete = incomplete
        self._least = least
        self._most = most
        self._pieces: list[bytes] = []
        #: Small pieces that come behind those.
        self._small = bytearray()
        self._size = 0
        self._has_ended = self._is_paused = False
        self._error: WingsdError | None = None
        self._waiting: Deferred[None] | None = None
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
