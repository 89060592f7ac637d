"""A client's talk with a site, over an in-memory transport, and resources that remember."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from wingsd.errors import Unauthorized
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.http.site import NodeSite, NotFound

REFUSAL = Unauthorized("no", "do better")


class Recorder:
    """A body reader that remembers what it was told."""

    def __init__(self, request: StreamingRequest) -> None:
        self.request = request
        self.body = b""
        self.events: list[str] = []

    def data(self, chunk: bytes) -> None:
        self.body += chunk

    def end(self) -> None:
        self.events.append("end")

    def lost(self, reason: Failure) -> None:
        self.events.append("lost")


class Taker(Resource):
    """Takes every body, or refuses it at once."""

    streamed_methods = frozenset({b"POST"})

    isLeaf = True

    def __init__(self, refusal: Exception | None = None) -> None:
        super().__init__()
        self.refusal = refusal
        self.readers: list[Recorder] = []

    def open_body(self, request: StreamingRequest) -> BodyReader:
        reader = Recorder(request)
        self.readers.append(reader)
        if self.refusal:
            request.fail(Failure(self.refusal))
        return reader


class ManyBodies(Taker):
    """Takes one body after the other on a connection."""

    keeps_connection = True


class Whole(Resource):
    isLeaf = True

    def admits_body(self, request: StreamingRequest) -> bool:
        if request.header("Authorization") == "wrong":
            raise REFUSAL
        return True

    def render_POST(self, request: Any) -> None:
        request.answer(200, request.content.read()[::-1])

    def render_PUT(self, request: Any) -> None:
        raise RuntimeError("a mistake")


class Endless(Resource):
    def render_GET(self, request: Any) -> None:
        pass


class Transport(StringTransport):
    """What is written to it can be read as HTTP answers."""

    aborting = False
    bufferSize = 0

    def abortConnection(self) -> None:
        self.aborting = True

    def getHandle(self) -> Transport:
        return self

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        raise OSError("this is not TCP")

    def answers(self) -> list[tuple[int, dict[str, str], bytes]]:
        """Return the answers written so far: status, headers in lower case, body."""
        found = []
        rest = self.value()
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            status, *lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            length = int(headers.get("content-length", 0))
            found.append((int(status.split()[1]), headers, rest[:length]))
            rest = rest[length:]
        return found


class Conversation:
    """A client's connection to a site with resources at /take, /whole and /endless.

    `settings` are those of the site, where it is not another one's.
    """

    def __init__(
        self,
        taker: Taker,
        site: NodeSite | None = None,
        address: str = "192.0.2.1",
        **settings: Any,
    ) -> None:
        self.taker: Taker = taker
        self.clock: Any = site.reactor if site else Clock()
        self.transport = Transport(peerAddress=IPv4Address("TCP", address, 50000))
        root = NotFound()
        root.putChild(b"take", taker)
        root.putChild(b"whole", Whole())
        root.putChild(b"endless", Endless())
        self.site = site or NodeSite(root, reactor=self.clock, **{"timeout": 30} | settings)
        self.protocol = self.site.buildProtocol(None)
        self.protocol.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.protocol.dataReceived(piece)
            self.clock.advance(0)

    @property
    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The only answer so far: its status, its headers, and its body."""
        (found,) = self.transport.answers()
        return found

    @property
    def statuses(self) -> list[int]:
        """The statuses of all answers so far."""
        return [status for status, _, _ in self.transport.answers()]

    @property
    def request(self) -> StreamingRequest:
        (request,) = self.protocol.requests
        assert isinstance(request, StreamingRequest)
        return request

    @property
    def reader(self) -> Recorder:
        (reader,) = self.taker.readers
        return reader


def head(path: str = "/take", *, method: str = "POST", **headers: object) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def turn(clock: Clock) -> None:
    """Run what is due, but not what that makes due: one turn of the reactor."""
    now = clock.seconds()
    for call in [call for call in clock.calls if call.getTime() <= now]:
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)
