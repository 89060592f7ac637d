"""A stream of bytes from a thread to the reactor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from wingsd.bridge.bucket import Share, TokenBucket

__all__ = ["HIGH_MARK", "STEP", "Outflow", "OutflowClosed"]

#: Bytes in which the stream is given out, and up to twice as many: as the packing thread writes
#: them (`archive.compress.OUTPUT`), without a copy, which would also be of another size.
STEP = 120 * 1024
#: Waiting bytes at which the thread is stopped: some 20 ms of the fastest line.
HIGH_MARK = 2 * 1024 * 1024


class OutflowClosed(Exception):
    """The stream is wanted no more; raised in the thread that writes it."""


@implementer(IPushProducer)
class Outflow:
    """A bounded stream of bytes: written by one thread, given to a consumer on the reactor.

    The thread is stopped while `high_mark` bytes wait and woken when half of them are left. Small
    writes are joined, so the thread's last ones are given out only when it says `finish`. With a
    `bucket`, the stream is given out at the rate that it has there.
    """

    def __init__(
        self, reactor: Any, high_mark: int = HIGH_MARK, bucket: TokenBucket | None = None
    ) -> None:
        self._reactor = reactor
        self._high_mark = high_mark
        self._low_mark = high_mark // 2
        #: Bytes given to the consumer so far.
        self.bytes_out = 0
        # The thread's own.
        self._small: list[bytes] = []
        self._small_size = 0
        # The reactor's own.
        self._consumer: Callable[[bytes], None] | None = None
        self._finished: Callable[[], None] | None = None
        self._running = True
        self._bucket = bucket
        self._share: Share | None = None
        # Everything below is shared and guarded by this.
        self._changed = Condition()
        self._blocks: deque[bytes] = deque()
        self._size = 0
        self._complete = False
        self._closed = False
        self._call_when_written = False

    # The thread's side

    def write(self, data: bytes) -> None:
        """Add bytes to the stream; wait while too many are waiting.

        Raises `OutflowClosed` when they are wanted no more.
        """
        # Not the newest bytes: the stream's last ones must go out together with its end, or the
        # other node could answer what it rightly takes for complete before we know that it is.
        if self._small_size >= STEP:
            for block in self._gathered():
                self._put(block)
        if self._closed:
            raise OutflowClosed
        self._small.append(data)
        self._small_size += len(data)

    def finish(self) -> None:
        """Say that the stream is complete. Raises as `write` does."""
        *blocks, last = self._gathered()
        for block in blocks:
            self._put(block)
        self._put(last, last=True)

    def _gathered(self) -> Iterator[bytes]:
        data = b"".join(self._small)
        self._small.clear()
        self._small_size = 0
        if len(data) <= 2 * STEP:  # as the transport takes it: not worth another copy
            yield data
            return
        for at in range(0, len(data), STEP):
            yield data[at : at + STEP]

    def _put(self, block: bytes, *, last: bool = False) -> None:
        with self._changed:
            if self._size >= self._high_mark:
                self._changed.wait_for(lambda: self._closed or self._size <= self._low_mark)
            if self._closed:
                raise OutflowClosed
            self._blocks.append(block)
            self._size += len(block)
            self._complete = last
            call, self._call_when_written = self._call_when_written, False
        if call:
            self._reactor.callFromThread(self._deliver)

    # The reactor's side

    def start(self, consumer: Callable[[bytes], None], finished: Callable[[], None]) -> None:
        """Give the stream to `consumer` and, after its last bytes and at once, call `finished`.

        The consumer gets no more while this is paused, and none after `close`.
        """
        self._consumer, self._finished = consumer, finished
        if self._bucket is not None:
            self._share = self._bucket.join(self._deliver)
        self._deliver()

    def pauseProducing(self) -> None:
        """Give out nothing for now."""
        self._running = False

    def resumeProducing(self) -> None:
        """Go on."""
        self._running = True
        self._deliver()

    def stopProducing(self) -> None:
        """Do as `close` does; the name is the interface's."""
        self.close()

    def close(self) -> None:
        """End the stream here and now, and the thread's writing with it."""
        self._end()
        with self._changed:
            self._closed = True
            self._blocks.clear()
            self._size = 0
            self._changed.notify()

    def _deliver(self) -> None:
        while self._may_give and self._consumer is not None and self._finished is not None:
            block, last = self._take()
            if block is None:
                return
            finished = self._finished
            self.bytes_out += len(block)
            if self._share is not None:
                self._share.take(len(block))
            if block:
                self._consumer(block)
            if last and self._finished is not None:
                self._end()
                finished()

    @property
    def _may_give(self) -> bool:
        # Two have a say, the consumer and the bucket, and neither's word is the other's.
        return self._running and (self._share is None or not self._share.held)

    def _end(self) -> None:
        self._consumer = self._finished = None
        if self._share is not None:
            self._share.leave()

    def _take(self) -> tuple[bytes | None, bool]:
        """Return what comes next, and whether it is the last; None when nothing waits."""
        with self._changed:
            if not self._blocks:
                self._call_when_written = True
                return None, False
            block = self._blocks.popleft()
            self._size -= len(block)
            if self._size <= self._low_mark:
                self._changed.notify()
            return block, self._complete and not self._blocks
