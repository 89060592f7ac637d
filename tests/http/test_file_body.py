"""Files as the bodies of answers: over an in-memory transport, and over TLS to curl."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock, deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.http.talk import Conversation, Taker, head
from tests.support.logged_errors import Logged
from wingsd.config import Ssl
from wingsd.http.body_sender import (
    LARGEST_BLOCK,
    PIECE,
    QUICK,
    SMALLEST_BLOCK,
    FileBody,
    Validators,
)
from wingsd.http.listener import HttpListener
from wingsd.http.site import NodeSite, NotFound
from wingsd.threadio import Workers

pytestmark = pytest.mark.promise("slow-downloads-cost-little")

MODIFIED = 1_700_000_000_000_000_000
reactor: Any = installed_reactor


class Content:
    """A file of some bytes in memory; `faults` are raised by further reads."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads: list[tuple[int, int]] = []
        self.fault: OSError | None = None
        self.closed = 0

    def read_at(self, offset: int, size: int) -> bytes:
        assert not self.closed
        self.reads.append((offset, size))
        if self.fault is not None:
            raise self.fault
        return self.content[offset : offset + size]

    def close(self) -> None:
        self.closed += 1


class LaterWorkers:
    """What `wingsd.threadio.Workers` offers, done in the clock's next turn."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferLater(self._clock, 0, work, *args)


class FileResource(Resource):
    """Answers everything with one file."""

    isLeaf = True

    def __init__(self, file: Any, size: int, workers: Any) -> None:
        super().__init__()
        self._body = FileBody(
            file, Validators(size, MODIFIED), workers, "a file", {"Content-Type": "text/x-test"}
        )

    def render(self, request: Any) -> int:
        request.respond(200, self._body)
        return NOT_DONE_YET


class FileTalk(Conversation):
    """A client that requests a file of this content, announced with `size`."""

    def __init__(self, content: bytes, size: int | None = None) -> None:
        clock = Clock()
        self.file = Content(content)
        announced = len(content) if size is None else size
        self.workers = LaterWorkers(clock)
        resource = FileResource(self.file, announced, self.workers)
        site = NodeSite(resource, reactor=clock, timeout=30)
        super().__init__(Taker(), site)
        #: Whether each write of a block fills the transport, until `drain`.
        self.is_slow = False
        self._write = self.transport.write
        self.transport.write = self._written  # type: ignore[method-assign]

    def _written(self, data: bytes) -> None:
        self._write(data)
        if self.is_slow and len(data) >= SMALLEST_BLOCK:
            self.protocol.pauseProducing()

    def drain(self) -> None:
        """Take what was written, and a turn."""
        self.protocol.resumeProducing()
        self.clock.advance(0)

    def get(self, method: str = "GET", **headers: str) -> None:
        self.send(head("/file", method=method, **headers))

    def proceed(self) -> None:
        for _ in range(50):
            self.clock.advance(0)


def test_a_file_is_sent_with_its_validators() -> None:
    content = bytes(range(256)) * 1000
    talk = FileTalk(content)
    talk.get()
    talk.proceed()
    status, headers, body = talk.answer
    assert (status, body) == (200, content)
    assert headers["content-length"] == "256000"
    assert headers["content-type"] == "text/x-test"
    assert headers["accept-ranges"] == "bytes"
    assert headers["last-modified"] == "tue, 14 nov 2023 22:13:20 gmt"
    assert headers["etag"].startswith('"')
    assert talk.file.closed
    assert not talk.transport.disconnecting
    assert talk.protocol.requests == []


def test_the_head_of_a_file_does_not_read_it() -> None:
    talk = FileTalk(b"abc")
    talk.get("HEAD")
    talk.proceed()
    assert b"Content-Length: 3\r\n" in talk.transport.value()
    assert talk.transport.value().endswith(b"\r\n\r\n")
    assert (talk.file.reads, bool(talk.file.closed)) == ([], True)


def test_a_range_is_sent() -> None:
    talk = FileTalk(b"0123456789")
    talk.get(Range="bytes=2-4")
    talk.proceed()
    status, headers, body = talk.answer
    assert (status, headers["content-range"], body) == (206, "bytes 2-4/10", b"234")


def test_a_range_behind_the_end_is_refused_in_json() -> None:
    talk = FileTalk(b"0123456789")
    talk.get(Range="bytes=10-")
    status, headers, body = talk.answer
    assert (status, headers["content-range"]) == (416, "bytes */10")
    assert json.loads(body)["code"] == "range-not-satisfiable"
    assert talk.file.closed


def test_a_file_that_shrinks_closes_the_connection(logged: Logged) -> None:
    talk = FileTalk(b"0123456789", size=20)
    talk.get()
    talk.proceed()
    assert talk.transport.value().endswith(b"\r\n\r\n0123456789")
    assert talk.transport.aborting
    assert talk.file.closed
    assert any("a file: download ended early: it has shrunk" in line for line in logged.lines)


def test_a_disk_that_fails_closes_the_connection(logged: Logged) -> None:
    talk = FileTalk(bytes(3 * SMALLEST_BLOCK))
    talk.file.fault = OSError(5, "Input/output error")
    talk.get()
    talk.proceed()
    assert talk.transport.aborting
    assert talk.file.closed
    assert any("Input/output error" in line for line in logged.lines)


def test_for_a_slow_client_one_small_block_is_read_ahead() -> None:
    talk = FileTalk(bytes(10 * LARGEST_BLOCK))
    talk.is_slow = True
    talk.get()
    for number in range(2, 10):
        assert talk.file.reads[-1] == ((number - 1) * SMALLEST_BLOCK, SMALLEST_BLOCK)
        assert len(talk.file.reads) == number
        talk.clock.advance(2 * QUICK)
        talk.drain()


def test_the_file_is_closed_when_the_client_has_gone() -> None:
    talk = FileTalk(bytes(10 * LARGEST_BLOCK))
    talk.is_slow = True
    talk.get()
    assert not talk.file.closed
    talk.protocol.connectionLost(Failure(ConnectionLost()))
    assert talk.file.closed
    assert talk.clock.getDelayedCalls() == []


def test_a_file_that_is_being_read_is_closed_after_that() -> None:
    talk = FileTalk(bytes(10 * LARGEST_BLOCK))
    reading: list[Deferred[bytes]] = []

    def run(work: Callable[..., bytes], *args: int) -> Deferred[bytes]:
        reading.append(Deferred())
        return reading[-1]

    talk.workers.run = run  # type: ignore[method-assign]
    talk.get()
    talk.protocol.connectionLost(Failure(ConnectionLost()))
    assert not talk.file.closed
    reading[0].callback(b"abc")
    assert talk.file.closed
    assert len(reading) == 1


class DiskFile:
    """A file on the disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read_at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()


