"""One HTTP/1.1 request and its answer on one connection, in both directions at the same time.

`HttpServer` makes the requests to other nodes and to stores. The bodies of its answers are short
and kept; `download` is for those that are streamed.

HTTP is parsed by h11. twisted.web's Agent cannot be used for an upload: it gives no answer before
it has sent the whole body, and a node that refuses an upload answers at once.

A dead peer is found by `PeerWatchdog`. TCP itself ends such a connection only after a quarter of
an hour; its keepalive probes are not sent while data is unacknowledged, and `TCP_USER_TIMEOUT`
would also end a connection whose peer is alive and has a full window. Such a peer acknowledges
each window probe; a dead one does not.

On a persistent connection one request follows another. A peer may close one that rests, or a
proxy in between: the next request on it then fails without an answer. So only requests that may be
repeated are sent on these, and their bodies are in memory.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any

import attrs
import h11
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import platformTrust
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd import __version__
from wingsd.errors import InvalidData
from wingsd.http_client.urls import PORTS, parse_url
from wingsd.threadio import ByteSource, TokenBucket
from wingsd.util.net import PROBES, are_too_small, keep_alive, tcp_info, tls_options
from wingsd.util.reactor import Reactor, Timer
from wingsd.util.retry import Watch

# OpenSSL's numbers (x509_vfy.h); the last are those of chains without a trusted root. The first is
# that of a chain without fault.
OTHER_NAME = 0
NOT_YET_VALID = 9
EXPIRED = 10
UNTRUSTED = frozenset({2, 18, 19, 20, 21})


def system_trust() -> SSL.Context:
    """Return a context for TLS 1.2 and above, by AEAD suites alone.

    It trusts the system's certificate authorities (of `SSL_CERT_FILE` and `SSL_CERT_DIR`, where
    they are set), which take 10 ms to read.
    """
    context: SSL.Context = tls_options(trustRoot=platformTrust()).getContext()
    return context


class CertificateRefused(Exception):
    """A certificate is not to be trusted: `code` is OpenSSL's number, or `OTHER_NAME`."""

    def __init__(self, certificate: x509.Certificate, code: int = OTHER_NAME) -> None:
        super().__init__(f"the certificate is refused (verification error {code})")
        self.certificate = certificate
        self.code = code


