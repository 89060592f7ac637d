"""A connection in memory, for what speaks to another node."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from zope.interface import implementer


class _Socket:
    family = socket.AF_INET

    def __init__(self) -> None:
        self.options: list[tuple[int, int, int]] = []

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Tell of a connection on which nothing is under way."""
        return bytes(size)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))


class Wire(StringTransport):
    """A TCP transport that sends nothing by itself, and so pauses who writes more than it holds.

    `unread` is what the peer has sent and nobody has read; `drain` lets it send.
    """

    holds = 64 * 1024
    producer: Any

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.socket = _Socket()
        self.aborted = False
        self.unread = b""
        self.held = 0

    def getHandle(self) -> _Socket:
        return self.socket

    def write(self, data: bytes) -> None:
        super().write(data)
        self.held += len(data)
        if self.held > self.holds and self.producer is not None:
            self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def drain(self) -> None:
        self.held = 0
        self.producer.resumeProducing()

    def doRead(self) -> None:
        unread, self.unread = self.unread, b""
        if unread:
            self.protocol.dataReceived(unread)

    def abortConnection(self) -> None:
        self.aborted = True


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects at once, to a `wire`; with `failure` not at all; without `answers` not yet."""

    wire: Wire

    def __init__(self, failure: Exception | None = None, *, answers: bool = True) -> None:
        self.failure = failure
        self.answers = answers
        self.cancelled = False

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.failure is not None:
            return fail(self.failure)
        if not self.answers:
            return Deferred(self._cancel)
        protocol = factory.buildProtocol(None)
        self.wire = Wire(protocol)
        protocol.makeConnection(self.wire)
        return succeed(protocol)

    def _cancel(self, _: Deferred[Any]) -> None:
        self.cancelled = True
