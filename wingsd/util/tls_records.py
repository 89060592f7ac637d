"""The TLS records of connections: many in each call if they are full, few if they are small.

Twisted reads and writes single records, of 16 KiB at most, and each call costs the same for any
size. pyOpenSSL itself allocates memory for each record and copies it once more, so OpenSSL is
called by pyOpenSSL's bindings, as Twisted does for functions that pyOpenSSL lacks.

A record that carries a KeyUpdate or one byte costs OpenSSL up to 12 microseconds, so that a client
without a token could keep the reactor busy with little traffic. Connections therefore decrypt
`RECORDS` records in a turn, and one with many records and little data is ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from OpenSSL import SSL
from OpenSSL._util import ffi, lib, no_zero_allocator
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from wingsd.util.reactor import Timer

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
        self._turn = Timer(reactor)

    def seconds(self) -> float:
        """Return the time of the reactor's clock."""
        return self._reactor.seconds()

    def add(self, connection: BufferedConnection) -> None:
        """Let a connection process one piece in the next turn, also when called repeatedly."""
        self._waiting[connection] = None
        if not self._turn.is_running:
            self._turn.start(0, self._run)

    def remove(self, connection: BufferedConnection) -> None:
        """Remove a connection that is closed."""
        self._waiting.pop(connection, None)
        if not self._waiting:
            self._turn.cancel()

    def _run(self) -> None:
        begun = self._reactor.seconds()
        for _ in range(len(self._waiting)):
            if not self._waiting or self._reactor.seconds() - begun > TURN_SECONDS:
                break
            connection, _ = self._waiting.popitem(last=False)
            connection.process_piece()
        if self._waiting and not self._turn.is_running:
            self._turn.start(0, self._run)


class ReadControl:
    """Pauses a transport while there is at least one reason for it.

    It replaces the channel's network producer, which twisted.web pauses and resumes, too.
    """

    def __init__(self, transport: Any) -> None:
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


_RECORD = 16 << 10  # bytes of the largest TLS record
#: The most bytes of full records that are returned together.
GATHERED = 512 << 10
#: Records of a connection that are decrypted in one turn, and one more for each `LARGE_RECORD`.
RECORDS = 32
#: Bytes of a record that counts as large.
LARGE_RECORD = 1024
#: The most records that a connection may have in excess of what it has earned.
SPARE = 1024
#: Bytes, with those of encryption, that earn a connection one record.
EARNED_BY = 64
_EARNED_PER_SECOND = 64
_HEADER = 5  # bytes in front of each record; the last two are the length of what follows

#: The buffer for records, shared by all connections: only the reactor's thread reads and writes.
_SPACE = GATHERED + _RECORD
_space = no_zero_allocator("char[]", _SPACE)

# Why a connection is not read from; see `ReadControl`.
_APPLICATION = "the protocol does not read"
_RECORDS_WAIT = "records wait to be decrypted"


class GatheringConnection(SSL.Connection):
    """A connection by which consecutive full records are read, and encrypted, together."""

    _failure: SSL.Error | None = None

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """Return one record, or if it is full, further ones up to `GATHERED` bytes.

        `bufsiz` is ignored: Twisted accepts more.
        """
        if self._failure is not None:
            raise self._failure
        if flags:
            return super().recv(bufsiz, flags)
        size = taken = self._taken(0)
        while taken == _RECORD and size < GATHERED:
            try:
                taken = self._taken(size)
            except SSL.Error as failure:
                self._keep(failure)
                break
            size += taken
        return bytes(ffi.buffer(_space, size))

    def bio_read(self, bufsiz: int) -> bytes:
        """Return all encrypted bytes, up to the size of the shared buffer.

        `bufsiz` is ignored: Twisted accepts more. Raises `SSL.WantReadError` when there are none.
        """
        size: int = lib.BIO_read(self._from_ssl, _space, _SPACE)
        if size <= 0:
            self._handle_bio_errors(self._from_ssl, size)
        return bytes(ffi.buffer(_space, size))

    def encrypt(self, data: bytes) -> int:
        """Encrypt `data` as full records; return how much of it was, which may be none.

        The rest is to be given to `send`, which then raises why.
        """
        begin = ffi.from_buffer(data)
        done = 0
        while done < len(data):
            size = lib.SSL_write(self._ssl, begin + done, min(_RECORD, len(data) - done))
            if size <= 0:
                lib.ERR_clear_error()
                break
            done += size
        return done

    def _taken(self, at: int) -> int:
        """Read the next record, or the rest of one, into the buffer at this offset."""
        size: int = lib.SSL_read(self._ssl, _space + at, _RECORD)
        if size <= 0:
            self._raise_ssl_error(self._ssl, size)
        return size

    def _keep(self, failure: SSL.Error) -> None:
        """Keep an error for the next call. OpenSSL reports an error of a connection once."""
        if not isinstance(failure, SSL.WantReadError):
            self._failure = failure


