"""How connections share the reactor: input that waits is taken a piece at a time, in turns.

A client can send thousands of pipelined requests, chunks or frames in one segment. Where all of
them were answered as they are read, every other client would wait meanwhile. So each connection
keeps what it has read, reads no more while something is kept, and has one piece of it processed in
a turn of the reactor, in which the others have theirs too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["InputScheduler", "ReadControl", "TakesInput"]

#: Seconds of a turn after which the reactor sees to everything else it has, such as uploads.
TURN_SECONDS = 0.02


class TakesInput(Protocol):
    """A connection with input that waits."""

    def take_piece(self) -> None:
        """Process the next piece."""


class InputScheduler:
    """Has each connection process one piece of its input a turn, first come, first served."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._waiting: OrderedDict[TakesInput, None] = OrderedDict()
        self._call: IDelayedCall | None = None

    def add(self, connection: TakesInput) -> None:
        """Have a connection process one piece in the next turn; at most one, however often."""
        self._waiting[connection] = None
        if self._call is None:
            self._call = self._reactor.callLater(0, self._run)

    def remove(self, connection: TakesInput) -> None:
        """Forget a connection that was closed."""
        self._waiting.pop(connection, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _run(self) -> None:
        self._call = None
        begun = self._reactor.seconds()
        for _ in range(len(self._waiting)):
            if not self._waiting or self._reactor.seconds() - begun > TURN_SECONDS:
                break
            connection, _ = self._waiting.popitem(last=False)
            connection.take_piece()
        if self._waiting and self._call is None:
            self._call = self._reactor.callLater(0, self._run)


class _Transport(Protocol):
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: object, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...


class ReadControl:
    """Pauses a transport as long as there is a reason for it; there can be several at a time.

    It takes the transport's place as the channel's own network producer, by which twisted.web
    pauses and resumes for reasons of its own.
    """

    def __init__(self, transport: _Transport) -> None:
        self._transport = transport
        self._reasons: set[str] = set()

    def pause(self, reason: str) -> None:
        """Read no more until `resume` is called with the same reason."""
        if not self._reasons:
            self._transport.pauseProducing()
        self._reasons.add(reason)

    def resume(self, reason: str) -> None:
        """Read on, unless there is another reason not to."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons:
                self._transport.resumeProducing()

    def resume_all(self) -> None:
        """Read on, whatever the reasons were: a closed connection is noticed by reading alone."""
        for reason in tuple(self._reasons):
            self.resume(reason)

    def pauseProducing(self) -> None:
        """Pause for twisted.web."""
        self.pause("twisted.web")

    def resumeProducing(self) -> None:
        """Resume for twisted.web."""
        self.resume("twisted.web")

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Pass on who writes to the transport."""
        self._transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Pass on that nothing more will be written."""
        self._transport.unregisterProducer()
