"""The body of a request for a coroutine, which takes what has arrived whenever it is ready.

No thread waits for a client, and of a client that is faster than the coroutine little is kept.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wingsd.errors import UploadTruncated
from wingsd.http.request import StreamingRequest

__all__ = ["BodyBatches"]

#: Bytes that wait for the coroutine when the client is paused.
_MOST = 1 << 20
#: Smaller pieces are joined up to this size: of two bytes each, they take 20 times as much.
_JOINED = 16 << 10


class BodyBatches:
    """A reader of a request's body (`BodyReader`). The client is paused until `next` is called."""

    def __init__(self, request: StreamingRequest) -> None:
        self._request = request
        self._pieces: list[bytes] = []
        #: Small pieces that come behind those.
        self._small = bytearray()
        self._size = 0
        self._has_ended = self._is_paused = False
        self._lost: Failure | None = None
        self._waiting: Deferred[None] | None = None
        self._pause()

    async def next(self) -> list[bytes]:
        """Return the next bytes, as soon as there are some; none at the end.

        Raises `UploadTruncated` where the connection was lost before.
        """
        while not (self._size or self._has_ended or self._lost):
            self._request.proceed()
            self._resume()
            self._waiting = Deferred()
            await self._waiting
        if self._lost is not None:
            raise UploadTruncated(
                "the upload ended before it was complete", self._lost.getErrorMessage()
            )
        self._join()
        pieces, self._pieces, self._size = self._pieces, [], 0
        self._resume()
        return pieces

    def data(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self._size += len(chunk)
        if len(chunk) >= _JOINED or len(self._small) >= _JOINED:
            self._join()
        if len(chunk) >= _JOINED:
            self._pieces.append(chunk)
        else:
            self._small += chunk
        if self._size >= _MOST:
            self._pause()
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
            self._lost = reason
            self._wake()

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