@implementer(IOpenSSLClientConnectionCreator)
class CertificateVerifier:
    """Makes one TLS connection, and verifies that the certificate is one of `host`.

    Twisted's `optionsForClientTLS` says the same of one that has expired and of one by an unknown
    authority.
    """

    def __init__(self, context: SSL.Context, host: str) -> None:
        """`host` is a name or an IP address, as the certificate must have it."""
        self._context = context
        self._host = host
        self._by_address = isIPAddress(host) or isIPv6Address(host)
        #: What OpenSSL found wrong with the certificate, if it did.
        self.fault: CertificateRefused | None = None

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the connection. OpenSSL fails its handshake when the chain is not valid."""
        connection = SSL.Connection(self._context, None)
        if not self._by_address:  # RFC 6066, section 3
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        connection.set_alpn_protos([b"http/1.1"])
        connection.set_verify(SSL.VERIFY_PEER, self._note)
        return connection

    def verify_name(self, connection: SSL.Connection) -> None:
        """Raise `CertificateRefused` when the certificate, of a valid chain, is not one of `host`.

        To be called when the handshake is complete, before anything is sent.
        """
        verify = verify_ip_address if self._by_address else verify_hostname
        try:
            verify(connection, self._host)
        except (VerificationError, CertificateError, ValueError) as error:
            # service-identity 24 raises ValueError for a wildcard and a host without a dot.
            certificate = connection.get_peer_certificate()
            assert certificate is not None  # noqa: S101 - it was verified
            raise CertificateRefused(certificate.to_cryptography()) from error

    def _note(self, _: SSL.Connection, certificate: X509, code: int, depth: int, ok: int) -> bool:
        if not ok and self.fault is None:
            self.fault = CertificateRefused(certificate.to_cryptography(), code)
        return bool(ok)


#: The number of checks in the time that a peer may be silent.
CHECKS = 8


@attrs.define(eq=False, repr=False, slots=False)
class PeerWatchdog(Watch):
    """Watches the peer of a TCP connection from now on; calls `on_halt` with why it is given up.

    The peer is silent when it has acknowledged nothing for `limit` seconds, in all of which there
    was something to be acknowledged.

    A process that hangs or was stopped takes nothing, and is never silent: its kernel acknowledges
    each window probe. With `taken_within` the peer may have taken nothing for so many seconds, in
    all of which there was more than the connection took, by `is_full`; and there may be more for
    `BODY_WITHIN` seconds, in all.
    """

    _reactor: IReactorTime
    _connection: socket.socket
    _limit: float
    _on_halt: Callable[[TimeoutError], object]
    _taken_within: float | None = None
    _is_full: Callable[[], bool] = lambda: False

    def __attrs_post_init__(self) -> None:
        #: Since when data or probes are unacknowledged, as far as the checks have shown.
        self._owes_since = inf
        self._taken = tcp_info(self._connection).acknowledged
        self._checked = self._taken_at = self._reactor.seconds()
        #: The seconds in which there was more.
        self._full = 0.0
        every = self._limit / CHECKS
        super().__init__(self._reactor, every, self._check, "watching a peer failed")

    def _check(self) -> None:
        now, info = self._reactor.seconds(), tcp_info(self._connection)
        owes = info.unacknowledged or info.probes
        self._owes_since = min(self._owes_since, now) if owes else inf
        # A full window is probed every two minutes in the end, and a probe may be lost: the peer
        # gets as many as keepalive sends.
        certain = info.unacknowledged or info.probes >= PROBES
        is_full = self._is_full()
        if is_full:
            self._full += now - self._checked
        if not is_full or info.acknowledged != self._taken:
            self._taken, self._taken_at = info.acknowledged, now
        self._checked = now
        if certain and min(now - self._owes_since, info.silence) >= self._limit:
            what = f"it acknowledged nothing of what it was sent for {self._limit:g} s"
        elif self._taken_within is None:
            return
        elif now - self._taken_at >= self._taken_within:
            what = f"it took nothing of what it was sent for {self._taken_within:g} s"
        elif self._full >= BODY_WITHIN:
            what = f"it did not take what it was sent within {BODY_WITHIN:g} s"
        else:
            return
        self.stop()
        self._on_halt(TimeoutError(what))


#: Seconds to connect in, TLS included; for a question, to be answered in.
CONNECT_WITHIN = 30
#: Bytes of a status line with its headers: as many as h11 and most proxies take.
MAX_HEAD = 16 * 1024
#: Interim answers (1xx) before the final one. A node may send one every 20 s while at work.
MAX_INTERIM = 1000
#: Seconds for which they may come when the whole request was sent.
INTERIM_WITHIN = 3600
#: Bytes read of an answer's body.
MAX_ANSWER = 64 * 1024
#: Seconds an answer may take from its head to its end; then it is cut off.
ANSWER_WITHIN = 10
#: Seconds the peer has to close its side of the connection after the answer.
CLOSE_WITHIN = 10
#: On a persistent connection: seconds from a body's end to the beginning of the answer, and those
#: to take a whole body in, of which only those count in which there was more than was taken.
BEGUN_WITHIN, BODY_WITHIN = 90.0, 3600.0
#: Characters that are quoted from an answer.
MAX_QUOTE = 500


class AnswerRefused(InvalidData):
    """An answer beyond one of the bounds; the text names the bound."""


@attrs.frozen
class Answer:
    """The peer's answer. `early` is whether it came before the whole request was sent.

    One that is not `whole` broke off, or its end is not HTTP.
    """

    code: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    early: bool
    whole: bool = True

    def header(self, name: str) -> str:
        """Return the value of the header of that name (in lower case), empty without it."""
        # RFC 9110, section 5.3: several lines are one list.
        return ", ".join(value for each, value in self.headers if each == name)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the JSON in the body; none where that is not an object."""
        try:
            found = json.loads(self.body.decode("utf-8-sig", "replace"))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def good(self) -> bool:
        """True if the status is one of success."""
        return 200 <= self.code < 300  # noqa: PLR2004 - as HTTP has them


