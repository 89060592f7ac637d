"""A server in several requests: the web's side of it, over connections in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.api.node import context
from tests.auth.token_values import NODE, bearer
from tests.http.talk import Conversation, Taker, head
from tests.threadio.reactor import ManualReactor
from wingsd.api.routes import root
from wingsd.api.transfers import UploadStream
from wingsd.config import Config, LiveConfig, StreamsConfig
from wingsd.http.site import NodeSite
from wingsd.transfers.incoming.uploads import FormFeed, StreamGroup, StreamGroups
from wingsd.transfers.upload_form import UploadForm

OURS = {"User_Agent": "wingsd/1"}
TYPE = "multipart/form-data; boundary=x"


def body(data: bytes) -> bytes:
    return (
        b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a"\r\n\r\n%b\r\n'
        b'--x\r\nContent-Disposition: form-data; name="checksum"\r\n\r\n%b\r\n--x--\r\n'
    ) % (data, b"0" * 64)


class Transfer:
    """Takes all that comes, and ends as it is told."""

    def __init__(self) -> None:
        self.end: Deferred[None] = Deferred()
        self.read: list[bytes] = []

    async def run(self, upload: UploadStream, others: StreamGroup) -> None:
        uploads: Sequence[Any] = [upload, *await others.gathered()]
        others.when_failed(self.end.errback)
        coming = []
        for each in uploads:
            feed = FormFeed(UploadForm(each.content_type), ManualReactor())
            await others.admit()
            each.deliver(feed)
            coming.append(feed)
        for feed in coming:
            await feed.checksums
            self.read.append(b"".join(feed.blocks()))
        await self.end


class Receiver:
    def __init__(self) -> None:
        self.transfers: list[Transfer] = []

    def open(self, make: object, server: str, authority: None, ordered: float | None) -> Transfer:
        self.transfers.append(Transfer())
        return self.transfers[-1]


class Database:
    def __init__(self) -> None:
        self.used: list[str] = []

    def was_used(self, digest: str, expires: float) -> Deferred[bool]:
        return succeed(digest in self.used)

    def use_token(self, digest: str, expires: float) -> Deferred[bool]:
        is_new = digest not in self.used
        self.used.append(digest)
        return succeed(is_new)


class StreamNode:
    def __init__(self) -> None:
        self.clock = Clock()
        self.receiver, self.database = Receiver(), Database()
        self._token = bearer()
        receiver: Any = self.receiver
        database: Any = self.database
        streams = StreamGroups(receiver, database, StreamsConfig(most=4, within=60), self.clock)
        config = Config(token_id="id", token=NODE.token, remote="https://panel.example.com")
        node = context(LiveConfig(config), receiver=receiver, streams=streams, database=database)
        self.site = NodeSite(root(node), reactor=self.clock, timeout=300)

    @property
    def transfer(self) -> Transfer:
        (transfer,) = self.receiver.transfers
        return transfer

    def come(self, data: bytes | None, **headers: object) -> Conversation:
        talk = Conversation(Taker(), self.site)
        whole = body(data or b"")
        lines: dict[str, Any] = {"Authorization": self._token, "Content_Type": TYPE} | headers
        talk.send(
            head("/api/transfers", Content_Length=len(whole), **lines),
            *([] if data is None else [whole]),
        )
        return talk


def answers(*talks: Conversation) -> list[tuple[int, Any]]:
    found = []
    for talk in talks:
        ((status, _, text),) = talk.transport.answers()
        found.append((status, json.loads(text) if text else None))
    return found


@pytest.fixture
def node() -> StreamNode:
    return StreamNode()


def test_all_streams_are_answered_at_the_end(node: StreamNode) -> None:
    one = node.come(b"one", Multiplex_Stream=1)
    first = node.come(b"first", Multiplex_Stream_Count=2)
    assert node.database.used == []
    zero = node.come(b"zero", Multiplex_Stream=0)
    # The others are in the order of their numbers.
    assert node.transfer.read == [b"first", b"zero", b"one"]
    # Used up once, for all of them.
    assert len(node.database.used) == 1
    assert all(talk.transport.value() == b"" for talk in (first, zero, one))
    node.transfer.end.callback(None)
    assert answers(first, zero, one) == [(200, None)] * 3


def test_a_refused_stream_of_a_calagopus_node_gets_no_answer(node: StreamNode) -> None:
    first = node.come(b"first", Multiplex_Stream_Count=2)
    zero = node.come(b"zero", Multiplex_Stream=0)
    again = node.come(b"zero", Multiplex_Stream=0)
    assert (again.transport.value(), again.transport.aborting) == (b"", True)
    again.protocol.connectionLost(Failure(ConnectionLost()))
    # Whose request that was loses another with it, and so all of them.
    zero.protocol.connectionLost(Failure(ConnectionLost()))
    assert (first.transport.value(), first.transport.aborting) == (b"", True)
