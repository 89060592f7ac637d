"""An upload on its way to a port of loopback, and who has a certificate for that."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.threadio.reactor import Waits
from tests.transfers.peers import pem
from wingsd.threadio import Outflow, OutflowClosed
from wingsd.transfers.peer.client import PeerClient
from wingsd.util.net import ServerCertificate

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