@pytest.mark.root
async def test_curl_gets_a_large_file_over_tls_and_resumes_it(tmp_path: Path) -> None:
    content = b"".join(number.to_bytes(8, "big") for number in range(1 << 20))
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "node.pem")
    )
    workers = Workers(reactor, "files", 1)
    workers.start()
    root = NotFound()
    root.getChild = lambda path, request: FileResource(  # type: ignore[method-assign]
        DiskFile(source), len(content), workers
    )
    site = NodeSite(root, reactor=reactor, timeout=60)
    pem = str(tmp_path / "node.pem")
    listener = HttpListener(Ssl(True, pem, pem), "tcp:0:interface=127.0.0.1", site, reactor)
    listener.open()
    curl = ["-sS", "--cacert", str(tmp_path / "ca.pem"), "-o", str(target)]
    try:
        for arguments in ([], ["-C", "-"]):
            _, error, status = await getProcessOutputAndValue(
                "curl", [*curl, *arguments, f"{listener.address}/file"]
            )
            assert (status, error) == (0, b"")
            assert target.read_bytes() == content
            target.write_bytes(content[:12345])
    finally:
        await listener.close()
        await listener.site.drain(0)
        workers.stop()


class LongAnswer(Resource):
    """Answers everything with the same bytes from memory."""

    isLeaf = True
    body = bytes(range(256)) * 2000

    def render(self, request: Any) -> int:
        request.answer(200, self.body)
        return NOT_DONE_YET


def test_a_long_answer_from_memory_is_written_no_faster_than_it_is_read() -> None:
    talk = Conversation(Taker(), NodeSite(LongAnswer(), reactor=Clock(), timeout=30))
    write, written = talk.transport.write, []

    def pausing(data: bytes) -> None:
        write(data)
        written.append(len(data))
        if len(data) >= PIECE:
            talk.protocol.pauseProducing()

    talk.transport.write = pausing  # type: ignore[method-assign]
    talk.send(head("/long", method="GET"), head("/long", method="GET"))
    before = len(written)
    assert sum(written) < 2 * PIECE
    while len(talk.transport.value()) < 2 * len(LongAnswer.body):
        talk.protocol.resumeProducing()
        talk.clock.advance(0.1)
        assert len(written) > before, "it goes on"
        assert sum(written[before:]) < 2 * PIECE + 1000
        before = len(written)
    assert [body for _, _, body in talk.transport.answers()] == [LongAnswer.body] * 2
