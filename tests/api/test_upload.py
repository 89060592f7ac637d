"""The body of an upload as a stream that slows its client down."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.http.talk import Conversation, Taker, head
from tests.threadio.reactor import ManualReactor
from wingsd.api.transfers import UploadStream
from wingsd.errors import BodyIncomplete, UploadTruncated
from wingsd.http.request import BodyReader, PulledBody, StreamingRequest
from wingsd.threadio import FEED_HIGH_MARK, TokenBucket
from wingsd.transfers.incoming.uploads import FormFeed
from wingsd.transfers.upload_form import Checksums, UploadForm

BODY = (
    b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a"\r\n\r\ndata\r\n'
    b'--x\r\nContent-Disposition: form-data; name="checksum"\r\n\r\n%b\r\n--x--\r\n'
) % (b"0" * 64)


class FakeRequest:
    """Writes down whether the client may send."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def header(self, name: str) -> str:
        return ""

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def proceed(self) -> None:
        self.calls.append("proceed")


class Consumer(FormFeed):
    """Feeds the form to a thread that does not exist."""

    def __init__(self) -> None:
        self.reactor = ManualReactor()
        super().__init__(UploadForm("multipart/form-data; boundary=x"), self.reactor)
        self.found: list[Any] = []
        self.checksums.addBoth(self.found.append)


class UploadHarness:
    def __init__(self, bucket: TokenBucket | None = None) -> None:
        request: Any = FakeRequest()
        self.request: FakeRequest = request
        self.upload = UploadStream(request, bucket)
        self.consumer = Consumer()
        self.feed, self.found = self.consumer, self.consumer.found

    def read(self) -> None:
        self.upload.deliver(self.consumer)


def test_the_client_is_paused_until_the_body_is_read() -> None:
    harness = UploadHarness()
    assert harness.request.calls == ["pause"]
    harness.read()
    assert harness.request.calls == ["pause", "proceed", "resume"]
    harness.upload.data(BODY)
    harness.upload.end()
    assert harness.found == [Checksums("0" * 64)]
    assert list(harness.feed.blocks()) == [b"data"]


def test_a_client_that_disconnects_early_fails_the_upload() -> None:
    harness, gone = UploadHarness(), []
    harness.upload.when_gone(lambda: gone.append(True))
    harness.upload.lost(Failure(ConnectionLost()))
    with pytest.raises(UploadTruncated) as caught:
        harness.read()
    assert caught.value.detail == (
        "the sender gave up, or its connection broke; its own log says which"
    )
    assert gone == [True]


RATE = 1000_000
#: The form before the data of its archive.
HEAD = BODY.partition(b"data\r\n")[0]


class LimitedUpload(UploadHarness):
    """An upload at a rate of 1 MB/s, whose first bytes have come."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(TokenBucket(self.clock, RATE))
        self.read()
        self.upload.data(HEAD)
        self.request.calls.clear()

    def send(self, size: int) -> None:
        self.upload.data(b"x" * size)

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.01] * round(seconds * 100))


def test_an_upload_above_the_limit_is_paused() -> None:
    harness = LimitedUpload()
    harness.send(RATE)
    assert harness.request.calls == ["pause"]
    harness.wait(0.9)
    assert harness.request.calls == ["pause"]
    harness.wait(0.15)
    assert harness.request.calls == ["pause", "resume"]


@pytest.mark.parametrize("feed_is_last", [True, False])
def test_an_upload_resumes_when_both_limit_and_disk_allow_it(feed_is_last: bool) -> None:
    harness = LimitedUpload()
    harness.send(2 * FEED_HIGH_MARK)
    assert set(harness.request.calls) == {"pause"}
    harness.request.calls.clear()

    def write_to_disk() -> None:
        assert next(harness.feed.blocks())
        (resume,) = harness.consumer.reactor.waiting
        resume()

    if feed_is_last:
        harness.wait(10)
        assert harness.request.calls == []
        write_to_disk()
    else:
        write_to_disk()
        assert harness.request.calls == []
        harness.wait(10)
    assert harness.request.calls == ["resume"]


class LimitedTaker(Taker):
    """Takes every upload, at a rate of 100 bytes a second."""

    def open_body(self, request: StreamingRequest) -> BodyReader:
        upload = UploadStream(request, TokenBucket(request.channel.site.reactor, 100))
        consumer = Consumer()
        self.found = consumer.found
        upload.deliver(consumer)
        return upload


@pytest.mark.promise("slow-sender-frees-its-slot")
def test_a_paused_upload_is_neither_silent_nor_slow() -> None:
    taker = LimitedTaker()
    # At twice the rate that it is held to; but whenever it may come, it does.
    talk = Conversation(taker, timeout=30, least_rate=200)
    talk.send(head(Content_Length=10_000_000), HEAD)
    for _ in range(20):
        talk.send(b"x" * 6_000)
        assert talk.transport.producerState == "paused"
        talk.clock.pump([0.02] * (59 * 50))
        assert talk.transport.producerState == "paused"
        talk.clock.pump([0.02] * 100)
        assert talk.transport.producerState == "producing"
    assert taker.found == []
    talk.clock.advance(31)
    (failure,) = taker.found
    assert failure.value.detail == "nothing was received for 30 s"


BLOCK = 128 << 10


class Request(StreamingRequest):
    """Is paused and resumed."""

    is_paused = False

    def __init__(self) -> None:
        pass

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def proceed(self) -> None: ...


def peak_of(request: Request, body: Any) -> int:
    """Write pieces of two bytes until the request is paused; return the most memory in use."""
    tracemalloc.start()
    try:
        while not request.is_paused:
            # Each is an object of its own, as those that are received are.
            body.data(bytes(bytearray(b"ab")))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_a_body_that_is_written_to_a_file() -> None:
    request = Request()
    body = PulledBody(request, BodyIncomplete, least=BLOCK, most=BLOCK)
    block = Deferred.fromCoroutine(body.next())
    assert peak_of(request, body) < 4 * BLOCK
    assert b"".join(await block) == b"ab" * (BLOCK // 2)
    # Nothing more is read until the block is written.
    assert request.is_paused
    block = Deferred.fromCoroutine(body.next())
    assert not request.is_paused
    body.end()
    assert await block == []


async def test_an_upload() -> None:
    request, first = Request(), b"x" * 50_000
    body = PulledBody(request, BodyIncomplete, most=BLOCK)
    request.resume()
    body.data(first)
    assert peak_of(request, body) < 4 * BLOCK
    pieces = await body.next()
    assert len(pieces) < 100
    assert b"".join(pieces) == first + b"ab" * ((BLOCK - len(first)) // 2)
