"""A destination that acknowledges or takes nothing any more, and how often it is asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any

import attrs
import pytest
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from tests.transfers.peers import Peer, fall_silent, read_head
from wingsd.errors import DestinationDisconnected
from wingsd.http_client.exchange import CHECKS, Answer, PeerWatchdog
from wingsd.statedb import Direction, MoveRecord
from wingsd.threadio import Outflow, OutflowClosed
from wingsd.transfers.peer import moves
from wingsd.transfers.peer.client import PeerAddress, PeerClient
from wingsd.transfers.peer.moves import (
    PROGRESS_EVERY,
    MoveClient,
    MoveTrouble,
    failure_of,
    progress_of,
)
from wingsd.util.net import PROBES, TcpInfo

pytestmark = pytest.mark.root

reactor: Any = installed_reactor
LIMIT = 120.0
EVERY = LIMIT / CHECKS
#: For real sockets: the kernel asks again after 0.2 s, and after twice as long each time.
SHORT = 0.5
TIMEOUT = 60
IDLE = TcpInfo(established=True, probes=0, unacknowledged=0, silence=0.0)


@attrs.define
class Line:
    """A socket whose peer is as the test has it."""

    info: TcpInfo = IDLE

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        found = bytearray(size)
        found[0], found[3] = 1, self.info.probes
        struct.pack_into("=I", found, 24, self.info.unacknowledged)
        struct.pack_into("=I", found, 56, int(self.info.silence * 1000))
        return bytes(found)


class Watched:
    """A line that is watched, and a clock by which the peer's silence grows."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.line = Line()
        self.told: list[float] = []
        line: Any = self.line
        self.silence = PeerWatchdog(
            self.clock, line, LIMIT, lambda _: self.told.append(self.clock.seconds())
        )

    def be(self, **changes: Any) -> None:
        self.line.info = attrs.evolve(self.line.info, **changes)

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.be(silence=self.line.info.silence + 1)
            self.clock.advance(1)


@pytest.mark.promise("only-a-vanished-peer-fails")
def test_a_peer_that_acknowledges_nothing_is_reported_once() -> None:
    watched = Watched()
    watched.be(unacknowledged=10)
    watched.pass_seconds(1000)
    assert watched.told == [EVERY + LIMIT]
    assert watched.clock.getDelayedCalls() == []


def test_a_peer_with_nothing_to_acknowledge_may_be_silent() -> None:
    watched = Watched()
    watched.pass_seconds(1000)
    assert watched.told == []


def test_the_timeout_begins_with_the_first_unacknowledged_byte() -> None:
    watched = Watched()
    watched.pass_seconds(1000)
    watched.be(unacknowledged=1)
    watched.pass_seconds(int(LIMIT - EVERY - 1))
    assert watched.told == []
    watched.pass_seconds(int(2 * EVERY))
    assert len(watched.told) == 1


def test_a_peer_with_a_full_window_is_probed_until_it_is_reported() -> None:
    watched = Watched()
    watched.be(probes=PROBES - 1)
    watched.pass_seconds(1000)
    assert watched.told == []
    watched.be(probes=PROBES)
    watched.pass_seconds(int(EVERY))
    assert len(watched.told) == 1


@pytest.mark.promise("only-a-vanished-peer-fails")
def test_a_peer_that_answers_probes_may_keep_its_window_closed() -> None:
    watched = Watched()
    for _ in range(20):
        watched.pass_seconds(118)
        watched.be(probes=1)
        watched.pass_seconds(2)
        watched.be(probes=0, silence=0)
    assert watched.told == []


class Sending:
    """An upload to a peer on loopback, without an end of its own."""

    def __init__(self, port: int) -> None:
        self.body = Outflow(reactor)
        destination = PeerClient(f"http://127.0.0.1:{port}/", "Bearer t", reactor, "")
        self.upload = destination.upload("x/y", self.body, SHORT)
        self.ending = threading.Event()
        self.written: Deferred[None] = deferToThread(self._write)

    def _write(self) -> None:
        try:
            while not self.ending.is_set():
                self.body.write(bytes(100_000))
            self.body.finish()
        except OutflowClosed:
            pass


