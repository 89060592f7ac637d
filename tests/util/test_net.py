"""A listening port of a process that can open nothing more."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from wingsd.errors import ConfigError
from wingsd.util.net import ACCEPTS, PAUSE, ServerCertificate, limit_accepts


class Full:
    """A listening socket that cannot give the connections that it has, as long as `error` is."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.error = errno.EMFILE

    def accept(self) -> Any:
        if self.error:
            raise OSError(self.error, "no more")
        return self._real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def port() -> Iterator[Any]:
    """Yield one that rests when it is full, which it is, and for which a client waits."""
    reactor = MemoryReactorClock()
    port: Any = Port(
        0, Factory.forProtocol(Protocol), 4 * ACCEPTS, interface="127.0.0.1", reactor=reactor
    )
    port.startListening()
    limit_accepts(port, reactor)
    port.socket = Full(port.socket)
    with socket.create_connection(("127.0.0.1", port.getHost().port)):
        yield port
    if port.connected:
        port.stopListening()
        reactor.advance(0)
    for connection in reactor.getReaders():
        connection.connectionLost(Failure(ConnectionDone()))


def is_told(port: Any) -> bool:
    return port in port.reactor.getReaders()


@pytest.mark.promise("exhausted-descriptors-recover")
@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_a_full_process_pauses_accepting(port: Any, error: int) -> None:
    port.socket.error = error
    for _ in range(3):
        assert is_told(port)
        port.doRead()
        assert not is_told(port)
        port.reactor.advance(PAUSE)
    assert is_told(port)


def test_a_port_closed_during_the_pause_stays_closed(port: Any) -> None:
    port.doRead()
    port.stopListening()
    port.reactor.advance(0)
    port.reactor.advance(PAUSE)
    assert not port.connected
    assert not is_told(port)


@pytest.mark.promise("floods-delay-others-a-second")
def test_few_connections_are_taken_in_one_turn(port: Any) -> None:
    port.socket.error = 0
    address = ("127.0.0.1", port.getHost().port)
    others = [socket.create_connection(address) for _ in range(2 * ACCEPTS)]
    for turn in (1, 2):
        port.doRead()
        assert port.sessionno == turn * ACCEPTS
    for other in others:
        other.close()


# The certificate files, good and bad. How they serve is shown in tests/daemon


@pytest.fixture
def pem(tmp_path: Path) -> tuple[Path, Path]:
    issued = trustme.CA().issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return cert, key


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("content", [None, b"", b"not a PEM file"])
def test_a_bad_file_is_named(pem: tuple[Path, Path], which: int, content: bytes | None) -> None:
    bad = pem[which]
    bad.unlink() if content is None else bad.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        ServerCertificate(*map(str, pem))
    assert str(bad) in str(caught.value)
    assert ("api.ssl.cert", "api.ssl.key")[which] in str(caught.value)


@pytest.mark.promise("node-token-does-not-open-the-machine")
@pytest.mark.parametrize("which", [0, 1])
def test_a_fifo_and_a_huge_file_are_refused_and_not_read(
    pem: tuple[Path, Path], which: int
) -> None:
    bad = pem[which]
    bad.unlink()
    os.mkfifo(bad)
    with pytest.raises(ConfigError, match="it is not a regular file"):
        ServerCertificate(*map(str, pem))
    bad.unlink()
    bad.touch()
    os.truncate(bad, 1 << 40)
    with pytest.raises(ConfigError, match="it is larger than 1 MiB"):
        ServerCertificate(*map(str, pem))


def test_a_key_of_another_certificate_is_refused(pem: tuple[Path, Path]) -> None:
    pem[1].write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    with pytest.raises(ConfigError, match=r"api\.ssl\.key: .*not the key of"):
        ServerCertificate(*map(str, pem))


