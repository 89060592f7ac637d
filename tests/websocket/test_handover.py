"""From HTTP to the WebSocket, on an in-memory transport and a clock of our own."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tests.support.recording_observer import RecordedActivity
from tests.websocket.consoles import ORIGIN, Door, FakeServer
from tests.websocket.tokens import KEY, UUID, console_token
from wingsd.auth.tokens import DenyList
from wingsd.config import Config
from wingsd.events import Event, EventBus
from wingsd.http.site import NodeSite, NotFound
from wingsd.websocket.resource import ConsoleSockets

HANDSHAKE = (
    b"GET /ws?x=%FF HTTP/1.1\r\n"
    b"Host: localhost\r\n"
    b"Origin: https://panel.example.com\r\n"
    b"Cookie: caf\xe9\x85Upgrade: nonsense\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)


class Talk:
    """A client's connection to a site with a WebSocket at /ws."""

    def __init__(self) -> None:
        clock: Any = Clock()
        self.clock = clock
        self.clock.advance(time.time())
        self.bus = EventBus()
        config = Config(token_id="id", token=KEY, remote=ORIGIN)
        denied = DenyList(self.clock.seconds() - 1000)
        activity = RecordedActivity(UUID)
        self.sockets = ConsoleSockets(
            config, self.bus, denied, activity, clock, self.clock.seconds
        )
        root = NotFound()
        root.putChild(b"ws", Door(self.sockets, FakeServer))
        self.site = NodeSite(root, reactor=self.clock, timeout=30)
        self.transport = StringTransport()
        self.channel = self.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)
        self.clock.advance(0)

    def answer(self) -> tuple[bytes, list[dict[str, Any]]]:
        """Return the head of the last HTTP answer, and the messages after it."""
        head, _, rest = self.transport.value().rpartition(b"\r\n\r\n")
        return head, list(messages(rest))

    def lose(self) -> None:
        self.channel.connectionLost(Failure(ConnectionLost()))


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    yield made
    made.lose()
    assert not made.site.connections
    assert made.sockets.count(UUID) == 0
    assert made.clock.getDelayedCalls() == []


def messages(data: bytes) -> Iterator[dict[str, Any]]:
    """Read a server's frames; each is a whole message."""
    while data:
        assert data[0] == 0x81, "a whole text, not compressed"
        length, start = data[1], 2
        if length == 126:
            (length,), start = struct.unpack("!H", data[2:4]), 4
        yield json.loads(data[start : start + length])
        data = data[start + length :]


def frame(event: str, *args: str) -> bytes:
    """Return a browser's message as one frame, masked with zeros."""
    payload = json.dumps({"event": event, "args": args}).encode()
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return b"\x81" + length + b"\0\0\0\0" + payload


PING = b"\x89\x80" + bytes(4)


def token(talk: Talk, lifetime: float = 600) -> str:
    now = talk.clock.seconds()
    return console_token(now, exp=now + lifetime)


def test_the_upgrade_is_what_the_standard_says(talk: Talk) -> None:
    talk.send(HANDSHAKE)
    head, sent = talk.answer()
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"http/1.1 101 switching protocols"
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in lines
    assert not any(line.startswith((b"sec-websocket-extensions", b"server")) for line in lines)
    assert sent == []


def test_what_came_with_the_upgrade_is_not_lost(talk: Talk) -> None:
    talk.send(HANDSHAKE + frame("auth", token(talk)) + frame("send stats"))
    _, sent = talk.answer()
    assert [message["event"] for message in sent] == ["auth success", "status", "stats"]


def test_an_upgrade_sent_byte_by_byte_loses_nothing(talk: Talk) -> None:
    for byte in HANDSHAKE + frame("auth", token(talk)) + frame("send stats"):
        talk.send(bytes([byte]))
    _, sent = talk.answer()
    assert [message["event"] for message in sent] == ["auth success", "status", "stats"]


def test_a_connection_that_was_used_before_can_be_upgraded(talk: Talk) -> None:
    talk.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + HANDSHAKE)
    talk.send(frame("auth", token(talk)))
    assert talk.transport.value().startswith(b"HTTP/1.1 404")
    _, sent = talk.answer()
    assert [message["event"] for message in sent] == ["auth success", "status"]


def test_a_token_is_watched_on_the_clock(talk: Talk) -> None:
    talk.send(HANDSHAKE + frame("auth", token(talk, lifetime=85)))
    for _ in range(4):
        talk.clock.advance(30)
        talk.bus.publish(Event(UUID, "console output", ("x",)))
    talk.send(frame("auth", token(talk)))
    talk.bus.publish(Event(UUID, "console output", ("y",)))
    _, sent = talk.answer()
    assert [(message["event"], *message["args"]) for message in sent] == [
        ("auth success",),
        ("status", "running"),
        ("token expiring",),
        ("console output", "x"),
        ("console output", "x"),
        ("token expired",),
        ("token expired",),
        ("auth success",),
        ("status", "running"),
        ("console output", "y"),
    ]


def test_one_without_a_token_is_closed_after_a_minute(talk: Talk) -> None:
    talk.send(HANDSHAKE)
    talk.clock.advance(30)
    assert b"no valid token" not in talk.transport.value()
    talk.clock.advance(30)
    reason = b"no valid token was sent"
    close = struct.pack("!BBH", 0x88, 2 + len(reason), 1008) + reason
    assert talk.transport.value().endswith(close)


@pytest.mark.promise("websocket-floods-are-closed")
@pytest.mark.parametrize(
    ("first", "others"),
    [(PING, PING), (b"\x01\x80" + bytes(4), b"\x00\x80" + bytes(4)), (frame("x"), frame("x"))],
)
def test_few_frames_are_taken_without_a_token(talk: Talk, first: bytes, others: bytes) -> None:
    too_many = struct.pack("!H", 1008) + b"too many messages"
    talk.send(HANDSHAKE + first + others * 9)
    assert too_many not in talk.transport.value()
    talk.send(others)
    assert talk.transport.value().endswith(too_many)


def test_more_frames_are_taken_of_one_that_has_shown_a_token(talk: Talk) -> None:
    talk.send(HANDSHAKE + frame("auth", token(talk)) + PING * 200)
    assert b"too many messages" not in talk.transport.value()
    talk.send(PING)
    assert talk.transport.value().endswith(b"too many messages")


def test_the_sites_idle_timeout_ends_with_the_upgrade(talk: Talk) -> None:
    talk.send(HANDSHAKE + frame("auth", token(talk)))
    talk.clock.advance(300)
    assert not talk.transport.disconnecting


def test_a_client_that_reads_slowly_is_noticed(talk: Talk) -> None:
    talk.send(HANDSHAKE + frame("auth", token(talk)))
    producer = talk.transport.producer
    assert producer is not None
    producer.pauseProducing()
    for _ in range(600):
        talk.bus.publish(Event(UUID, "console output", ("x" * 1000,)))
    held = len(talk.transport.value())
    assert 500_000 < held < 530_000
    talk.send(b"\x89\x80\0\0\0\0" * 50)  # its pings are not answered meanwhile
    assert len(talk.transport.value()) == held
    producer.resumeProducing()
    _, sent = talk.answer()
    assert sent[-1]["event"] == "daemon message"
    assert sent[-1]["args"][0].startswith(f"{600 - len(sent) + 3} lines are missing")