@pytest.mark.promise("only-a-vanished-peer-fails")
async def test_a_destination_that_vanished_ends_the_upload_in_time() -> None:
    over = threading.Event()

    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.recv(1_000_000)
        fall_silent(connection)
        over.wait(TIMEOUT)

    peer = Peer(script)
    sending = Sending(peer.port)
    sending.upload.answer.addTimeout(TIMEOUT, reactor)
    with pytest.raises(DestinationDisconnected) as caught:
        await sending.upload.answer
    assert caught.value.detail == (
        "it acknowledged nothing of what it was sent for 0.5 s; it had not received everything; "
        "transfer the server again"
    )
    await sending.written
    over.set()
    await peer.outcome


async def test_a_move_sends_a_body_again_that_a_frozen_destination_takes_nothing_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moves, "ANSWERED_WITHIN", SHORT)
    over = threading.Event()

    def script(connection: socket.socket) -> None:
        read_head(connection)
        over.wait(TIMEOUT)  # its kernel takes what it has room for, and answers

    peer = Peer(script)
    address = PeerAddress(f"http://127.0.0.1:{peer.port}/", reactor, "", "in the Panel")
    trouble = MoveTrouble(reactor, print)
    record = MoveRecord(1, "server", Direction.OUT, "", "key", "token")
    client = MoveClient(address, reactor, SHORT, None, record, trouble, TIMEOUT)
    blocks = [bytes(256 << 10)] * 256
    answer = Deferred.fromCoroutine(client._send(client._request("PUT", "/x", blocks=blocks)))
    answer.addTimeout(TIMEOUT, reactor)
    with pytest.raises(DestinationDisconnected) as caught:
        await answer
    assert "it took nothing of what it was sent for 0.5 s" in caught.value.detail
    client.abort()
    over.set()
    await peer.outcome


# How often a destination of a move is asked how far it is


MOST = 1000


class NewEachTime:
    """A destination that answers at once, each time with something new."""

    def __init__(self) -> None:
        self.asked = 0

    async def send(self, _: object) -> Answer:
        self.asked += 1
        said = {"phase": "committing", "tag": f"t{self.asked}"}
        return Answer(200, "OK", [], json.dumps(said).encode(), early=False)


@pytest.mark.promise("tiny-pieces-are-refused")
async def test_a_destination_that_tells_something_new_each_time_is_asked_at_a_rate() -> None:
    clock, node = Clock(), NewEachTime()
    address: Any = None
    send: Any = node.send
    trouble = MoveTrouble(clock, print)
    record = MoveRecord(1, "server", Direction.OUT, "", "key", "token")
    client = MoveClient(address, clock, 60.0, None, record, trouble, 60.0)
    client._send = send  # type: ignore[method-assign]

    async def follow() -> None:
        tag = ""
        for _ in range(MOST):
            tag = (await client.progress(tag, 60.0)).tag

    following = Deferred.fromCoroutine(follow())
    assert node.asked == 1
    for each in range(2, 20):
        clock.advance(PROGRESS_EVERY)
        assert node.asked == each
    following.addErrback(lambda _: None)
    following.cancel()


# Answers to moves, as they are told to people


def test_the_texts_of_a_destination_are_lines_and_bounded() -> None:
    text = "one\ntwo \x1b[31m" + "x" * 10_000
    tried = {"state": "failed", "error": text, "detail": text, "code": ""}
    said = {"phase": "over", "outcome": "failure", "error": text, "detail": text}
    body = json.dumps(said | {"preparation": tried}).encode()
    found = progress_of(Answer(200, "OK", [], body, early=False))
    assert found.preparation is not None
    for each in (found.error, found.detail, found.preparation.error, found.preparation.detail):
        assert each.startswith("one two [31mx")
        assert len(each) < 600
    assert "\x1b" not in str(failure_of(found))
