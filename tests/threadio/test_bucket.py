"""The rate of many streams together, and how they share it."""

from __future__ import annotations

import math

import pytest
from twisted.internet.task import Clock

from wingsd.threadio import BURST, TICK, TokenBucket

pytestmark = pytest.mark.promise("bandwidth-limits-hold")

MIB = 1024 * 1024
LIMIT = 4 * MIB
#: What comes in one piece: of TLS, of one turn of a socket, and of an archive that is packed.
PIECES = [16 * 1024, 64 * 1024, 120 * 1024]


class Stream:
    """Moves pieces of one size while it may; `supply` is the bytes a second that it could."""

    def __init__(
        self, bucket: TokenBucket, piece: int, supply: float, *, yields: bool = False
    ) -> None:
        self.share = bucket.join(self.go_on, yields=yields)
        self.piece = piece
        self.supply = supply
        self.backlog = 0.0
        self.moved = 0
        self.times = 0

    def go_on(self) -> None:
        assert not self.share.held
        self.times += 1

    def run(self, seconds: float) -> None:
        self.backlog += self.supply * seconds
        while self.backlog >= self.piece and not self.share.held:
            self.backlog -= self.piece
            self.moved += self.piece
            self.share.take(self.piece)


class SharedBucket:
    """Streams that share a bucket."""

    def __init__(self, rate: float = LIMIT, yielded: float = 1.0) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.bucket = TokenBucket(self.clock, rate, yielded)
        self.streams: list[Stream] = []

    def add(
        self, supply: float = 1000 * MIB, piece: int = 16 * 1024, *, yields: bool = False
    ) -> Stream:
        stream = Stream(self.bucket, piece, supply, yields=yields)
        self.streams.append(stream)
        return stream

    def run(self, seconds: float, turn: float = 0.001) -> list[float]:
        """Let the time pass, turn by turn of the reactor; return the rate of each."""
        before = [stream.moved for stream in self.streams]
        for _ in range(round(seconds / turn)):
            for stream in self.streams:
                stream.run(turn)
            self.clock.advance(turn)
        return [(s.moved - b) / seconds for s, b in zip(self.streams, before, strict=True)]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_rate_is_kept_and_shared_equally(number: int, piece: int) -> None:
    shared = SharedBucket()
    for _ in range(number):
        shared.add(piece=piece)
    for _ in range(2):  # from the beginning, and later
        rates = shared.run(10)
        assert sum(rates) == pytest.approx(LIMIT, rel=0.05)
        assert rates == pytest.approx([LIMIT / number] * number, rel=0.05)


@pytest.mark.parametrize(
    ("yielding", "supply", "expected"),
    [
        (8, 1000 * MIB, 0.25 * LIMIT),  # eight ninths would be more than they may have
        (1, 1000 * MIB, 0.5 * LIMIT),  # as if it did not yield
        (8, 0.5 * MIB, 0.5 * MIB),  # they get what the other one cannot use
    ],
)
def test_streams_that_yield_leave_a_part_to_others(
    yielding: int, supply: float, expected: float
) -> None:
    shared = SharedBucket(yielded=0.75)
    for _ in range(yielding):
        shared.add(yields=True)
    shared.add(supply)
    *others, one = shared.run(10)
    assert one == pytest.approx(expected, rel=0.05)
    assert others == pytest.approx([(LIMIT - expected) / yielding] * yielding, rel=0.05)


def test_streams_that_yield_have_all_when_they_are_alone() -> None:
    shared = SharedBucket(yielded=0.75)
    shared.add(yields=True)
    shared.add(yields=True)
    assert shared.run(10) == pytest.approx([LIMIT / 2] * 2, rel=0.05)


@pytest.mark.parametrize("rate", [1 * MIB, 100 * MIB, 1000 * MIB])
def test_any_rate_is_kept(rate: float) -> None:
    shared = SharedBucket(rate)
    shared.add(4000 * MIB)
    shared.add(4000 * MIB)
    assert shared.run(10) == pytest.approx([rate / 2] * 2, rel=0.05)


