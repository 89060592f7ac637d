"""The bodies of requests of a move: streams that a thread reads, and that can be stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProducer, IReactorTime

from wingsd.errors import WingsdError
from wingsd.moves.errors import MoveBatchTooLarge
from wingsd.threadio import Feed
from wingsd.transfers.incoming.moves.answering import bounded
from wingsd.transfers.incoming.uploads import UploadConsumer

__all__ = ["ArrivingBody", "BodyStream", "BoundedFeed"]

T = TypeVar("T")


class BodyStream(Protocol):
    """The body of a request, which is not read before `deliver`; `api.upload.UploadStream`."""

    size: int

    def deliver(self, consumer: UploadConsumer) -> None:
        """Have the body written to `consumer`. Raises what `stop` was given before."""

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""


class BoundedFeed:
    """Writes a body to a feed, up to a number of bytes, and tells its end by `arrived`."""

    def __init__(self, feed: Feed, most: int, arrived: Callable[[], object]) -> None:
        self._feed = feed
        self._left = self._most = most
        self._arrived = arrived

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
        self._arrived()

    def fail(self, error: WingsdError) -> None:
        """Raise `error` in the thread."""
        self._feed.unregisterProducer()
        self._feed.fail(error)


@attrs.define(eq=False, repr=False)
class ArrivingBody:
    """The body of a request that waits for its turn, or is read."""

    stream: BodyStream
    clock: IReactorTime
    #: The slot that it waits for.
    turn: Deferred[Any] | None = None
    over: Deferred[None] = attrs.field(factory=Deferred)
    #: Fires when all of it has arrived, or is not waited for.
    _arrived: Deferred[None] = attrs.field(factory=Deferred)

    def arrived(self) -> None:
        """Note that all of it has arrived."""
        if not self._arrived.called:
            self._arrived.callback(None)

    async def answered(self, reading: Deferred[T]) -> T:
        """Return what reading it results in.

        Raises `MoveBusy` some seconds after all of it has arrived: reading it goes on then.
        """
        reading.addBoth(self._end)
        await self._arrived
        return await bounded(reading, self.clock)

    def _end(self, result: T) -> T:
        self.arrived()
        return result

    def stop(self, error: WingsdError) -> None:
        """Read no further, nor wait for a slot."""
        self.stream.stop(error)
        if self.turn is not None and not self.turn.called:
            self.turn.cancel()
