"""HTTP client with bounded answers: headers, interim answers (1xx), body and encoding.

Twisted's parser accepts any number of headers, logs each interim answer, and returns a body of any
size; treq also asks for gzip and decodes it to any size. The bounds are therefore on the
connection, below the parser, and encoded answers are neither asked for nor accepted.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from io import BytesIO
from typing import Any

import treq
from hyperlink import EncodedURL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer

from wingsd.http_client.exchange import MAX_HEAD, AnswerRefused
from wingsd.util.reactor import Reactor

__all__ = ["MAX_BODY", "MAX_HEADERS", "MAX_INTERIM", "BoundedClient", "body_of"]


#: Header lines of one answer.
MAX_HEADERS = 128
#: Interim answers (1xx) before the final one.
MAX_INTERIM = 16
#: Bytes of a body as sent, including chunk headers.
MAX_BODY = 16 * 1024 * 1024
#: Seconds for the server to close the connection after its answer.
CLOSE_WITHIN = 10

_HEAD_END = re.compile(rb"\n\r?\n")
_PROTOCOL = b"HTTP/"


class BoundedClient:
    """An HTTP/1.1 client that makes one connection for each request, and follows no redirect."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor

    async def request(
        self, method: str, url: str, headers: Headers, content: bytes | None = None
    ) -> tuple[IResponse, bytes]:
        """Return the answer and its body. The connection is closed in any case.

        `content` is the request's body. Raises `AnswerRefused`, and what twisted.web's Agent does.
        A cancelled request ends at once; the caller sets time limits.
        """
        pool = _Pool(self._reactor)
        asked = headers.copy()
        asked.setRawHeaders("Accept-Encoding", ["identity"])
        producer = None if content is None else FileBodyProducer(BytesIO(content))
        complete = False
        try:
            agent = Agent(self._reactor, pool=pool)
            response = await agent.request(method.encode("ascii"), _encoded(url), asked, producer)
            _check(response)
            body = await body_of(response)
            complete = pool.refusal is None
        except Exception as error:
            if pool.refusal is None:
                raise
            raise pool.refusal from error
        finally:
            pool.finish(gracefully=complete)
        # A body without a length ends with its connection, even if this side closes it.
        if pool.refusal is not None:
            raise pool.refusal
        return response, body


async def body_of(response: IResponse) -> bytes:
    """Return the body of an answer, in one buffer: its pieces may be of a few bytes each."""
    received = BytesIO()

    def keep(piece: bytes) -> None:
        received.write(piece)

    await treq.collect(response, keep)
    return received.getvalue()


def _encoded(url: str) -> bytes:
    """Return the URL, with a host name in Unicode in its xn-- form."""
    if url.isascii():  # without the tables of Unicode: 1 MiB
        return url.encode("ascii")
    return EncodedURL.from_text(url).to_uri().to_text().encode("ascii")


def _check(response: IResponse) -> None:
    """Raise `AnswerRefused` for a body that is too long, or encoded, by its headers."""
    encodings = response.headers.getRawHeaders("Content-Encoding") or []
    for encoding in encodings:
        if encoding.strip().lower() not in ("", "identity"):
            raise AnswerRefused(
                f"its answer is encoded with {encoding[:60]!r}, which was not asked for"
            )
    if isinstance(response.length, int) and response.length > MAX_BODY:
        raise _too_long()


def _too_long() -> AnswerRefused:
    return AnswerRefused(f"its answer is longer than {MAX_BODY // 1024**2} MiB")


class _Pool(HTTPConnectionPool):
    """The connection of one request."""

    def __init__(self, reactor: Reactor) -> None:
        # Not persistent: a POST on a connection that the server has just closed may or may not
        # have arrived.
        super().__init__(reactor, persistent=False)
        self._clock = reactor
        self.guard: _Guard | None = None

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """Connect through a guard."""
        return super().getConnection(key, _GuardedEndpoint(endpoint, self))

    @property
    def refusal(self) -> AnswerRefused | None:
        """Return why the answer was refused, None if it was not."""
        return self.guard.refusal if self.guard is not None else None

    def finish(self, *, gracefully: bool) -> None:
        """Close the connection, if there is one."""
        if self.guard is not None:
            self.guard.finish(self._clock, gracefully=gracefully)


