"""What answers with long bodies share: their pace is watched, and their end waits for delivery."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from wingsd.http.watchdogs import DeliveryWatchdog
from wingsd.util.reactor import Reactor

__all__ = ["LONG", "PIECE", "BodySender", "BytesSender"]

#: Bytes of a body in memory above which it is written in pieces, and those of a piece.
LONG, PIECE = 64 << 10, 16 << 10

#: Bytes that the kernel may still have to deliver when the answer counts as sent; until then it is
#: looked at every so many seconds. What an idle connection has not delivered is lost.
DELIVERED = 64 << 10
LOOK_EVERY = 0.1


class BodyRequest(Protocol):
    """What is needed of a request (`StreamingRequest`) to answer it with a long body."""

    channel: Any
    method: bytes

    def header(self, name: str) -> str: ...
    def setHeader(self, name: str, value: str) -> None: ...
    def setResponseCode(self, code: int) -> None: ...
    def notifyFinish(self) -> Deferred[None]: ...
    def registerProducer(self, producer: object, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class BodySender(ABC):
    """Sends one body as the answer to one request, and closes the connection when that fails.

    `name` is for the log. A subclass says by `_end` what is closed when the answer has ended, and
    by `_too_slow` whether the client is the reason.
    """

    _log = Logger()

    def __init__(self, request: BodyRequest, name: str) -> None:
        site = request.channel.site
        self._request = request
        self._name = name
        self._reactor: Reactor = site.reactor
        self._watchdog = DeliveryWatchdog(
            site.reactor, request.channel.transport, site.least_rate, site.timeOut, self._too_slow
        )
        self._has_ended = False

    def _begin(self, producer: object) -> None:
        """Register a push producer, and watch the pace from now on."""
        self._request.notifyFinish().addBoth(self._end)
        self._request.channel.enlarge_send_limit()
        self._request.registerProducer(producer, True)
        self._watchdog.start()

    def _finish(self) -> None:
        """End the answer when the client has received it: what is left may not be discarded."""
        if self._has_ended:
            return
        if self._watchdog.undelivered() > DELIVERED:
            self._reactor.callLater(LOOK_EVERY, self._finish)
            return
        self._request.unregisterProducer()
        self._request.finish()

    def _abort(self, reason: str) -> None:
        """Close the connection, so that the client knows that the body is not whole."""
        if self._has_ended:
            return
        self._log.warn("{file}: download ended early: {reason}", file=self._name, reason=reason)
        self._end()
        self._request.channel.abortConnection()

    @abstractmethod
    def _too_slow(self, reason: str) -> None:
        """The client has received too little since the last look."""

    @abstractmethod
    def _end(self, _: object = None) -> None:
        """The answer has ended, whichever way. May be called twice."""
        self._has_ended = True
        self._watchdog.stop()


@implementer(IPushProducer)
class BytesSender(BodySender):
    """Sends a body that is in memory, in pieces, no faster than the client reads it.

    Written at once, it would be encrypted at once, and kept so for each client that does not read.
    """

    def __init__(self, request: BodyRequest, name: str, body: bytes) -> None:
        super().__init__(request, name)
        self._left = memoryview(body)
        self._is_paused = self._is_due = False

    def start(self) -> None:
        """Write the first piece."""
        self._begin(self)
        self._write()

    def pauseProducing(self) -> None:
        """The connection has enough to send."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """The connection has sent everything."""
        self._is_paused = False
        if self._left and not self._is_due:
            self._write()

    def stopProducing(self) -> None:
        """The connection is closed; `notifyFinish` says so as well."""
        self._end()

    def _write(self) -> None:
        """Write a piece in each turn of the reactor: TLS passes on what the last one wrote."""
        self._is_due = False
        if self._is_paused or self._has_ended:
            return
        piece, self._left = self._left[:PIECE], self._left[PIECE:]
        self._request.write(bytes(piece))
        if self._left:
            self._is_due = True
            self._reactor.callLater(0, self._write)
        else:
            self._finish()

    def _too_slow(self, reason: str) -> None:
        self._abort(reason)

    def _end(self, _: object = None) -> None:
        super()._end()
        self._left = memoryview(b"")
