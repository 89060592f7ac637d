"""Records of TLS, written together: each byte arrives, also what is written too early."""

from __future__ import annotations

import ssl
from pathlib import Path
from socket import create_connection
from typing import Any

import pytest
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from wingsd.util.net import ServerCertificate
from wingsd.util.tls_records import GATHERED, InputScheduler, tls_factory

reactor: Any = installed_reactor
RECORD = 1 << 14


class Writer(Protocol):
    """Writes these pieces when it is connected, before the handshake, and then closes."""

    pieces: tuple[bytes, ...] = ()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        for piece in self.pieces:
            transport.write(piece)
        transport.loseConnection()


def received(port: int, ca: Path) -> bytes:
    context = ssl.create_default_context(cafile=str(ca))
    with (
        create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
    ):
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 1),
        (RECORD,),
        (RECORD + 1, RECORD - 1),
        (GATHERED,),
        (GATHERED + 1, 1, GATHERED - 1),
        (5 * GATHERED + 7,),
    ],
)
async def test_writes_of_any_size_arrive(sizes: tuple[int, ...], tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, pem = tmp_path / "ca.pem", str(tmp_path / "node.pem")
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    pieces = tuple(bytes([number]) * size for number, size in enumerate(sizes))
    factory = Factory.forProtocol(type("Piecewise", (Writer,), {"pieces": pieces}))
    certificate = ServerCertificate(pem, pem)
    tls = tls_factory(certificate, factory, InputScheduler(reactor))
    port = reactor.listenTCP(0, tls, interface="127.0.0.1")
    try:
        assert await deferToThread(received, port.getHost().port, ca) == b"".join(pieces)
    finally:
        await port.stopListening()