@pytest.mark.parametrize("turn", [0.03, 0.07, 0.1])
def test_a_reactor_that_is_late_makes_it_no_slower(turn: float) -> None:
    shared = SharedBucket()
    shared.add()
    shared.add()
    assert shared.run(10.5, turn) == pytest.approx([LIMIT / 2] * 2, rel=0.05)


def test_pieces_of_other_sizes_and_lines_of_other_speeds_get_no_more() -> None:
    shared = SharedBucket()
    for piece, supply in zip(PIECES, [1000 * MIB, 2 * MIB, 20 * MIB], strict=True):
        shared.add(supply, piece)
    assert shared.run(10) == pytest.approx([LIMIT / 3] * 3, rel=0.05)


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([0.0, 100], [0, 4]),
        ([0.5, 100], [0.5, 3.5]),
        ([0.5, 1, 100, 100], [0.5, 1, 1.25, 1.25]),
        ([0.25, 1.5, 100], [0.25, 1.5, 2.25]),
        ([1.0, 1.5], [1, 1.5]),
    ],
)
def test_what_one_does_not_use_is_the_others(supplies: list[float], expected: list[float]) -> None:
    shared = SharedBucket()
    for supply in supplies:
        shared.add(supply * MIB)
    assert [rate / MIB for rate in shared.run(10)] == pytest.approx(expected, rel=0.05)


def test_one_that_waits_for_something_else_takes_nothing_from_the_others() -> None:
    shared = SharedBucket()
    waiting, other = shared.add(), shared.add()
    shared.run(1)
    waiting.supply = waiting.backlog = 0
    assert shared.run(10) == pytest.approx([0, LIMIT], rel=0.05)
    # It has saved nothing up meanwhile.
    waiting.supply = 1000 * MIB
    assert shared.run(0.5)[0] == pytest.approx(LIMIT / 2, rel=0.1)
    assert other.share.tokens <= BURST * LIMIT


@pytest.mark.parametrize("number", [1, 8])
def test_after_a_rest_no_more_comes_at_once_than_in_a_fraction_of_a_second(number: int) -> None:
    shared = SharedBucket()
    for _ in range(number):
        shared.add()
    for stream in shared.streams:
        stream.supply = stream.backlog = 0
    shared.run(60, 0.1)
    for stream in shared.streams:
        stream.supply = 1000 * MIB
    assert sum(shared.run(0.02)) * 0.02 <= LIMIT * (BURST + TICK) + number * 16 * 1024


def test_one_below_the_rate_is_not_held() -> None:
    shared = SharedBucket()
    stream = shared.add(2 * MIB)
    shared.run(10)
    assert stream.times == 0


def test_many_short_streams_are_no_faster_than_a_long_one() -> None:
    shared = SharedBucket()
    moved = 0
    for _ in range(10_000):
        stream = Stream(shared.bucket, 64 * 1024, math.inf)
        if not stream.share.held:
            stream.share.take(64 * 1024)
            moved += 64 * 1024
        shared.clock.advance(0.001)
        stream.share.leave()
    assert moved / 10 == pytest.approx(LIMIT, rel=0.05)


def test_nothing_runs_while_nobody_takes() -> None:
    shared = SharedBucket()
    stream = shared.add()
    assert shared.clock.getDelayedCalls() == []
    shared.run(1)
    assert len(shared.clock.getDelayedCalls()) == 1
    stream.supply = stream.backlog = 0
    shared.run(1)
    assert shared.clock.getDelayedCalls() == []


def test_the_last_to_leave_leaves_nothing_behind() -> None:
    shared = SharedBucket()
    streams = [shared.add(), shared.add()]
    shared.run(1)
    for stream in streams:
        stream.share.leave()
        stream.share.leave()
    assert shared.clock.getDelayedCalls() == []
    assert [stream.share.held for stream in streams] == [False, False]


def test_a_stream_that_another_ends_is_not_resumed() -> None:
    shared = SharedBucket()
    told: list[str] = []

    def end_the_other() -> None:
        told.append("first")
        second.leave()

    first = shared.bucket.join(end_the_other)
    second = shared.bucket.join(lambda: told.append("second"))
    for share in (first, second):
        share.take(LIMIT)
    assert first.held
    assert second.held
    shared.clock.pump([TICK] * 100)
    assert told == ["first"]
