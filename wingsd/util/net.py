"""Sockets and TLS: keepalive, TCP_INFO, limits for accepting, and the node's certificate.

TLS is 1.2 and above with AEAD ciphers only. The certificate is read again on demand; connections
in progress keep the previous one.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL._util import lib
from OpenSSL.crypto import PKey
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from wingsd.errors import ConfigError
from wingsd.util.tls_records import GatheringConnection

#: Seconds until the first probe of an idle connection, between two probes, and the number of
#: probes without answer that break it: two minutes in all.
IDLE = 60
INTERVAL = 15
PROBES = 4


#: Pieces of a body that may be of any size, and the average bytes of those beyond. A piece is a
#: chunk, or a record of TLS: one of a byte takes as much work as one of thousands.
FREE_PIECES, LEAST_PIECE = 16_384, 256


def are_too_small(pieces: int, size: int) -> bool:
    """Return whether a body of `size` bytes so far came in too many pieces."""
    return pieces > FREE_PIECES + size // LEAST_PIECE


def keep_alive(connection: socket.socket) -> None:
    """Enable TCP keepalive: it finds a peer that vanished, after a power cut for example.

    Linux applies the options of a listening socket to the connections that it accepts.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


# The start of `struct tcp_info` (linux/tcp.h), which the kernel only ever extends at its end:
# tcpi_state, tcpi_probes, tcpi_unacked, tcpi_last_ack_recv in milliseconds, tcpi_bytes_acked.
_LAYOUT = struct.Struct("=B2xB20xI28xI60xQ")
# tcp_states.h.
_ESTABLISHED = 1


@attrs.frozen
class TcpInfo:
    """The state of a TCP connection.

    `unacknowledged` counts the segments not acknowledged, `probes` the window or keepalive probes
    in a row without answer; `silence` is the seconds since the last acknowledgement, and
    `acknowledged` the bytes that the peer has acknowledged since the beginning.
    """

    established: bool
    probes: int
    unacknowledged: int
    silence: float
    acknowledged: int = 0


def below_tls(transport: Any) -> Any:
    """Return the transport that carries TLS, or the one that was given."""
    return getattr(transport, "transport", transport)


def tcp_info(connection: socket.socket) -> TcpInfo:
    """Return the state of a connection. Raises `OSError` for one that is not TCP."""
    found = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size)
    state, probes, unacknowledged, milliseconds, acknowledged = _LAYOUT.unpack(found)
    return TcpInfo(
        state == _ESTABLISHED, probes, unacknowledged, milliseconds / 1000, acknowledged
    )


#: Connections accepted in one turn of the reactor.
ACCEPTS = 32

#: Seconds of a pause. Connections that wait meanwhile stay in the socket's queue.
PAUSE = 0.5


def limit_accepts(port: Any, reactor: IReactorTime) -> None:
    """Let `port`, a listening port of Twisted, accept at most `ACCEPTS` connections a turn.

    Each new connection costs a TLS handshake, a millisecond or more. Twisted accepts a hundred or
    more in one turn of the reactor, in which all other clients wait.

    When it could accept none, it pauses for `PAUSE` seconds: it is readable, but descriptors or
    memory are used up. Twisted then closes a spare descriptor (its issue 5368) to accept and close
    a waiting connection. If another thread takes that descriptor first, it is lost, and the port
    stays readable in each turn: a whole core, and thousands of log lines a second (Twisted 24.11
    and 26.10).
    """
    accept = port.doRead

    def accept_or_pause() -> None:
        port.numberAccepts = ACCEPTS  # Twisted raises it
        taken = port.sessionno  # the number that the next connection gets
        accept()
        if port.sessionno == taken and port.connected:
            port.stopReading()
            reactor.callLater(PAUSE, resume)

    def resume() -> None:
        if port.connected and not port.disconnecting:
            port.startReading()

    port.doRead = accept_or_pause


#: The cipher suites of TLS 1.2, as OpenSSL writes them: forward secrecy and authenticated
#: encryption (AEAD). Twisted's default has CBC suites and RSA key exchange as well.
_TLS12_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: Those of TLS 1.3, all of which are AEAD.
_TLS13_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"


def tls_options(**arguments: Any) -> CertificateOptions:
    """Return Twisted's options for TLS 1.2 and above, with AEAD cipher suites alone.

    `arguments` are further ones of `CertificateOptions`.
    """
    ciphers = AcceptableCiphers.fromOpenSSLCipherString(_TLS12_SUITES)
    return CertificateOptions(
        raiseMinimumTo=TLSVersion.TLSv1_2, acceptableCiphers=ciphers, **arguments
    )


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate:
    """The certificate of two PEM files. Connections made after `reload` use the new one."""

    def __init__(self, cert: str, key: str) -> None:
        """Raise `ConfigError` when the files are not a certificate (chain) and its key."""
        self.reload(cert, key)

    def reload(self, cert: str, key: str) -> None:
        """Read these files. On `ConfigError` the previous certificate stays in use."""
        context = tls_options().getContext()
        # AES with 128 bits before 256, as Go and so Wings does: it is faster. Older versions of
        # pyOpenSSL lack the function. If OpenSSL refuses, its own order stays.
        lib.SSL_CTX_set_ciphersuites(context._context, _TLS13_SUITES)
        _take("api.ssl.cert", cert, context.use_certificate_chain_file)
        _take("api.ssl.key", key, lambda path: context.use_privatekey(_private_key(path)))
        self._context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return a new connection with the certificate as last read."""
        return GatheringConnection(self._context, None)


#: Bytes of a file with a certificate or key.
_MAX_PEM = 1 << 20


def _take(option: str, path: str, take: Callable[[str], None]) -> None:
    try:
        _check_regular(path)
        with open(path, "rb"):  # OpenSSL does not give the reason
            take(path)
    except (OSError, ValueError, SSL.Error) as error:
        raise ConfigError(f"{option}: {path} cannot be used: {_why(error)}") from error


def _check_regular(path: str) -> None:
    """Refuse what would be waited for or read without end, such as a FIFO or a device."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")
    if found.st_size > _MAX_PEM:
        raise ValueError(f"it is larger than {_MAX_PEM >> 20} MiB")


def _private_key(path: str) -> PKey:
    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
        return PKey.from_cryptography_key(key)  # type: ignore[arg-type]  # of a kind it takes
    except TypeError as error:
        raise ValueError("it is encrypted with a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it holds no private key in PEM form") from error


def _why(error: Exception) -> str:
    if isinstance(error, SSL.Error):
        reasons = [reason for _, _, reason in error.args[0] if reason] if error.args else []
        if "key values mismatch" in reasons:
            return "it is not the key of the certificate"
        return "; ".join(reasons) or "it holds no certificate in PEM form"
    if isinstance(error, FileNotFoundError):
        return (
            "it does not exist, or the service may not see it, as everything below /home and /root"
        )
    return (isinstance(error, OSError) and error.strerror) or str(error)
