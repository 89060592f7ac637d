"""Bounds on what a client of TLS costs: records in a turn, small records, and memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tests.http.talk import turn
from tests.support.record_client import RecordClient
from wingsd.util.net import ServerCertificate
from wingsd.util.tls_records import (
    EARNED_BY,
    GATHERED,
    RECORDS,
    SPARE,
    InputScheduler,
    tls_factory,
)

pytestmark = pytest.mark.promise("floods-delay-others-a-second")


class Taker(Protocol):
    """Keeps what it receives."""

    received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Transport(StringTransport):
    aborted = False
    longest = 0

    def write(self, data: bytes) -> None:
        self.longest = max(self.longest, len(data))
        super().write(data)

    def abortConnection(self) -> None:
        self.aborted = True


class Producer:
    def pauseProducing(self) -> None:
        pass

    resumeProducing = stopProducing = pauseProducing


class Talk:
    """A connection in memory, after the handshake. `server` is its transport at the node."""

    def __init__(self, certificate: ServerCertificate) -> None:
        self.clock: Any = Clock()
        self.taker, self.transport, self.client = Taker(), Transport(), RecordClient()
        factory: Any = Factory.forProtocol(lambda: self.taker)
        tls = tls_factory(certificate, factory, InputScheduler(self.clock))
        self.server: Any = tls.buildProtocol(None)
        self.server.makeConnection(self.transport)
        answer = b""
        while not self.client.is_ready:
            self.server.dataReceived(self.client.handshake(answer))
            self.clock.advance(0)
            answer = self.transport.value()
            self.transport.clear()

    @property
    def reads(self) -> bool:
        return self.transport.producerState == "producing"


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    pem = str(tmp_path / "node.pem")
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(pem)
    return Talk(ServerCertificate(pem, pem))


def test_so_many_records_are_decrypted_in_a_turn(talk: Talk) -> None:
    sent = [bytes([number % 256]) for number in range(3 * RECORDS + 5)]
    talk.server.dataReceived(b"".join(map(talk.client.data, sent)))
    for turns in range(1, 4):
        assert talk.taker.received == b"".join(sent[: turns * RECORDS])
        assert not talk.reads
        turn(talk.clock)
    assert talk.taker.received == b"".join(sent)
    assert talk.reads


def test_key_updates_count_as_records(talk: Talk) -> None:
    updates = b"".join(talk.client.key_update() for _ in range(2 * RECORDS))
    talk.server.dataReceived(updates + talk.client.data(b"x"))
    turn(talk.clock)
    assert (talk.taker.received, talk.reads) == (b"", False)
    turn(talk.clock)
    assert (talk.taker.received, talk.reads) == (b"x", True)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 100, 16_411])
def test_records_arrive_in_pieces_of_any_size(talk: Talk, size: int) -> None:
    sent = [b"a" * 16_384, b"b", b"c" * 1000]
    data = b"".join(map(talk.client.data, sent))
    for at in range(0, len(data), size):
        talk.server.dataReceived(data[at : at + size])
    assert talk.taker.received == b"".join(sent)
    assert talk.reads


def test_nothing_is_decrypted_while_the_protocol_does_not_read(talk: Talk) -> None:
    talk.server.dataReceived(b"".join(map(talk.client.data, [b"x"] * (3 * RECORDS))))
    talk.server.pauseProducing()
    talk.clock.advance(0)
    assert (talk.taker.received, talk.reads) == (b"x" * RECORDS, False)
    talk.server.resumeProducing()
    assert not talk.reads
    talk.clock.advance(0)
    assert (talk.taker.received, talk.reads) == (b"x" * (3 * RECORDS), True)


def test_records_of_a_handshake_are_taken_in_turns_too(talk: Talk) -> None:
    other: Any = talk.server.factory.buildProtocol(None)
    transport = Transport()
    other.makeConnection(transport)
    hello = RecordClient().handshake()[5:]
    pieces = [hello[at : at + 2] for at in range(0, len(hello), 2)]
    other.dataReceived(b"".join(b"\x16\x03\x01\x00" + bytes([len(p)]) + p for p in pieces))
    for _ in range(len(pieces) // RECORDS):
        assert (transport.value(), transport.producerState) == (b"", "paused")
        turn(talk.clock)
    assert transport.value()
    assert transport.producerState == "producing"


@pytest.mark.parametrize("update", [True, False])
def test_many_records_with_little_data_end_the_connection(talk: Talk, update: bool) -> None:
    taken = 0
    while not talk.transport.aborted:
        record = talk.client.key_update() if update else talk.client.data(b"x")
        talk.server.dataReceived(record)
        talk.clock.advance(0)
        taken += 1
        assert taken <= 2 * SPARE
    assert taken > SPARE


@pytest.mark.parametrize(("content", "seconds"), [(b"x" * EARNED_BY, 0), (b"x", 1 / 32)])
def test_records_with_some_data_or_time_between_them_never_end_it(
    talk: Talk, content: bytes, seconds: float
) -> None:
    for _ in range(4 * SPARE):
        talk.server.dataReceived(talk.client.data(content))
        talk.clock.advance(seconds)
    assert not talk.transport.aborted
    assert talk.taker.received == content * (4 * SPARE)


def test_a_lost_connection_is_freed_without_the_garbage_collector(talk: Talk) -> None:
    talk.server.registerProducer(Producer(), True)
    gone = [weakref.ref(each) for each in (talk.server, talk.server._tlsConnection)]
    gc.disable()
    try:
        talk.server.connectionLost(Failure(ConnectionError()))
        talk.server = talk.taker.transport = None
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize(("size", "longest"), [(GATHERED - 1, 33 << 10), (GATHERED, 513 << 10)])
def test_only_large_writes_are_encrypted_in_large_blocks(
    talk: Talk, size: int, longest: int
) -> None:
    talk.server.write(bytes(size))
    talk.clock.advance(0)
    assert size <= len(talk.transport.value())
    assert longest - 1024 < talk.transport.longest < longest
