"""The bodies of requests of a move: streams that a thread reads, and that can be stopped."""

from __future__ import annotations

from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProducer

from wingsd.errors import WingsdError
from wingsd.threadio import Feed
from wingsd.transfers.incoming.moves.errors import MoveBatchTooLarge
from wingsd.transfers.incoming.uploads import UploadConsumer

__all__ = ["ArrivingBody", "BodyStream", "BoundedFeed"]


class BodyStream(Protocol):
    """The body of a request, which is not read before `deliver`; `api.upload.UploadStream`."""

    size: int

    def deliver(self, consumer: UploadConsumer) -> None:
        """Have the body written to `consumer`. Raises what `stop` was given before."""

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""


class BoundedFeed:
    """Writes a body to a feed, up to a number of bytes."""

    def __init__(self, feed: Feed, most: int) -> None:
        self._feed = feed
        self._left = self._most = most

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Have `producer` paused while the thread cannot keep up."""
        self._feed.registerProducer(producer, streaming)

    def write(self, data: bytes) -> None:
        """Take a piece. Raises `MoveBatchTooLarge`."""
        self._left -= len(data)
        if self._left < 0:
            raise MoveBatchTooLarge(self._most)
        self._feed.write(data)

    def finish(self) -> None:
        """Take the end."""
        self._feed.unregisterProducer()
        self._feed.finish()

    def fail(self, error: WingsdError) -> None:
        """Raise `error` in the thread."""
        self._feed.unregisterProducer()
        self._feed.fail(error)


@attrs.define(eq=False, repr=False)
class ArrivingBody:
    """The body of a request that waits for its turn, or is read."""

    stream: BodyStream
    #: The slot that it waits for.
    turn: Deferred[Any] | None = None
    over: Deferred[None] = attrs.field(factory=Deferred)

    def stop(self, error: WingsdError) -> None:
        """Read no further, nor wait for a slot."""
        self.stream.stop(error)
        if self.turn is not None and not self.turn.called:
            self.turn.cancel()
