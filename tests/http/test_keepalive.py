"""A client that vanishes without a word, before its answer: its kernel answers no more."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from tests.http.talk import Recorder, head
from tests.support.reactor import reactor
from tests.transfers.peers import fall_silent
from wingsd.config import Ssl
from wingsd.http.listener import HttpListener
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.http.site import NodeSite, NotFound
from wingsd.util import net as keepalive

pytestmark = pytest.mark.root

TIMEOUT = 60


class Listener(Recorder):
    """Tells when the body is complete, and when the client is gone."""

    def __init__(self, request: StreamingRequest) -> None:
        super().__init__(request)
        self.gone: Deferred[None] = Deferred()

    def lost(self, reason: Failure) -> None:
        super().lost(reason)
        self.reason = reason
        self.gone.callback(None)


class Waiting(Resource):
    """Takes bodies, and leaves whoever sent one without an answer."""

    streamed_methods = frozenset({b"POST"})

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[Listener] = Deferred()

    def open_body(self, request: StreamingRequest) -> BodyReader:
        listener = Listener(request)
        self.opened.callback(listener)
        return listener


@pytest.mark.promise("only-a-vanished-peer-fails")
async def test_a_vanished_client_is_found_before_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("IDLE", 1), ("INTERVAL", 1), ("PROBES", 1)):
        monkeypatch.setattr(keepalive, name, value)
    root, waiting = NotFound(), Waiting()
    root.putChild(b"take", waiting)
    site = NodeSite(root, reactor=reactor, timeout=1000)
    door = HttpListener(Ssl(), "tcp:0:interface=127.0.0.1", site, reactor)
    door.open()
    url = urlsplit(door.address)
    with socket.create_connection((url.hostname or "", url.port or 0)) as client:
        client.sendall(head("/take", Content_Length=3) + b"abc")
        listener = await waiting.opened
        fall_silent(client)
        await listener.gone.addTimeout(TIMEOUT, reactor)
    assert listener.events == ["end", "lost"]
    assert listener.reason.check(ConnectionLost)
    await door.close()
