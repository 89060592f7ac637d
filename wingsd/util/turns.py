"""Input of connections in turns: each processes a piece, and is not read from meanwhile."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["BufferedConnection", "InputScheduler", "ReadControl"]

#: Seconds in an iteration of the reactor, of which the rest is for everything else.
TURN_SECONDS = 0.02


class BufferedConnection(Protocol):
    """A connection with buffered input."""

    def process_piece(self) -> None:
        """Process the next piece."""


class InputScheduler:
    """Lets connections process their input in turns, a piece each, first come, first served."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._waiting: OrderedDict[BufferedConnection, None] = OrderedDict()
        self._call: IDelayedCall | None = None

    def seconds(self) -> float:
        """Return the time of the reactor's clock."""
        return self._reactor.seconds()

    def add(self, connection: BufferedConnection) -> None:
        """Let a connection process one piece in the next turn, also when called repeatedly."""
        self._waiting[connection] = None
        if self._call is None:
            self._call = self._reactor.callLater(0, self._run)

    def remove(self, connection: BufferedConnection) -> None:
        """Remove a connection that is closed."""
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
            connection.process_piece()
        if self._waiting and self._call is None:
            self._call = self._reactor.callLater(0, self._run)


class _Transport(Protocol):
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: object, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...


class ReadControl:
    """Pauses a transport while there is at least one reason for it.

    It replaces the channel's network producer, which twisted.web pauses and resumes, too.
    """

    def __init__(self, transport: _Transport) -> None:
        self._transport = transport
        self._reasons: set[str] = set()

    def is_paused_for(self, reason: str) -> bool:
        """Return whether this is a reason of the pause."""
        return reason in self._reasons

    def pause(self, reason: str) -> None:
        """Stop reading until `resume` is called with the same reason."""
        if not self._reasons:
            self._transport.pauseProducing()
        self._reasons.add(reason)

    def resume(self, reason: str) -> None:
        """Remove a reason; read again when it was the last."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons:
                self._transport.resumeProducing()

    def resume_all(self) -> None:
        """Remove all reasons. A closed connection is only noticed by reading."""
        for reason in tuple(self._reasons):
            self.resume(reason)

    def pauseProducing(self) -> None:
        """Pause for twisted.web."""
        self.pause("twisted.web")

    def resumeProducing(self) -> None:
        """Resume for twisted.web."""
        self.resume("twisted.web")

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Pass on."""
        self._transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Pass on."""
        self._transport.unregisterProducer()
