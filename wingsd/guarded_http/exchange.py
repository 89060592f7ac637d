"""One request of HTTP/1.1 without a body and its answer, whose body goes to a consumer.

HTTP is parsed by h11, which bounds the head and checks the length of the body. Nothing is read
ahead of the consumer but what the transport has read already.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.errors import DownloadFailed
from wingsd.guarded_http.tls import CertificateCheck
from wingsd.util.net import are_too_small, keep_alive
from wingsd.util.text import readable_time

__all__ = ["LEAST_PACE", "MAX_HEAD", "MAX_INTERIM", "GuardedExchange"]

#: Bytes of a status line with its headers.
MAX_HEAD = 16 * 1024
#: Interim answers (1xx) before the final one.
MAX_INTERIM = 16
#: Bytes a second of a body, on average over the time that may pass between two pieces: who sends
#: less would hold one of few turns for days.
LEAST_PACE = 512


@implementer(IHandshakeListener, IPushProducer)
class GuardedExchange(Protocol):
    """A connection for one request; `head` is the head of its answer.

    `check_peer` is called with the address that was connected to, before anything is sent, and
    raises where it may not be. `certificate` is for TLS. Between two pieces of the body `idle`
    seconds may pass, in which `LEAST_PACE` is held; its consumer's time does not count.
    """

    transport: Any

    def __init__(
        self,
        reactor: IReactorTime,
        request: h11.Request,
        check_peer: Callable[[str], None],
        certificate: CertificateCheck | None,
        idle: float,
    ) -> None:
        self._reactor = reactor
        self._request = request
        self._check_peer = check_peer
        self._certificate = certificate
        self._idle = idle
        self._http = h11.Connection(h11.CLIENT, MAX_HEAD)
        self.head: Deferred[h11.Response] = Deferred(lambda _: self.abort(CancelledError()))
        self._interim = 0
        self._consumer: Any = None
        self._body: Deferred[None] | None = None
        self._most: int | None = None
        self._received = self._pieces = 0
        self._paused = self._reading = self._ended = False
        #: Why the connection has ended, and the answer with it.
        self._lost: Failure | None = None
        self._failure: Failure | None = None
        self._silence: IDelayedCall | None = None
        #: Bytes since the time of silence was begun.
        self._heard = 0

    def deliver(self, consumer: IConsumer, most: int | None) -> Deferred[None]:
        """Write the body to `consumer`; the Deferred fires at its end.

        Fails with `DownloadFailed`, also for a body of more than `most` bytes.
        """
        self._body = Deferred(lambda _: self.abort(CancelledError()))
        self._consumer, self._most = consumer, most
        if self._failure is not None:
            self._body.errback(self._failure)
            return self._body
        body = self._body
        consumer.registerProducer(self, True)
        self.resumeProducing()
        return body

    def abort(self, reason: Exception | None = None) -> None:
        """Close at once. What was not received yet fails with `reason`."""
        self._end(Failure(reason or CancelledError()))

    # What the transport calls

    def connectionMade(self) -> None:
        """Send the request, unless TLS is to be set up before."""
        try:
            self._check_peer(self.transport.getPeer().host)
        except Exception:
            self._end(Failure())
            return
        keep_alive(self._tcp().getHandle())
        if self._certificate is None:
            self._send()

    def handshakeCompleted(self) -> None:
        """Send the request, if the certificate is one of the host."""
        assert self._certificate is not None  # noqa: S101 - else there is no TLS
        try:
            self._certificate.verify_name(self.transport.getHandle())
        except Exception:
            self._end(Failure())
        else:
            self._send()

    def dataReceived(self, data: bytes) -> None:
        """Parse more of the answer."""
        if self._ended:
            return
        self._heard += len(data)
        if self._silence is not None and self._heard >= self._least:
            self._expect_data()
        self._http.receive_data(data)
        self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take the end of the connection, which is that of a body without a length."""
        self.connected = 0
        if self._ended:
            return
        fault = self._certificate.fault if self._certificate is not None else None
        self._lost = reason if fault is None else Failure(fault)
        self._http.receive_data(b"")
        self._read()

    # What the consumer calls

    def pauseProducing(self) -> None:
        """Hand on nothing more for now."""
        self._paused = True
        self._expect_silence()
        if self.connected:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Hand on more."""
        self._paused = False
        self._expect_data()
        if self.connected:
            self.transport.resumeProducing()
        self._read()

    def stopProducing(self) -> None:
        """Close at once."""
        self.abort()

    # Parsing

    def _send(self) -> None:
        data = self._http.send(self._request)
        self.transport.write(data + self._http.send(h11.EndOfMessage()))

    def _read(self) -> None:
        """Hand on what has been received, until the consumer pauses this."""
        if self._reading:  # called by the consumer, of which one call is under way
            return
        self._reading = True
        try:
            while not (self._paused or self._ended):
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            self._end(Failure(DownloadFailed(self._fault(error))))
        except ValueError:  # of h11 0.14, for a length with more digits than Python converts
            self._end(Failure(DownloadFailed("its answer is not HTTP (its length)")))
        finally:
            self._reading = False

    def _take(self, event: object) -> None:
        match event:
            case h11.InformationalResponse():
                self._interim += 1
                if self._interim > MAX_INTERIM:
                    what = f"it sent more than {MAX_INTERIM} interim answers (1xx)"
                    self._end(Failure(DownloadFailed(what)))
            case h11.Response():
                self.pauseProducing()
                self.head.callback(event)
            case h11.Data():
                self._received += len(event.data)
                self._pieces += 1
                if are_too_small(self._pieces, self._received):
                    self._end(Failure(DownloadFailed("it is sent in pieces of a few bytes")))
                elif self._most is not None and self._received > self._most:
                    self._end(Failure(DownloadFailed(f"it sent more than {self._most} bytes")))
                else:
                    self._consumer.write(bytes(event.data))
            case h11.EndOfMessage():
                self._end(None)
            case _:  # the connection is closed, and there was no answer
                self._end(
                    self._lost
                    or Failure(DownloadFailed("it closed the connection without an answer"))
                )

    def _fault(self, error: h11.RemoteProtocolError) -> str:
        if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            return f"the headers of its answer are longer than {MAX_HEAD // 1024} KiB"
        if self._lost is None:
            return f"its answer is not HTTP ({error})"
        if not self.head.called:
            return "it closed the connection without an answer of HTTP"
        return "the connection ended before the file did"

    # Ending

    def _end(self, failure: Failure | None) -> None:
        """Close, and tell whoever waits: None is the end of the body."""
        if self._ended:
            return
        self._ended = True
        self._failure = failure
        self._expect_silence()
        if self.connected:
            self.transport.abortConnection()
        if self._consumer is not None:
            self._consumer.unregisterProducer()
        waiting: Deferred[Any] | None = self._body if self.head.called else self.head
        if waiting is not None and not waiting.called:
            waiting.callback(None) if failure is None else waiting.errback(failure)

    def _expect_data(self) -> None:
        self._expect_silence()
        self._heard = 0
        if not self._ended:
            self._silence = self._reactor.callLater(self._idle, self._time_out)

    def _expect_silence(self) -> None:
        if self._silence is not None and self._silence.active():
            self._silence.cancel()
        self._silence = None

    def _time_out(self) -> None:
        self._silence = None
        within = readable_time(self._idle)
        if self._heard:
            what = f"it sent less than {self._least / 1024:.0f} KiB in {within}"
        else:
            what = f"it sent nothing for {within}"
        self.abort(DownloadFailed(what))

    @property
    def _least(self) -> float:
        return LEAST_PACE * self._idle

    def _tcp(self) -> Any:
        """Return the TCP transport, below TLS where there is TLS."""
        return self.transport if self._certificate is None else self.transport.transport
