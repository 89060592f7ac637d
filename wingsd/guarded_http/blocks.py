"""The body of an answer as blocks that are asked for, with flow control.

Nothing is read from the other server while nobody asks, so that a body of any length takes little
memory and no thread.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.guarded_http.client import GuardedAnswer

__all__ = ["BLOCK", "BodyBlocks"]

#: Bytes of a block, and of what waits when the other server is held back.
BLOCK = 256 << 10


@implementer(IConsumer)
class BodyBlocks:
    """The body of one answer."""

    def __init__(self, answer: GuardedAnswer) -> None:
        self._answer = answer
        self._producer: Any = None
        # One buffer: pieces may be of two bytes each, which take 20 times as much as objects.
        self._waiting = bytearray()
        self._began = self._complete = False
        self._failure: Failure | None = None
        self._asked: Deferred[bytes] | None = None

    def next(self) -> Deferred[bytes]:
        """Return the next block, empty at the end; it may be cancelled.

        Raises `DownloadFailed`.
        """
        if self._failure is not None:
            return fail(self._failure)
        if len(self._waiting) >= BLOCK or self._complete:
            return succeed(self._taken())
        asked: Deferred[bytes] = Deferred(lambda _: self._forget())
        self._asked = asked
        if not self._began:
            self._began = True
            Deferred.fromCoroutine(self._answer.deliver(self)).addCallbacks(self._end, self._fail)
        elif self._producer is not None:
            self._producer.resumeProducing()
        return asked

    # What the answer calls

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take what is paused."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget it."""
        self._producer = None

    def write(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._waiting += data
        if len(self._waiting) >= BLOCK:
            self._producer.pauseProducing()
            self._hand_on()

    def _end(self, _: None) -> None:
        self._complete = True
        self._hand_on()

    def _fail(self, failure: Failure) -> None:
        self._failure = failure
        asked = self._asked
        if asked is not None:
            self._forget()
            asked.errback(failure)

    def _hand_on(self) -> None:
        asked = self._asked
        if asked is not None:
            self._forget()
            asked.callback(self._taken())

    def _forget(self) -> None:
        self._asked = None

    def _taken(self) -> bytes:
        data = bytes(self._waiting)
        self._waiting.clear()
        return data
