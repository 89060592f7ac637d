"""TLS records of a node's connections, many of them in each call: reading and writing.

Twisted reads and writes single records, of 16 KiB at most, and each call costs the same for any
size. pyOpenSSL itself allocates memory for each record and copies it once more, so OpenSSL is
called by pyOpenSSL's bindings, as Twisted does for functions that pyOpenSSL lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi, lib, no_zero_allocator
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory

__all__ = ["GATHERED", "GatheringConnection", "GatheringTransport", "tls_factory"]

_RECORD = 16 << 10  # bytes of the largest TLS record
GATHERED = 512 << 10
"""The most bytes of full records that are returned together."""

#: The buffer for records, shared by all connections: only the reactor's thread reads and writes.
_SPACE = GATHERED + _RECORD
_space = no_zero_allocator("char[]", _SPACE)


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


class GatheringTransport(BufferingTLSTransport):
    """Encrypts a large write as a whole, and gives its records to the socket together.

    Its connections are `GatheringConnection`s.
    """

    # Twisted has no types for these.
    _tlsConnection: Any
    _flushSendBIO: Callable[[], None]

    def _write(self, data: bytes) -> None:
        """Encrypt and send; called by Twisted for each write, and for what had to wait."""
        for at in range(0, len(data), GATHERED):
            block = data[at : at + GATHERED]
            if len(block) > _RECORD and not (self._lostTLSConnection or self._appSendBuffer):
                done = self._tlsConnection.encrypt(block)
                if done:
                    self._flushSendBIO()
                block = block[done:]
            if block:
                super()._write(block)  # type: ignore[no-untyped-call]


def tls_factory(certificate: Any, factory: Any) -> TLSMemoryBIOFactory:
    """Return the factory of TLS connections for `factory`, with this `ServerCertificate`."""
    made = TLSMemoryBIOFactory(certificate, False, factory)
    made.protocol = GatheringTransport
    return made
