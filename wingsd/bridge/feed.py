"""A stream of bytes from the reactor into a thread; it may be divided into parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Any

import attrs
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from zope.interface import implementer

from wingsd.bridge.marks import BLOCK, HIGH_MARK, LOW_MARK

__all__ = ["Feed"]


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

    def __init__(self, reactor: Any) -> None:
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
            full = self._size >= HIGH_MARK
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
            wake = self._wake_at_low and self._size <= LOW_MARK
            if wake:
                self._wake_at_low = False
        if wake:
            self._reactor.callFromThread(self._resume)
        return block
