"""A range of a file as the body of a request: read by threads, one piece at a time."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.python.failure import Failure

from wingsd.errors import StorageError
from wingsd.threadio import Workers

__all__ = ["PIECE", "FileRange"]

#: Bytes of one piece: all that is in memory of a range, beside what the connection holds.
PIECE = 256 * 1024
NOT_READ = "the backup's archive could not be read"


class FileRange:
    """The `size` bytes from `start` on of an open file; `failed` gets the error of reading them.

    The next piece is read when the connection has taken the last one. The file may be closed
    before the range is.
    """

    def __init__(
        self,
        descriptor: int,
        start: int,
        size: int,
        disk: Workers,
        failed: Callable[[Exception], object],
    ) -> None:
        self._descriptor = os.dup(descriptor)
        self._at = start
        self._end = start + size
        self._disk = disk
        self._failed = failed
        self._consumer: Callable[[bytes], None] | None = None
        self._finished: Callable[[], None] | None = None
        self._running = True
        self._reading = False
        self._closed = False
        #: Bytes delivered so far.
        self.bytes_out = 0

    def start(self, consumer: Callable[[bytes], None], finished: Callable[[], None]) -> None:
        """Deliver the range to `consumer`; right after the last bytes call `finished`."""
        self._consumer, self._finished = consumer, finished
        self._read()

    def pauseProducing(self) -> None:
        """Pause delivery."""
        self._running = False

    def resumeProducing(self) -> None:
        """Resume delivery."""
        self._running = True
        self._read()

    def close(self) -> None:
        """Deliver nothing more. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._consumer = self._finished = None
        if not self._reading:
            os.close(self._descriptor)

    def _read(self) -> None:
        if self._reading or not self._running or self._consumer is None:
            return
        self._reading = True
        size = min(PIECE, self._end - self._at)
        reading = self._disk.run(os.pread, self._descriptor, size, self._at)
        reading.addCallbacks(self._deliver, self._not_read)

    def _deliver(self, piece: bytes) -> None:
        if not self._read_ended():
            return
        if not piece:
            self._failed(StorageError("it is shorter than it was", NOT_READ))
            return
        self._at += len(piece)
        self.bytes_out += len(piece)
        consumer, finished = self._consumer, self._finished
        assert consumer is not None and finished is not None  # noqa: S101, PT018 - not closed
        if self._at < self._end:
            consumer(piece)
            self._read()
        else:
            self.close()
            consumer(piece)
            finished()

    def _not_read(self, failure: Failure) -> None:
        if self._read_ended():
            self._failed(StorageError(failure.getErrorMessage(), NOT_READ))

    def _read_ended(self) -> bool:
        """Return whether what was read is still wanted."""
        self._reading = False
        if self._closed:
            os.close(self._descriptor)
        return not self._closed