class _NoWrites:
    """Discards what is written to a lost connection."""

    def write(self, data: bytes) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class GatheringTransport(BufferingTLSTransport):
    """Decrypts a few records a turn, and encrypts a large write as a whole.

    The first records of a read are decrypted at once, the others in turns, and the connection is
    not read from meanwhile. The connections of OpenSSL are `GatheringConnection`s.
    """

    factory: _GatheringFactory
    # Twisted has no types for these.
    transport: Any
    wrappedProtocol: Any
    _tlsConnection: Any
    _aborted: bool
    _flushSendBIO: Callable[[], None]
    _producer: Any
    _aggregator: Any
    #: Bytes that are not decrypted yet, and how many more of them belong to the last record.
    _unread = b""
    _open_record = 0
    _spare: float = SPARE
    _earned_at = 0.0

    def makeConnection(self, transport: Any) -> None:
        """Begin the handshake."""
        self._reading = ReadControl(transport)
        self._earned_at = self.factory.input.seconds()
        super().makeConnection(transport)  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        """Decrypt some of it now, unless earlier data waits."""
        waits, self._unread = self._has_record, self._unread + data
        if not waits:
            self.process_piece()

    def process_piece(self) -> None:
        """Decrypt the next records."""
        if self._reading.is_paused_for(_APPLICATION):
            return
        end = self._next_piece()
        piece, self._unread = self._unread[:end], self._unread[end:]
        if self._spare < 0:
            self.abortConnection()  # type: ignore[no-untyped-call]
        elif piece:
            super().dataReceived(piece)  # type: ignore[no-untyped-call]
        self._process_later()

    def pauseProducing(self) -> None:
        """Stop reading, for the protocol."""
        self._reading.pause(_APPLICATION)

    def resumeProducing(self) -> None:
        """Read again, for the protocol."""
        self._reading.resume(_APPLICATION)
        self._process_later()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Discard what is not decrypted, and the protocol."""
        self._unread = b""
        self.factory.input.remove(self)
        super().connectionLost(reason)
        # Cycles; the second one is of Twisted 24.11.
        self._producer = None
        self._aggregator = _NoWrites()
        self.write = self._aggregator.write  # type: ignore[method-assign]

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """Close. Called by Twisted, whose frame has the failure, which has the frame.

        In that cycle, connections that are lost would be kept until the garbage is collected.
        """
        if reason is not None and reason.value is not None:
            reason.tb = reason.value.__traceback__ = None
        super()._tlsShutdownFinished(reason)  # type: ignore[no-untyped-call]

    @property
    def _has_record(self) -> bool:
        """Return whether part of a record waits, and not just part of its header."""
        return len(self._unread) >= (1 if self._open_record else _HEADER)

    def _process_later(self) -> None:
        if self._has_record and not self._aborted:
            self._reading.pause(_RECORDS_WAIT)
            self.factory.input.add(self)
        else:
            self._reading.resume(_RECORDS_WAIT)

    def _next_piece(self) -> int:
        """Return how many bytes belong to the next records, and count these."""
        data, at, records = self._unread, self._open_record, 0
        last = len(data) - _HEADER
        while at <= last and records < RECORDS + at // LARGE_RECORD:
            at += _HEADER + (data[at + 3] << 8 | data[at + 4])
            records += 1
        end = min(at, len(data))
        self._open_record = at - end
        self._spare = min(self._spare + end / EARNED_BY, SPARE) - records
        if self._spare < 0:
            now = self.factory.input.seconds()
            self._spare += min((now - self._earned_at) * _EARNED_PER_SECOND, SPARE)
            self._earned_at = now
        return end

    def _write(self, data: bytes) -> None:
        """Encrypt and send; called by Twisted for each write, and for what had to wait."""
        # OpenSSL keeps memory for the largest block that a connection has sent.
        size = GATHERED if len(data) >= GATHERED else 2 * _RECORD
        for at in range(0, len(data), size):
            block = data[at : at + size]
            if len(block) > _RECORD and not (self._lostTLSConnection or self._appSendBuffer):
                done = self._tlsConnection.encrypt(block)
                if done:
                    self._flushSendBIO()
                block = block[done:]
            if block:
                super()._write(block)  # type: ignore[no-untyped-call]


class _GatheringFactory(TLSMemoryBIOFactory):
    """The factory of TLS connections; their input is processed by `input`."""

    protocol = GatheringTransport
    input: InputScheduler


def tls_factory(certificate: Any, factory: Any, scheduler: InputScheduler) -> TLSMemoryBIOFactory:
    """Return the factory of TLS connections for `factory`, with this `ServerCertificate`."""
    made = _GatheringFactory(certificate, False, factory)
    made.input = scheduler
    return made
