"""The body of an upload as a stream that slows its client down."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.http.talk import Conversation, Taker, head
from tests.threadio.reactor import ManualReactor
from wingsd.api.upload import UploadStream
from wingsd.errors import WingsdError
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.threadio import FEED_HIGH_MARK, Feed, TokenBucket
from wingsd.transfers.errors import UploadTruncated
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
        self.feed = Feed(self.reactor)
        super().__init__(UploadForm("multipart/form-data; boundary=x"), self.feed)
        self.found: list[Any] = []
        self.checksums.addBoth(self.found.append)


class House:
    """An upload that is not read yet."""

    def __init__(self, bucket: TokenBucket | None = None) -> None:
        request: Any = FakeRequest()
        self.request: FakeRequest = request
        self.upload = UploadStream(request, bucket)
        self.consumer = Consumer()
        self.feed, self.found = self.consumer.feed, self.consumer.found

    def read(self) -> None:
        self.upload.deliver(self.consumer)

    def error(self) -> Any:
        """Return what the sender is to read; what reads the archive gets the same."""
        (failure,) = self.found
        with pytest.raises(WingsdError) as caught:
            list(self.feed.blocks())
        error: WingsdError = caught.value
        assert error is failure.value
        return error


def test_the_client_is_paused_until_the_body_is_read() -> None:
    house = House()
    assert house.request.calls == ["pause"]
    house.read()
    assert house.request.calls == ["pause", "proceed", "resume"]
    house.upload.data(BODY)
    house.upload.end()
    assert house.found == [Checksums("0" * 64)]
    assert list(house.feed.blocks()) == [b"data"]


def test_what_arrives_before_that_is_kept_in_order() -> None:
    house = House()
    house.upload.data(BODY[:20])
    house.upload.data(BODY[20:90])
    house.upload.data(BODY[90:])
    house.upload.end()
    assert house.found == []
    house.read()
    assert house.found == [Checksums("0" * 64)]
    assert list(house.feed.blocks()) == [b"data"]


def test_an_upload_that_is_stopped_before_it_is_read_raises_the_reason() -> None:
    house = House()
    house.upload.data(BODY)
    house.upload.stop(UploadTruncated("cancelled"))
    with pytest.raises(UploadTruncated, match="cancelled"):
        house.read()
    assert house.request.calls == ["pause"]


def test_a_client_that_disconnects_before_that_is_gone() -> None:
    house, gone = House(), []
    house.upload.when_gone(lambda: gone.append(True))
    house.upload.lost(Failure(ConnectionLost()))
    with pytest.raises(UploadTruncated) as caught:
        house.read()
    assert caught.value.detail == (
        "the sender gave up, or its connection broke; its own log says which"
    )
    assert gone == [True]


def test_a_client_that_disconnects_while_it_is_read_fails_the_consumer() -> None:
    house, gone = House(), []
    house.upload.when_gone(lambda: gone.append(True))
    house.read()
    house.upload.data(BODY[:20])
    house.upload.lost(Failure(ConnectionLost()))
    assert isinstance(house.error(), UploadTruncated)
    assert gone == []


def test_a_body_that_is_not_valid_fails_the_consumer() -> None:
    house = House()
    house.read()
    house.upload.data(BODY.replace(b"archive", b"other"))
    house.upload.end()
    assert house.error().status == 400
    house.upload.end()
    assert len(house.found) == 1


RATE = 1000_000
#: The form around its archive.
HEAD, _, TAIL = BODY.partition(b"data\r\n")


class LimitedHouse(House):
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


def test_one_that_comes_faster_than_the_limit_is_held_until_its_time_has_come() -> None:
    house = LimitedHouse()
    house.send(RATE)
    assert house.request.calls == ["pause"]
    house.wait(0.9)
    assert house.request.calls == ["pause"]
    house.wait(0.15)
    assert house.request.calls == ["pause", "resume"]


def test_one_that_goes_on_all_the_same_is_paused_again() -> None:
    house = LimitedHouse()
    house.send(RATE)
    house.send(RATE)
    assert house.request.calls == ["pause", "pause"]
    house.wait(1.9)
    assert house.request.calls == ["pause", "pause"]
    house.wait(0.15)
    assert house.request.calls == ["pause", "pause", "resume"]


@pytest.mark.parametrize("feed_is_last", [True, False])
def test_it_goes_on_when_both_the_limit_and_the_disk_let_it(feed_is_last: bool) -> None:
    house = LimitedHouse()
    house.send(2 * FEED_HIGH_MARK)
    assert set(house.request.calls) == {"pause"}
    house.request.calls.clear()

    def write_to_disk() -> None:
        assert next(house.feed.blocks())
        (resume,) = house.consumer.reactor.waiting
        resume()

    if feed_is_last:
        house.wait(10)
        assert house.request.calls == []
        write_to_disk()
    else:
        write_to_disk()
        assert house.request.calls == []
        house.wait(10)
    assert house.request.calls == ["resume"]


def test_one_that_is_whole_is_not_held_any_more() -> None:
    house = LimitedHouse()
    house.send(RATE)
    house.upload.data(b"\r\n" + TAIL)
    house.request.calls.clear()
    house.upload.end()
    assert house.request.calls == ["resume"]
    assert house.found == [Checksums("0" * 64)]
    assert house.clock.getDelayedCalls() == []


def test_one_that_is_stopped_while_it_is_held_leaves_nothing_behind() -> None:
    house = LimitedHouse()
    house.send(RATE)
    house.upload.stop(UploadTruncated("cancelled"))
    assert isinstance(house.error(), UploadTruncated)
    assert house.clock.getDelayedCalls() == []
    assert house.request.calls == ["pause"]


def test_early_bytes_count_too() -> None:
    clock = Clock()
    house = House(TokenBucket(clock, RATE))
    house.upload.data(HEAD + b"x" * RATE)
    house.read()
    assert house.request.calls == ["pause", "pause", "proceed"]
    clock.pump([0.01] * 110)
    assert house.request.calls == ["pause", "pause", "proceed", "resume"]


class LimitedTaker(Taker):
    """Takes every upload, at a rate of 100 bytes a second."""

    def open_body(self, request: StreamingRequest) -> BodyReader:
        upload = UploadStream(request, TokenBucket(request.channel.site.reactor, 100))
        consumer = Consumer()
        self.found = consumer.found
        upload.deliver(consumer)
        return upload


def test_one_that_is_held_is_neither_silent_nor_slow() -> None:
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
