"""Bytes from a thread to the reactor: bounded, in order, and ended by either side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from tests.support.reactor import reactor
from tests.threadio.reactor import ManualReactor, Waits
from wingsd.threadio import STEP, Outflow, OutflowClosed, TokenBucket, Workers


class Consumer:
    """Takes what it is given; `holding` makes it pause the stream after each piece."""

    def __init__(self, outflow: Outflow, *, holding: bool = False) -> None:
        self.outflow = outflow
        self.holding = holding
        self.pieces: list[bytes] = []
        self.finished: Deferred[None] = Deferred()

    def start(self) -> None:
        self.outflow.start(self.take, lambda: self.finished.callback(None))

    def take(self, data: bytes) -> None:
        self.pieces.append(data)
        if self.holding:
            self.outflow.pauseProducing()

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


def started(*, holding: bool = False) -> tuple[Outflow, ManualReactor, Consumer]:
    clock = ManualReactor()
    outflow = Outflow(clock)
    consumer = Consumer(outflow, holding=holding)
    consumer.start()
    return outflow, clock, consumer


def make(calls: ManualReactor) -> None:
    waiting, calls.waiting = calls.waiting, []
    for call in waiting:
        call()


def test_small_pieces_are_joined_and_the_reactor_is_called_once_for_them() -> None:
    outflow, clock, consumer = started()
    for number in range(40):
        outflow.write(bytes([number]) * 16384)
    assert len(clock.waiting) == 1
    make(clock)
    assert [len(piece) for piece in consumer.pieces] == [8 * 16384] * 4
    outflow.finish()
    make(clock)
    assert consumer.data == b"".join(bytes([number]) * 16384 for number in range(40))
    assert outflow.bytes_out == 40 * 16384


def test_a_large_piece_is_cut() -> None:
    outflow, clock, consumer = started()
    whole = bytes(range(256)) * (5 * STEP // 256) + b"end"
    outflow.write(whole)
    outflow.finish()
    make(clock)
    assert consumer.data == whole
    assert max(map(len, consumer.pieces)) == STEP


@pytest.mark.parametrize("sizes", [[10], [STEP], [STEP - 1, 1], [STEP, 1], [3 * STEP]])
def test_the_last_bytes_and_the_end_come_in_one_call(sizes: list[int]) -> None:
    outflow, clock, consumer = started(holding=True)
    for size in sizes:
        outflow.write(b"x" * size)
    before = len(clock.waiting)
    outflow.finish()
    for call in clock.waiting[:before]:
        call()
    while not consumer.finished.called:
        taken = len(consumer.data)
        assert taken < sum(sizes), "the consumer had everything and was not told"
        make(clock)
        outflow.resumeProducing()
    assert len(consumer.data) == sum(sizes)


def test_an_empty_stream_ends() -> None:
    outflow, clock, consumer = started()
    outflow.finish()
    make(clock)
    assert (consumer.pieces, consumer.finished.called) == ([], True)


def test_what_was_written_before_the_start_is_not_lost() -> None:
    clock = ManualReactor()
    outflow = Outflow(clock)
    outflow.write(b"early")
    outflow.finish()
    consumer = Consumer(outflow)
    consumer.start()
    assert (consumer.pieces, consumer.finished.called) == ([b"early"], True)
    assert clock.waiting == []


def test_nothing_comes_while_it_is_paused_not_even_from_the_start() -> None:
    clock = ManualReactor()
    outflow = Outflow(clock)
    outflow.pauseProducing()
    consumer = Consumer(outflow)
    consumer.start()
    outflow.write(b"x")
    outflow.finish()
    make(clock)
    assert consumer.pieces == []
    outflow.resumeProducing()
    assert consumer.pieces == [b"x"]


def test_a_paused_stream_does_not_call_the_reactor() -> None:
    outflow, clock, _ = started(holding=True)
    for _ in range(8):
        outflow.write(b"x" * STEP)
    make(clock)
    for _ in range(4):
        outflow.write(b"x" * STEP)
    assert clock.waiting == []


@given(st.lists(st.integers(0, 1500), max_size=5), st.booleans())
def test_all_bytes_come_in_order(sizes: list[int], holding: bool) -> None:
    outflow, clock, consumer = started(holding=holding)
    written = b""
    for number, size in enumerate(sizes):
        data = bytes([number]) * (size * 257)
        written += data
        outflow.write(data)
        make(clock)
        outflow.resumeProducing()
    outflow.finish()
    make(clock)
    while not consumer.finished.called:
        outflow.resumeProducing()
    assert consumer.data == written


def test_a_closed_stream_fails_its_writer() -> None:
    outflow, clock, consumer = started()
    outflow.stopProducing()
    with pytest.raises(OutflowClosed):
        outflow.write(b"x")
    with pytest.raises(OutflowClosed):
        outflow.finish()
    make(clock)
    assert (consumer.pieces, consumer.finished.called) == ([], False)


def test_a_consumer_that_closes_it_gets_no_more() -> None:
    clock = ManualReactor()
    outflow = Outflow(clock)
    taken: list[bytes] = []

    def take(data: bytes) -> None:
        taken.append(data)
        outflow.close()

    outflow.write(b"x" * (3 * STEP))
    outflow.finish()
    outflow.start(take, lambda: taken.append(b"finished"))
    assert taken == [b"x" * STEP]


def watched(high_mark: int) -> tuple[Outflow, Waits]:
    outflow = Outflow(reactor, high_mark)
    outflow._changed = waits = Waits()
    return outflow, waits


def write_blocks(outflow: Outflow, number: int) -> None:
    for _ in range(number):
        outflow.write(b"x" * STEP)
    outflow.finish()


async def test_the_thread_stops_at_the_high_and_wakes_at_the_low_mark(workers: Workers) -> None:
    high = 8 * STEP
    outflow, waits = watched(high)
    writing = workers.run(write_blocks, outflow, 24)
    await workers.run(waits.begun.wait)
    assert outflow._size == high
    waits.begun.clear()
    consumer = Consumer(outflow, holding=True)
    consumer.start()
    for _ in range(2):
        outflow.resumeProducing()
        await workers.run(int)  # time to write more, if it were awake
        assert len(consumer.pieces) * STEP + outflow._size == high
    outflow.resumeProducing()
    await workers.run(waits.begun.wait)  # it went on, up to the mark
    assert outflow._size == high
    consumer.holding = False
    outflow.resumeProducing()
    await writing
    await consumer.finished
    assert outflow.bytes_out == 24 * STEP


async def test_no_thread_waits_where_a_stream_is_filled_piece_by_piece() -> None:
    high = 16 * STEP
    outflow, _ = watched(high)
    consumer = Consumer(outflow, holding=True)
    consumer.start()
    blocks = iter([bytes([number]) * (4 * STEP - 1) for number in range(40)])
    while not outflow.fill(blocks):  # in this thread, which would wait for ever
        assert high // 2 < outflow._size < high
        draining = Deferred.fromCoroutine(outflow.drained())
        while not draining.called:
            outflow.resumeProducing()
    outflow.finish()
    consumer.holding = False
    outflow.resumeProducing()
    assert consumer.data == b"".join(bytes([number]) * (4 * STEP - 1) for number in range(40))
    assert consumer.finished.called


async def test_a_stream_that_is_closed_is_drained_and_not_filled_again() -> None:
    outflow, _ = watched(4 * STEP)
    assert not outflow.fill(iter([b"x" * STEP] * 9))
    draining = Deferred.fromCoroutine(outflow.drained())
    assert not draining.called
    outflow.close()
    assert draining.called
    with pytest.raises(OutflowClosed):
        outflow.fill(iter([b"x"]))


async def test_closing_wakes_a_thread_that_waits(workers: Workers) -> None:
    outflow, waits = watched(2 * STEP)
    writing = workers.run(write_blocks, outflow, 10)
    await workers.run(waits.begun.wait)
    outflow.close()
    with pytest.raises(OutflowClosed):
        await writing


async def test_a_stream_far_larger_than_the_marks_passes_through(workers: Workers) -> None:
    outflow = Outflow(reactor)
    consumer = Consumer(outflow, holding=True)

    def write() -> None:
        for number in range(3000):
            outflow.write(bytes([number % 251]) * 16384)
        outflow.finish()

    consumer.start()
    writing = workers.run(write)
    while not consumer.finished.called:
        outflow.resumeProducing()
        await workers.run(int)  # a turn of the reactor
    await writing
    assert outflow.bytes_out == 3000 * 16384
    assert consumer.data == b"".join(bytes([number % 251]) * 16384 for number in range(3000))


RATE = 10 * STEP


def limited() -> tuple[Outflow, ManualReactor, Consumer]:
    """Return a stream whose rate is ten blocks a second, and that has more than it may give."""
    clock = ManualReactor()
    outflow = Outflow(clock, 100 * STEP, TokenBucket(clock, RATE))
    write_blocks(outflow, 20)
    return outflow, clock, Consumer(outflow)


def test_a_limited_stream_is_given_out_at_its_rate() -> None:
    _, clock, consumer = limited()
    consumer.start()
    clock.pump([0.01] * 105)
    assert len(consumer.pieces) == 11
    clock.pump([0.01] * 100)
    assert consumer.finished.called
    assert clock.getDelayedCalls() == []


def test_neither_the_consumer_nor_the_rate_lets_it_go_on_against_the_other() -> None:
    outflow, clock, consumer = limited()
    consumer.start()
    assert len(consumer.pieces) == 1
    outflow.pauseProducing()
    outflow.resumeProducing()
    assert len(consumer.pieces) == 1
    outflow.pauseProducing()
    clock.pump([0.01] * 100)
    assert len(consumer.pieces) == 1
    outflow.resumeProducing()
    assert len(consumer.pieces) == 2


def test_a_limited_stream_that_is_closed_leaves_nothing_behind() -> None:
    outflow, clock, consumer = limited()
    consumer.start()
    outflow.close()
    assert clock.getDelayedCalls() == []
    clock.advance(10)
    assert len(consumer.pieces) == 1


def test_limited_streams_share_the_rate() -> None:
    clock = ManualReactor()
    bucket = TokenBucket(clock, RATE)
    consumers = []
    for number in (20, 20, 2):
        outflow = Outflow(clock, 100 * STEP, bucket)
        write_blocks(outflow, number)
        consumers.append(Consumer(outflow))
        consumers[-1].start()
    clock.pump([0.01] * 205)
    assert [len(consumer.pieces) for consumer in consumers] == pytest.approx([10, 10, 2], abs=1)