@implementer(IStreamClientEndpoint)
class _GuardedEndpoint:
    """Connects to `endpoint`, with a guard between the transport and the protocol."""

    def __init__(self, endpoint: IStreamClientEndpoint, pool: _Pool) -> None:
        self._endpoint = endpoint
        self._pool = pool

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Return the protocol that `factory` builds, connected."""
        inner: Any = factory
        guarding: Any = _GuardingFactory(inner)
        # Twisted's own log two lines for each connection.
        inner.noisy = guarding.noisy = False
        connected: Deferred[Any] = self._endpoint.connect(guarding)
        return connected.addCallback(self._connected)

    def _connected(self, guard: Any) -> Any:
        self._pool.guard = guard
        return guard.wrappedProtocol


class _Guard(ProtocolWrapper):
    """Passes on a server's answer within the bounds; beyond them it disconnects."""

    def __init__(self, factory: Any, protocol: Any) -> None:
        super().__init__(factory, protocol)
        #: Why the answer was refused.
        self.refusal: AnswerRefused | None = None
        self._closing: IDelayedCall | None = None
        #: The received part of a head, until it is complete, without interim answers.
        self._head = bytearray()
        self._in_head = True
        self._interim = 0
        self._body = 0

    def dataReceived(self, data: bytes) -> None:
        """Pass on the final answer."""
        if self.refusal is not None:
            return
        try:
            passed = self._read_head(data) if self._in_head else data
            self._body += 0 if self._in_head else len(passed)
            if self._body > MAX_BODY:
                raise _too_long()
        except AnswerRefused as error:
            self.refusal = error
            self.abortConnection()
            return
        if passed:
            super().dataReceived(passed)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the protocol."""
        self.connected = 0
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        super().connectionLost(reason)

    def finish(self, reactor: IReactorTime, *, gracefully: bool) -> None:
        """Close the connection: at once, or gracefully, when the server has closed it as well."""
        if not self.connected:
            return
        if not gracefully:
            self.abortConnection()
            return
        self.loseConnection()
        # TLS ends when both sides have sent close_notify.
        self._closing = reactor.callLater(CLOSE_WITHIN, self._abort)

    def _abort(self) -> None:
        self._closing = None
        self.abortConnection()

    def _read_head(self, data: bytes) -> bytes:
        """Return the final answer's head with what follows, empty while it is incomplete.

        Raises `AnswerRefused`.
        """
        start = max(0, len(self._head) - 2)  # its end may come in pieces
        self._head += data
        while (end := _HEAD_END.search(self._head, start)) is not None:
            head = bytes(self._head[: end.end()])
            _check_head(head)
            if not 100 <= _status(head) < 200:  # noqa: PLR2004 - as HTTP has them
                whole, self._head = bytes(self._head), bytearray()
                self._in_head = False
                self._body = -len(head)
                return whole
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise AnswerRefused(
                    f"it sent more than {MAX_INTERIM} interim answers (1xx) and no final one"
                )
            del self._head[: end.end()]
            start = 0
        _check_head(self._head)
        return b""


class _GuardingFactory(WrappingFactory):
    protocol = _Guard


def _check_head(head: bytes | bytearray) -> None:
    """Raise `AnswerRefused` for a head, complete or not, that is not HTTP or beyond a bound."""
    if not _PROTOCOL.startswith(bytes(head[: len(_PROTOCOL)])):
        raise AnswerRefused(f"its answer is not HTTP but {bytes(head[:60])!r}")
    # The lines are the status line, those of headers, and the empty one.
    if len(head) > MAX_HEAD or head.count(b"\n") > MAX_HEADERS + 2:
        raise AnswerRefused(
            f"its answer's headers are longer than {MAX_HEAD // 1024} KiB, or more than "
            f"{MAX_HEADERS} lines"
        )


def _status(head: bytes) -> int:
    """Return the status, 0 for none; parsed like in Twisted's parser, which gets it next."""
    parts = head.partition(b"\n")[0].split(b" ", 2)
    try:
        return int(parts[1])
    except (IndexError, ValueError):
        return 0