def test_a_key_with_a_passphrase_is_refused_and_nobody_asked(pem: tuple[Path, Path]) -> None:
    key = load_pem_private_key(pem[1].read_bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    pem[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    with pytest.raises(ConfigError, match=r"api\.ssl\.key: .*passphrase"):
        ServerCertificate(*map(str, pem))


def test_a_bad_file_at_reload_leaves_the_certificate_in_use(pem: tuple[Path, Path]) -> None:
    certificate = ServerCertificate(*map(str, pem))
    before = certificate._context
    pem[0].write_bytes(b"")
    with pytest.raises(ConfigError):
        certificate.reload(*map(str, pem))
    assert certificate._context is before


class Pair:
    """A server's connection as `ServerCertificate` makes it, and a client's, in memory."""

    def __init__(self, pem: tuple[Path, Path], offers: SSL.Context | None = None) -> None:
        certificate = ServerCertificate(*map(str, pem))
        protocol: Any = None
        self.server = certificate.serverConnectionForTLS(protocol)
        self.client = SSL.Connection(offers or SSL.Context(SSL.TLS_METHOD), None)
        self.server.set_accept_state()
        self.client.set_connect_state()
        for _ in range(3):
            for one, other in ((self.client, self.server), (self.server, self.client)):
                with suppress(SSL.WantReadError):
                    one.do_handshake()
                self.carry(one, other)

    def carry(self, one: SSL.Connection, other: SSL.Connection, damage: int = 0) -> None:
        """Bring what `one` has written to `other`, its last `damage` bytes turned over."""
        data = b""
        with suppress(SSL.WantReadError):
            while True:
                data += one.bio_read(1 << 20)
        if data:
            whole = len(data) - damage
            other.bio_write(data[:whole] + bytes(byte ^ 255 for byte in data[whole:]))

    def send(self, *records: bytes, damage: int = 0) -> None:
        """Have the client write these records, and all of them arrive at once."""
        for record in records:
            assert self.client.send(record) == len(record)
        self.carry(self.client, self.server, damage)

    def receive(self) -> list[bytes]:
        """Return what the server reads until it would have to wait."""
        read = []
        with suppress(SSL.WantReadError):
            while True:
                read.append(self.server.recv(1 << 15))
        return read


FULL = bytes(range(256)) * 64


def test_of_what_the_client_offers_the_least_work_is_taken(pem: tuple[Path, Path]) -> None:
    assert Pair(pem).server.get_cipher_name() == "TLS_AES_128_GCM_SHA256"


def tls12(suite: bytes) -> SSL.Context:
    """Return what a client offers that speaks TLS 1.2 by one cipher suite."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(suite)
    return context


@pytest.mark.parametrize(
    "suite", [b"ECDHE-ECDSA-AES128-GCM-SHA256", b"ECDHE-ECDSA-CHACHA20-POLY1305"]
)
def test_tls_12_with_aead_is_accepted(pem: tuple[Path, Path], suite: bytes) -> None:
    assert Pair(pem, tls12(suite)).server.get_cipher_name() == suite.decode()


@pytest.mark.promise("tls-is-modern")
@pytest.mark.parametrize("suite", [b"ECDHE-ECDSA-AES128-SHA256", b"ECDHE-ECDSA-AES256-SHA"])
def test_tls_12_with_a_cbc_suite_is_refused(pem: tuple[Path, Path], suite: bytes) -> None:
    with pytest.raises(SSL.Error, match="no shared cipher"):
        Pair(pem, tls12(suite))


def test_full_records_in_a_row_come_as_one_of_bounded_size(pem: tuple[Path, Path]) -> None:
    pair = Pair(pem)
    pair.send(*[FULL] * 72, b"end")
    assert [len(data) for data in pair.receive()] == [512 << 10, 512 << 10, (128 << 10) + 3]
    pair.send(FULL, b"short", FULL)
    assert pair.receive() == [FULL + b"short", FULL]


def test_damage_is_reported_after_earlier_data(pem: tuple[Path, Path]) -> None:
    pair = Pair(pem)
    pair.send(FULL, FULL, damage=20)
    assert pair.server.recv(1 << 15) == FULL
    with pytest.raises(SSL.Error, match="bad record mac"):
        pair.server.recv(1 << 15)