@implementer(IHandshakeListener, IPushProducer)
@attrs.define(eq=False, repr=False, slots=False)
class HttpExchange(Protocol):
    """A request and its answer, on a connection of its own or a persistent one.

    `certificate` verifies that of the peer; without it the connection is plain TCP. The request's
    body is `content`, or `body`, which is closed when the exchange ends before it does. The peer
    may leave data of `body` unacknowledged for `stall_timeout` seconds, without that for as long
    as TCP does. With `taken_within` it also has to take something of it in so many seconds, when
    it was sent more.
    """

    transport: Any = attrs.field(init=False)
    _reactor: IReactorTime
    _request: h11.Request
    _body: ByteSource | None = None
    _certificate: CertificateVerifier | None = None
    _stall_timeout: float | None = None
    _content: bytes = b""
    _taken_within: float | None = None

    def __attrs_post_init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT, MAX_HEAD)
        #: Fires with the answer, or fails as `start` says.
        self.answer: Deferred[Any] = Deferred(lambda _: self.abort(CancelledError()))
        self._connecting: Deferred[Any] | None = None
        self._limit = Timer(self._reactor)
        self._watchdog: Watch | None = None
        #: Whether the connection takes no more of the body now.
        self._is_full = False
        self._persistent: _Connection | None = None
        self._head: h11.Response | None = None
        self._early = False
        self._interim = 0
        #: When the first interim answer came after the whole request was sent.
        self._interim_since: float | None = None
        self._text = bytearray()
        self._pieces = 0
        #: Whether nothing more of the answer is wanted for now, and whether it is being parsed.
        self._paused = self._reading = False
        #: Why the connection has ended.
        self._lost: Failure | None = None
        self._over = False
        #: Bytes that are read of the answer's body, and the seconds that it may take from its head
        #: to its end.
        self.max_answer = MAX_ANSWER
        self.answer_within: float = ANSWER_WITHIN
        #: Whether the first byte of the request was handed over for sending, and the last.
        self.begun = False
        self.request_sent = False

    def start(
        self,
        endpoint: IStreamClientEndpoint,
        timeout: float | None,
        connections: PersistentConnections | None = None,
    ) -> Deferred[Any]:
        """Connect, send and read; keep the connection among `connections`, where it can be.

        The Deferred gives the answer.

        It fails with the reason when there is none, `CertificateRefused` among them,
        `TimeoutError` of Twisted's when the peer could not be connected to within `timeout`
        seconds (a request without a body: when it was not answered), `AnswerRefused` when interim
        answers come without end, `CancelledError` when it is cancelled.
        """
        if timeout is not None:
            self._limit_silence(timeout)
        if self._certificate is not None:
            endpoint = wrapClientTLS(self._certificate, endpoint)
        protocol: Protocol = self
        if connections is not None:
            protocol = self._persistent = _Connection(connections, self)
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        self._connecting = endpoint.connect(factory)
        self._connecting.addErrback(self._fail)
        return self.answer

    def use(self, connection: _Connection, timeout: float) -> Deferred[Answer]:
        """Begin on a connection that has rested; see `start`."""
        self._persistent, connection.exchange = connection, self
        self._limit_silence(timeout)
        self.transport, self.connected = connection.transport, 1
        self._begin()
        return self.answer

    def abort(self, reason: Exception) -> None:
        """Close at once; the answer, if it is not there yet, fails with `reason`."""
        self._fail(Failure(reason))
        if self.connected:
            self.transport.abortConnection()
        elif self._connecting is not None:
            self._connecting.cancel()

    # What the transport calls

    def connectionMade(self) -> None:
        """Begin, unless TLS is to be set up before."""
        keep_alive(self._socket())
        if self._certificate is None:
            self._begin()

    def handshakeCompleted(self) -> None:
        """Begin, if the peer is verified. TLS has been set up."""
        assert self._certificate is not None  # noqa: S101 - else there is no TLS
        try:
            self._certificate.verify_name(self.transport.getHandle())
        except Exception as error:
            self.abort(error)
        else:
            self._begin()

    def dataReceived(self, data: bytes) -> None:
        """Parse more of the answer."""
        if not self._over:
            self._read(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Conclude with the answer read so far, or fail with the reason."""
        self.connected = 0
        fault = self._certificate.fault if self._certificate is not None else None
        self._lost = reason if fault is None else Failure(fault)
        if not self._over:
            self._read(b"")  # the end of an answer without a length
        if not self._over:
            self._conclude() if self._head is not None else self._fail(self._lost)
        self._limit.cancel()

    def pauseProducing(self) -> None:
        """Pause sending the body: the connection takes no more of it now."""
        self._is_full = True
        if self._body is not None:
            self._body.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume sending the body."""
        self._is_full = False
        if self._body is not None:
            self._body.resumeProducing()

    def stopProducing(self) -> None:
        """Read the rest of the answer: nothing can be sent to the peer any more.

        A node that refuses an upload often closes right after its answer, with so much unread
        that TCP resets the connection. Where sending fails by that first, the answer is still in
        the socket, which the transport closes after this call.
        """
        if not self._over:
            self._tcp().doRead()
        if self._body is not None:
            self._body.close()

    # Sending

    def _begin(self) -> None:
        self.begun = True
        # Until the end, also while waiting for the answer: see `stopProducing`.
        self.transport.registerProducer(self, True)
        self._send(self._request)
        if self._body is None:
            if self._content:
                self._send(h11.Data(self._content))
            self._end_request()
        else:
            self._limit.cancel()
            if self._stall_timeout is not None:
                self._watchdog = PeerWatchdog(
                    self._reactor,
                    self._socket(),
                    self._stall_timeout,
                    self.abort,
                    self._taken_within,
                    lambda: self._is_full,
                )
            self._body.start(lambda data: self._send(h11.Data(data)), self._end_request)

    def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        self.transport.writeSequence(self._http.send_with_data_passthrough(event))

    def _end_request(self) -> None:
        self._send(h11.EndOfMessage())
        self.request_sent = True
        if self._body is not None and self._persistent is not None:
            self._limit_silence(BEGUN_WITHIN)

    # Reading

    def _read(self, data: bytes | None = None) -> None:
        """Parse what has been received, with `data`, until the answer's consumer pauses this."""
        if data is not None:
            self._http.receive_data(data)
        if self._reading:  # called by the consumer, of which one call is under way
            return
        self._reading = True
        try:
            while not (self._over or self._paused):
                event = self._http.next_event()
                if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            self._refuse(error)
        except ValueError:  # of h11 0.14, for a length with more digits than Python converts
            self._refuse(h11.RemoteProtocolError("bad Content-Length"))
        finally:
            self._reading = False

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        # Whatever follows a head may be malformed; the head is the answer.
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
                self._limit.start(self.answer_within, self._conclude)
                if self._body is not None:
                    self._body.close()
            case h11.Data():
                self._text += event.data[: self.max_answer - len(self._text)]
                self._pieces += 1
                if len(self._text) == self.max_answer:
                    self._conclude(whole=True)
                elif are_too_small(self._pieces, len(self._text)):
                    self._conclude()
            case h11.EndOfMessage():
                self._conclude(whole=True)

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

    def _conclude(self, *, whole: bool = False) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - it is called for an answer
        self._end()
        self._close()
        headers = [
            (name.decode(), value.decode("utf-8", "replace")) for name, value in head.headers
        ]
        reason = bytes(head.reason).decode("utf-8", "replace")
        text = bytes(self._text)
        code, early = head.status_code, self._early
        self.answer.callback(Answer(code, reason, headers, text, early, whole))

    def _fail(self, reason: Failure) -> None:
        if self._over:
            return
        self._end()
        if self._body is not None:
            self._body.close()
        self.answer.errback(reason)

    # Closing

    def _end(self) -> None:
        """Stop all timers."""
        self._over = True
        self._limit.cancel()
        if self._watchdog is not None:
            self._watchdog.stop()

    def _close(self) -> None:
        if not self.connected:
            return
        if self._early:
            self.transport.abortConnection()
            return
        self.transport.unregisterProducer()
        http = self._http
        is_done = (http.our_state, http.their_state) == (h11.DONE, h11.DONE)
        if self._persistent is not None and is_done and not http.trailing_data[0]:
            self.connected = 0  # it is not to close what others use
            self._persistent.pool.keep(self._persistent)
            return
        self.transport.loseConnection()
        self._limit.start(CLOSE_WITHIN, self.transport.abortConnection)

    def _limit_silence(self, seconds: float) -> None:
        error = TimedOut(string=f"it said nothing for {seconds:g} s")
        self._limit.start(seconds, self.abort, error)

    def _tcp(self) -> Any:
        """Return the TCP transport, below TLS where there is TLS."""
        return self.transport if self._certificate is None else self.transport.transport

    def _socket(self) -> socket.socket:
        handle: socket.socket = self._tcp().getHandle()
        return handle


#: Seconds that a connection rests before it is not used again. Servers close them after a minute.
REST = 20.0

Block = bytes | memoryview


class BlocksBody(ByteSource):
    """A body in memory: `blocks`, for one request."""

    def __init__(
        self, blocks: Sequence[Block], bucket: TokenBucket | None = None, *, yields: bool = False
    ) -> None:
        super().__init__(bucket, yields=yields)
        self._blocks = iter(blocks)
        self._left = len(blocks)

    def _take(self) -> tuple[bytes | None, bool]:
        self._left -= 1
        return bytes(next(self._blocks, b"")), self._left <= 0

    def _end(self) -> None:
        super()._end()
        # The exchange that has this is in a cycle, and would keep the blocks until it is found.
        self._blocks = iter(())


@implementer(IHandshakeListener)
class _Connection(Protocol):
    """A connection, and the exchange that uses it; None while it is idle."""

    transport: Any

    def __init__(self, pool: PersistentConnections, exchange: HttpExchange) -> None:
        self.exchange: HttpExchange | None = exchange
        self.rests_since = 0.0
        self.pool = pool

    def connectionMade(self) -> None:
        """Begin the first exchange."""
        exchange: Any = self.exchange
        exchange.makeConnection(self.transport)

    def handshakeCompleted(self) -> None:
        """Set it up to verify the peer."""
        if self.exchange is not None:
            self.exchange.handshakeCompleted()

    def dataReceived(self, data: bytes) -> None:
        """Pass the answer on."""
        if self.exchange is not None:
            self.exchange.dataReceived(data)
        else:  # nothing was asked
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Pass it on to the exchange."""
        if self in self.pool.resting:
            self.pool.resting.remove(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.connectionLost(reason)


class PersistentConnections:
    """The idle connections to one node."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self.resting: list[_Connection] = []
        self._is_closed = False

    def start(
        self, exchange: HttpExchange, endpoint: IStreamClientEndpoint, timeout: float
    ) -> Deferred[Answer]:
        """Begin an exchange, on a connection that rests or on a new one to `endpoint`.

        As `HttpExchange.start`; a request without a body is answered within `timeout` seconds.
        """
        while self.resting:
            connection = self.resting.pop()
            if self._reactor.seconds() - connection.rests_since < REST:
                return exchange.use(connection, timeout)
            connection.transport.abortConnection()
        return exchange.start(endpoint, timeout, self)

    def keep(self, connection: _Connection) -> None:
        """Keep a connection whose exchange is over: it rests until the next one."""
        connection.exchange = None
        if self._is_closed:
            connection.transport.abortConnection()
            return
        connection.rests_since = self._reactor.seconds()
        self.resting.append(connection)

    def close(self) -> None:
        """Close those that rest, and each of the others when its exchange is over."""
        self._is_closed = True
        self.close_resting()

    def close_resting(self) -> None:
        """Close those that rest: each has memory for some large writes."""
        for connection in tuple(self.resting):
            connection.transport.abortConnection()
        self.resting.clear()


class HttpServer:
    """The server of a URL; with https it is verified by the authorities that `trust` returns."""

    def __init__(self, url: str, reactor: Reactor, trust: Callable[[], SSL.Context]) -> None:
        """Raise `ValueError` with what is wrong with the URL, and what `trust` does."""
        self._url = parse_url(url)
        self._reactor = reactor
        self._context = trust() if self._url.scheme == "https" else None
        self.host = self._url.hostname or ""
        #: Host and port, as in the URL.
        self.netloc = self._url.netloc

    def request(
        self, method: str, headers: Iterable[tuple[str, str]], below: str = ""
    ) -> h11.Request:
        """Return a request to the URL, or to what is `below` its path."""
        path = self._url.path
        if below:
            target = path.rstrip("/") + below
        else:
            target = (path or "/") + (f"?{self._url.query}" if self._url.query else "")
        usual = [("Host", self.netloc), ("User-Agent", f"wingsd/{__version__}")]
        return h11.Request(method=method, target=target, headers=[*usual, *headers])

    def send(
        self,
        request: h11.Request,
        *,
        timeout: float = CONNECT_WITHIN,
        connections: PersistentConnections | None = None,
        **options: Any,
    ) -> HttpExchange:
        """Begin to send a request, with the `options` of its `HttpExchange`; see its `start`."""
        certificate = (
            CertificateVerifier(self._context, self.host) if self._context is not None else None
        )
        exchange = HttpExchange(self._reactor, request, certificate=certificate, **options)
        port = self._url.port or PORTS[self._url.scheme]
        endpoint = HostnameEndpoint(self._reactor, self.host, port, CONNECT_WITHIN)
        start = exchange.start if connections is None else partial(connections.start, exchange)
        start(endpoint, timeout)
        return exchange


def plain(text: str, most: int = MAX_QUOTE) -> str:
    """Return the beginning of `text` as one line without control characters."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    line = " ".join(printable.split())
    return line if len(line) <= most else f"{line[:most]}…"


def reason_of(error: object) -> str:
    """Return the text of an error, or else its name."""
    return plain(str(error)) or type(error).__name__


def tls_reason(error: SSL.Error) -> str:
    """Return OpenSSL's reasons."""
    reasons = error.args[0] if error.args else ()
    return "; ".join(each[-1] for each in reasons) or "no reason"
