"""Streams of bytes between the reactor and threads, bounded in both directions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition

import attrs
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer, IReactorFromThreads
from zope.interface import implementer

from wingsd.threadio.rate_limit import Share, TokenBucket

__all__ = [
    "BLOCK",
    "FEED_HIGH_MARK",
    "FEED_LOW_MARK",
    "OUTFLOW_HIGH_MARK",
    "STEP",
    "Feed",
    "Outflow",
    "OutflowClosed",
]

#: Streams pass in pieces of this size: TLS hands data up 16 KiB at a time, and taking the lock
#: and waking the other side for each of these costs more than copying them once.
BLOCK = 256 * 1024
#: Waiting bytes at which a feed pauses its producer, and at which it resumes it.
FEED_HIGH_MARK = 4 * 1024 * 1024
FEED_LOW_MARK = 2 * 1024 * 1024


@attrs.frozen
class _Division:
    """Where one part ends and the next begins."""

    label: object


@implementer(IConsumer)
class Feed:
    """A bounded stream of bytes: written by the reactor, read by one thread.

    The writing side pauses its producer between the marks. The reading side is `blocks()`, which
    ends where `divide` was called, and `next_part()`, from where on it goes on.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._producer: IPushProducer | None = None
        self._paused = False
        self._small: list[bytes] = []
        self._small_size = 0
        # Everything below is shared with the thread and guarded by this.
        self._changed = Condition()
        self._blocks: deque[bytes | _Division] = deque()
        self._size = 0
        self._finished = False
        self._error: BaseException | None = None
        self._wake_at_low = False

    # The reactor's side

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Take bytes from `producer`, which must be a push producer."""
        if not streaming or self._producer is not None:
            raise RuntimeError("a feed takes one push producer")
        self._producer = IPushProducer(producer)

    def unregisterProducer(self) -> None:
        """Forget the producer; it will write no more."""
        self._producer = None

    def write(self, data: bytes) -> None:
        """Add bytes to the stream, and pause the producer when too many are waiting."""
        self._small.append(data)
        self._small_size += len(data)
        if self._small_size >= BLOCK:
            self._flush()

    def divide(self, label: object) -> None:
        """Say that what is written from now on is another part, which is called `label`."""
        self._flush()
        with self._changed:
            self._blocks.append(_Division(label))
            self._changed.notify()

    def finish(self) -> None:
        """Say that the stream is complete."""
        self._flush()
        with self._changed:
            self._finished = True
            self._changed.notify()

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the thread, in place of whatever is still waiting."""
        with self._changed:
            if self._error is None and not self._finished:
                self._error = error
            self._changed.notify()

    def _flush(self) -> None:
        if not self._small:
            return
        block = b"".join(self._small)
        self._small.clear()
        self._small_size = 0
        with self._changed:
            if self._finished:
                return
            self._blocks.append(block)
            self._size += len(block)
            full = self._size >= FEED_HIGH_MARK
            self._wake_at_low = self._wake_at_low or full
            self._changed.notify()
        # Also when it was paused before: the transport resumes itself after some writes.
        if full and self._producer is not None:
            self._paused = True
            self._producer.pauseProducing()

    def _resume(self) -> None:
        if self._paused and self._producer is not None:
            self._paused = False
            self._producer.resumeProducing()

    # The side of the thread

    def close(self) -> None:
        """End the stream here and now: what it was read for has failed."""
        with self._changed:
            self._finished = True
            self._blocks.clear()
            self._changed.notify()

    def blocks(self) -> Iterator[bytes]:
        """Yield the part's bytes as they come; raise what `fail` was given."""
        while (block := self._next()) is not None:
            yield block

    def next_part(self) -> object | None:
        """Return the label of the next part, whatever is left of this one; None after the last.

        Waits until it begins. Raises what `fail` was given.
        """
        for _ in self.blocks():
            pass
        with self._changed:
            division = self._blocks.popleft() if self._blocks else None
        return division.label if isinstance(division, _Division) else None

    def _next(self) -> bytes | None:
        with self._changed:
            while not (self._blocks or self._finished or self._error):
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if not self._blocks:
                return None
            block = self._blocks[0]
            if isinstance(block, _Division):
                return None
            self._blocks.popleft()
            self._size -= len(block)
            wake = self._wake_at_low and self._size <= FEED_LOW_MARK
            if wake:
                self._wake_at_low = False
        if wake:
            self._reactor.callFromThread(self._resume)
        return block


#: Bytes in which the stream is given out, and up to twice as many: as the packing thread writes
#: them (`archive.compress.OUTPUT`), without a copy, which would also be of another size.
STEP = 120 * 1024
#: Waiting bytes at which the thread that writes is stopped: 20 ms of a 1 Gbit/s link.
OUTFLOW_HIGH_MARK = 2 * 1024 * 1024


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
        self,
        reactor: IReactorFromThreads,
        high_mark: int = OUTFLOW_HIGH_MARK,
        bucket: TokenBucket | None = None,
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
