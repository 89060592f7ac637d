"""Other nodes that do what a script says, uploads to them, and certificates."""

from __future__ import annotations

import ctypes
import hashlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.threadio.reactor import Waits
from wingsd.threadio import Outflow, OutflowClosed
from wingsd.transfers.peer.client import PeerClient
from wingsd.util.net import ServerCertificate

#: Seconds, so that a test that goes wrong ends.
TIMEOUT = 60
SO_ATTACH_FILTER = 26
#: A socket filter of one instruction (BPF_RET | BPF_K): of each packet that comes, keep nothing.
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
#: Bytes that a server without bounds tries to send.
ENDLESS = 64 * 1024 * 1024
#: What of it the kernel's buffers on both sides may hold: the most that Linux gives to a socket.
BUFFERS = 8 * 1024 * 1024
Script = Callable[[socket.socket], Any]


class Peer:
    """Listens on loopback for one connection, over which a script speaks in a thread.

    `outcome` gives what the script returns or raises.
    """

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self.port: int = self._listener.getsockname()[1]
        self.outcome: Deferred[Any] = deferToThread(self._serve)

    def _serve(self) -> Any:
        with self._listener:
            connection, _ = self._listener.accept()
        connection.settimeout(TIMEOUT)
        # As servers do: else an answer may wait for an acknowledgement, and be lost by a close.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            if self._context is None:
                return self._script(connection)
            with self._context.wrap_socket(connection, server_side=True) as secured:
                return self._script(secured)


def read_head(connection: socket.socket) -> bytes:
    """Return a request's head, read to its last byte."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, f"it ended after {head!r}"
        head += byte
    return head


def chunks(connection: socket.socket) -> Iterator[bytes]:
    """Yield a chunked body's chunks, to its last byte."""
    with connection.makefile("rb") as stream:
        while size := int(stream.readline(), 16):
            yield stream.read(size)
            assert stream.read(2) == b"\r\n"
        assert stream.readline() == b"\r\n"


def goes_on(first: bytes, block: bytes) -> Script:
    """Answer with `first`, then send `block` again and again; return how many bytes were taken.

    Those in the kernel's buffers count as taken.
    """

    def script(connection: socket.socket) -> int:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        read_head(connection)
        sent = 0
        try:
            connection.sendall(first)
            while sent < ENDLESS:
                connection.sendall(block)
                sent += len(block)
        except OSError:
            pass
        return sent

    return script


def fall_silent(peer: socket.socket) -> None:
    """Have the peer's kernel ignore whatever comes, as one without power does."""
    instructions = ctypes.create_string_buffer(DROP_ALL)
    program = struct.pack("HL", 1, ctypes.addressof(instructions))
    peer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return what a TLS server with that certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@contextmanager
def closed_port() -> Iterator[int]:
    """Give a port of loopback at which nothing listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # taken, but it does not listen
        yield holder.getsockname()[1]


def pem(ca: trustme.CA, path: Path) -> Path:
    """Write an authority's certificate into a file and return that."""
    ca.cert_pem.write_to_path(str(path))
    return path


# An upload on its way to a port of loopback, and who has a certificate for that


reactor: Any = installed_reactor
TYPE = "multipart/form-data; boundary=b"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
PIECE = hashlib.shake_128(b"archive").digest(100_000)


def answer(status: str, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def write(body: Outflow, pieces: int) -> str:
    """Write so many pieces, in a thread; return their SHA-256, or "closed"."""
    digest = hashlib.sha256()
    try:
        for number in range(pieces):
            piece = number.to_bytes(4) + PIECE
            digest.update(piece)
            body.write(piece)
        body.finish()
    except OutflowClosed:
        return "closed"
    return digest.hexdigest()


class Sending:
    """An upload on its way to a port of loopback, and the thread that writes it."""

    def __init__(self, port: int, *, pieces: int, scheme: str = "http", trust: str = "") -> None:
        self.body = Outflow(reactor)
        self.body._changed = self.waits = Waits()
        url = f"{scheme}://127.0.0.1:{port}/api/transfers"
        destination = PeerClient(url, "Bearer t", reactor, trust)
        self.upload = destination.upload(TYPE, self.body, 120)
        self.written: Deferred[str] = deferToThread(write, self.body, pieces)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("127.0.0.1")


@pytest.fixture
def tls(
    ca: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> tuple[ServerCertificate, str]:
    """A certificate for 127.0.0.1, and who trusts it."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(str(key))
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    return ServerCertificate(str(cert), str(key)), str(pem(ca, tmp_path / "ca.pem"))
