"""Bytes from the reactor to a thread: bounded, in order, and with the errors of either side."""

from __future__ import annotations

import pytest
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from tests.support.reactor import reactor
from tests.threadio.reactor import ManualReactor
from wingsd.threadio import BLOCK, FEED_HIGH_MARK, FEED_LOW_MARK, Feed, Workers


@implementer(IPushProducer)
class Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


def feed_with(producer: Producer) -> tuple[Feed, ManualReactor]:
    clock = ManualReactor()
    feed = Feed(clock)
    feed.registerProducer(producer, True)
    return feed, clock


def test_small_pieces_are_joined() -> None:
    feed, _ = feed_with(Producer())
    for number in range(40):
        feed.write(bytes([number]) * 16384)
    feed.finish()
    blocks = list(feed.blocks())
    assert [len(block) for block in blocks] == [BLOCK, BLOCK, 8 * 16384]
    assert b"".join(blocks) == b"".join(bytes([number]) * 16384 for number in range(40))


def test_a_stream_is_read_part_by_part() -> None:
    feed, _ = feed_with(Producer())
    feed.write(b"first")
    feed.divide("second")
    feed.divide("third")
    feed.write(b"3")
    feed.divide("fourth")
    feed.write(b"left unread")
    feed.divide("fifth")
    feed.write(b"5")
    feed.finish()
    assert list(feed.blocks()) == [b"first"]
    assert list(feed.blocks()) == []
    assert (feed.next_part(), list(feed.blocks())) == ("second", [])
    assert (feed.next_part(), list(feed.blocks())) == ("third", [b"3"])
    assert (feed.next_part(), feed.next_part()) == ("fourth", "fifth")
    assert list(feed.blocks()) == [b"5"]
    assert (feed.next_part(), list(feed.blocks())) == (None, [])


def test_who_waits_for_a_part_hears_of_a_failure() -> None:
    feed, _ = feed_with(Producer())
    feed.divide("second")
    assert feed.next_part() == "second"
    feed.fail(KeyError("cut"))
    with pytest.raises(KeyError):
        feed.next_part()


def test_an_empty_stream_ends() -> None:
    feed, _ = feed_with(Producer())
    feed.finish()
    assert list(feed.blocks()) == []


def test_the_producer_is_paused_at_the_high_mark_and_resumed_at_the_low_one() -> None:
    producer = Producer()
    feed, clock = feed_with(producer)
    for _ in range(FEED_HIGH_MARK // BLOCK - 1):
        feed.write(b"x" * BLOCK)
    assert producer.calls == []
    feed.write(b"x" * BLOCK)
    assert producer.calls == ["pause"]
    blocks = feed.blocks()
    for _ in range((FEED_HIGH_MARK - FEED_LOW_MARK) // BLOCK - 1):
        next(blocks)
    assert clock.waiting == []
    next(blocks)
    (resume,) = clock.waiting
    resume()
    assert producer.calls == ["pause", "resume"]


def test_a_producer_that_goes_on_all_the_same_is_paused_again() -> None:
    producer = Producer()
    feed, _ = feed_with(producer)
    feed.write(b"x" * FEED_HIGH_MARK)
    feed.write(b"x" * BLOCK)
    assert producer.calls == ["pause", "pause"]


def test_a_producer_that_is_gone_is_not_called() -> None:
    producer = Producer()
    feed, clock = feed_with(producer)
    feed.write(b"x" * FEED_HIGH_MARK)
    feed.unregisterProducer()
    feed.finish()
    list(feed.blocks())
    for call in clock.waiting:
        call()
    assert producer.calls == ["pause"]


def test_a_failure_comes_before_what_is_waiting() -> None:
    feed, _ = feed_with(Producer())
    feed.write(b"x" * BLOCK)
    feed.fail(KeyError("gone"))
    with pytest.raises(KeyError):
        next(feed.blocks())


def test_a_finished_stream_cannot_fail_any_more() -> None:
    feed, _ = feed_with(Producer())
    feed.write(b"x")
    feed.finish()
    feed.fail(KeyError("late"))
    assert list(feed.blocks()) == [b"x"]


def test_a_stream_closed_by_its_reader_ends() -> None:
    feed, _ = feed_with(Producer())
    feed.write(b"x" * BLOCK)
    feed.close()
    feed.write(b"x" * BLOCK)
    assert next(feed.blocks(), None) is None


def test_it_takes_one_push_producer() -> None:
    feed, _ = feed_with(Producer())
    with pytest.raises(RuntimeError):
        feed.registerProducer(Producer(), True)
    with pytest.raises(RuntimeError):
        Feed(ManualReactor()).registerProducer(Producer(), False)


async def test_a_stream_far_larger_than_the_marks_passes_through(workers: Workers) -> None:
    feed: Feed = Feed(reactor)
    sender = Sender(feed, pieces=2000)
    feed.registerProducer(sender, True)
    received = workers.run(lambda: sum(len(block) for block in feed.blocks()))
    sender.resumeProducing()
    assert await received == 2000 * 16384
    assert sender.most_waiting <= FEED_HIGH_MARK + BLOCK


@implementer(IPushProducer)
class Sender:
    """Writes as fast as it may, as a transport would."""

    def __init__(self, feed: Feed, pieces: int) -> None:
        self._feed = feed
        self._left = pieces
        self._running = False
        self.most_waiting = 0

    def resumeProducing(self) -> None:
        self._running = True
        while self._running and self._left:
            self._left -= 1
            self._feed.write(b"x" * 16384)
            self.most_waiting = max(self.most_waiting, self._feed._size)
        if not self._left:
            self._feed.unregisterProducer()
            self._feed.finish()

    def pauseProducing(self) -> None:
        self._running = False

    def stopProducing(self) -> None:
        self._running = False


def test_a_feed_pauses_its_producer_later_than_it_resumes_it() -> None:
    assert FEED_LOW_MARK < FEED_HIGH_MARK
