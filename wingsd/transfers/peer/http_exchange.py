"""One HTTP/1.1 request and its answer over one connection, both ways at the same time.

TCP gives up on one only after a quarter of an hour. Its keepalive asks nothing while anything is
under way, and `TCP_USER_TIMEOUT` would also end a connection whose peer is there and only takes
nothing for now. Such a peer acknowledges each question whether it takes more; a dead one does not.

The grammar is h11's. twisted.web's Agent cannot be used for an upload: it hands out no answer
before it has sent the whole body, and a node that refuses an upload says so at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from math import inf
from typing import Any

import attrs
import h11
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.panel.http_client import MAX_HEAD, AnswerRefused
from wingsd.threadio import Outflow
from wingsd.util.net import PROBES, keep_alive, tcp_info

__all__ = ["Answer", "HttpExchange", "Silence"]

#: How often is looked in the time that a peer may be silent.
LOOKS = 8


class Silence:
    """Watches the peer of a TCP connection from now on; calls `tell` when it is silent.

    That is when it has acknowledged nothing for `limit` seconds, in all of which there was
    something to be acknowledged.
    """

    def __init__(
        self, reactor: Any, connection: socket.socket, limit: float, tell: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._limit = limit
        self._tell = tell
        #: Since when there is something to be acknowledged, as far as looks have shown.
        self._since = inf
        self._next: IDelayedCall = self._look_later()

    def stop(self) -> None:
        """Look no more."""
        if self._next.active():
            self._next.cancel()

    def _look_later(self) -> IDelayedCall:
        later: IDelayedCall = self._reactor.callLater(self._limit / LOOKS, self._look)
        return later

    def _look(self) -> None:
        now, info = self._reactor.seconds(), tcp_info(self._connection)
        owes = info.unacknowledged or info.probes
        self._since = min(self._since, now) if owes else inf
        # A peer that takes nothing is asked every two minutes in the end, and one question may be
        # lost on its way: it is given as many as keepalive gives.
        certain = info.unacknowledged or info.probes >= PROBES
        if certain and min(now - self._since, info.silence) >= self._limit:
            self._tell()
        else:
            self._next = self._look_later()


#: Interim answers (1xx) before the final one. A node may say every 20 s that it is still at work.
MAX_INTERIM = 1000
#: Seconds for which they may come when the whole request was sent.
INTERIM_WITHIN = 3600
#: Bytes read of an answer's body.
MAX_ANSWER = 64 * 1024
#: Seconds an answer may take from its head to its end; what came until then is the answer.
ANSWER_WITHIN = 10
#: Seconds the peer has to close its side, too, when all is said.
CLOSE_WITHIN = 10


@attrs.frozen
class Answer:
    """What the peer said. `early` tells that it did before the whole request was sent."""

    code: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    early: bool

    def header(self, name: str) -> str:
        """Return what the header of that name (in lower case) says, empty without it."""
        # RFC 9110, section 5.3: several lines are one list.
        return ", ".join(value for each, value in self.headers if each == name)

    @property
    def good(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.code < 300  # noqa: PLR2004 - as HTTP has them


@implementer(IHandshakeListener, IPushProducer)
class HttpExchange(Protocol):
    """A connection for one request, made by `start`.

    `verify` looks at the TLS connection before anything is sent on it, and raises when it is not
    to be trusted; without it nothing but plain TCP is expected. What a request says is `content`,
    or what comes out of `body`, which is closed when this ends before it does. What is sent of one
    the peer may leave unacknowledged for `stall_timeout` seconds, without that for as long as TCP
    does.
    """

    transport: Any

    def __init__(
        self,
        reactor: Any,
        request: h11.Request,
        body: Outflow | None = None,
        verify: Callable[[Any], None] | None = None,
        stall_timeout: float | None = None,
        content: bytes = b"",
    ) -> None:
        self._reactor = reactor
        self._request = request
        self._content = content
        self._body = body
        self._verify = verify
        self._stall_timeout = stall_timeout
        self._http = h11.Connection(h11.CLIENT, MAX_HEAD)
        self._answer: Deferred[Answer] = Deferred(lambda _: self.abort(CancelledError()))
        self._connecting: Deferred[Any] | None = None
        self._limit: IDelayedCall | None = None
        self._silence: Silence | None = None
        self._head: h11.Response | None = None
        self._early = False
        self._interim = 0
        #: When the first interim answer came after the whole request was sent.
        self._interim_since: float | None = None
        self._text = bytearray()
        self._over = False
        #: Whether the first byte of the request was handed over for sending, and the last.
        self.begun = False
        self.request_sent = False

    def start(self, endpoint: IStreamClientEndpoint, timeout: float) -> Deferred[Answer]:
        """Connect, send and read. The Deferred gives the answer.

        It fails with the reason when there is none, `TimeoutError` of Twisted's when the peer
        could not be connected to within `timeout` seconds (a request without a body: when it was
        not answered), `AnswerRefused` when interim answers come without end, `CancelledError`
        when it is cancelled.
        """
        self._set_limit(timeout, lambda: self.abort(TimedOut()))
        factory = Factory.forProtocol(lambda: self)
        factory.noisy = False
        self._connecting = endpoint.connect(factory)
        self._connecting.addErrback(self._fail)
        return self._answer

    def abort(self, reason: Exception) -> None:
        """Close at once; the answer, if it is not there yet, fails with `reason`."""
        self._fail(Failure(reason))
        if self._connecting is not None:
            self._connecting.cancel()
        if self.connected:
            self.transport.abortConnection()

    # What the transport calls

    def connectionMade(self) -> None:
        """Begin, unless there is a certificate to look at before."""
        keep_alive(self._socket())
        if self._verify is None:
            self._begin()

    def handshakeCompleted(self) -> None:
        """Begin, if the peer is the right one. TLS has been set up."""
        assert self._verify is not None  # noqa: S101 - else there is no TLS
        try:
            self._verify(self.transport.getHandle())
        except Exception as error:
            self.abort(error)
        else:
            self._begin()

    def dataReceived(self, data: bytes) -> None:
        """Read on in the answer."""
        if not self._over:
            self._read(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take what has been read for the answer, or the reason for there being none."""
        self.connected = 0
        if not self._over:
            self._read(b"")  # the end of an answer that does not tell its length
        if not self._over:
            self._conclude() if self._head is not None else self._fail(reason)
        self._clear_limit()

    def pauseProducing(self) -> None:
        """Send no more of the body for now."""
        if self._body is not None:
            self._body.pauseProducing()

    def resumeProducing(self) -> None:
        """Send on."""
        if self._body is not None:
            self._body.resumeProducing()

    def stopProducing(self) -> None:
        """Read what the peer has said to the end: no byte can be sent to it any more.

        A node that refuses an upload often closes right after its answer, with so much unread
        that TCP resets the connection. Where sending met that first, the answer is still waiting
        in the socket, which the transport closes after this call.
        """
        if not self._over:
            self._tcp().doRead()
        if self._body is not None:
            self._body.close()

    # Sending

    def _begin(self) -> None:
        self.begun = True
        # To the very end, also of the waiting: see `stopProducing`.
        self.transport.registerProducer(self, True)
        self._send(self._request)
        if self._body is None:
            if self._content:
                self._send(h11.Data(self._content))
            self._end_request()
        else:
            self._clear_limit()
            self._listen()
            self._body.start(lambda data: self._send(h11.Data(data)), self._end_request)

    def _listen(self) -> None:
        """See that the peer goes on to acknowledge what it is sent."""
        limit = self._stall_timeout
        if limit is not None:
            error = TimeoutError(f"it acknowledged nothing of what it was sent for {limit:g} s")
            self._silence = Silence(
                self._reactor, self._socket(), limit, lambda: self.abort(error)
            )

    def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        self.transport.writeSequence(self._http.send_with_data_passthrough(event))

    def _end_request(self) -> None:
        self._send(h11.EndOfMessage())
        self.request_sent = True

    # Reading

    def _read(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while not self._over:
                event = self._http.next_event()
                if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            # What follows a head may be what it likes; the head has said it all.
            if self._head is not None:
                self._conclude()
            elif self.connected:
                self.abort(error)

    def _take(self, event: object) -> None:
        match event:
            case h11.InformationalResponse():
                self._take_interim()
            case h11.Response():
                self._head = event
                self._early = not self.request_sent
                self._set_limit(ANSWER_WITHIN, self._conclude)
                if self._body is not None:
                    self._body.close()
            case h11.Data():
                self._text += event.data[: MAX_ANSWER - len(self._text)]
                if len(self._text) == MAX_ANSWER:
                    self._conclude()
            case h11.EndOfMessage():
                self._conclude()

    def _take_interim(self) -> None:
        self._interim += 1
        now = self._reactor.seconds()
        if self.request_sent and self._interim_since is None:
            self._interim_since = now
        if self._interim > MAX_INTERIM:
            what = f"it sent more than {MAX_INTERIM} interim answers (1xx) and no final one"
            self.abort(AnswerRefused(what))
        elif self._interim_since is not None and now - self._interim_since > INTERIM_WITHIN:
            what = f"it sent interim answers (1xx) and no final one for {INTERIM_WITHIN} s"
            self.abort(AnswerRefused(what))

    def _conclude(self) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - it is called for an answer
        self._end()
        self._close()
        headers = [
            (name.decode(), value.decode("utf-8", "replace")) for name, value in head.headers
        ]
        reason = bytes(head.reason).decode("utf-8", "replace")
        text = bytes(self._text)
        self._answer.callback(Answer(head.status_code, reason, headers, text, self._early))

    def _fail(self, reason: Failure) -> None:
        if self._over:
            return
        self._end()
        if self._body is not None:
            self._body.close()
        self._answer.errback(reason)

    # Closing

    def _end(self) -> None:
        """Wait for nothing more."""
        self._over = True
        self._clear_limit()
        if self._silence is not None:
            self._silence.stop()

    def _close(self) -> None:
        if not self.connected:
            return
        if self._early:
            self.transport.abortConnection()
            return
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._set_limit(CLOSE_WITHIN, self.transport.abortConnection)

    def _set_limit(self, seconds: float, call: Callable[[], object]) -> None:
        self._clear_limit()
        self._limit = self._reactor.callLater(seconds, call)

    def _clear_limit(self) -> None:
        if self._limit is not None and self._limit.active():
            self._limit.cancel()

    def _tcp(self) -> Any:
        """Return the transport below TLS, or the one and only."""
        return self.transport if self._verify is None else self.transport.transport

    def _socket(self) -> socket.socket:
        handle: socket.socket = self._tcp().getHandle()
        return handle
