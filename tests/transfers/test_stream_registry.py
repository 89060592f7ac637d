"""Which streams of one transfer may come: in any order, each once, and no other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest

from wingsd.errors import StreamMismatch, StreamMissing
from wingsd.transfers.incoming.uploads import FIRST as FIRST_NAME
from wingsd.transfers.incoming.uploads import StreamRegistry, name_of

FIRST = -1


def call(registry: StreamRegistry, number: int, count: int) -> None:
    if number == FIRST:
        registry.first(str(count))
    else:
        assert registry.further(str(number)) == number


@pytest.mark.parametrize("order", permutations([FIRST, 0, 1, 2]))
def test_streams_may_come_in_any_order(order: tuple[int, ...]) -> None:
    registry = StreamRegistry(16)
    for number in order[:-1]:
        call(registry, number, 3)
        assert not registry.is_complete
    call(registry, order[-1], 3)
    assert registry.is_complete


@pytest.mark.parametrize("count", ["", "0"])
def test_a_single_stream_is_complete_at_once(count: str) -> None:
    registry = StreamRegistry(16)
    registry.first(count)
    assert registry.is_complete
    assert registry.others == 0


def come(*numbers: int, count: int = 3) -> Callable[[StreamRegistry], object]:
    def come_all(registry: StreamRegistry) -> None:
        for number in numbers:
            call(registry, number, count)

    return come_all


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (come(FIRST, 1, 1), "stream 1 was sent twice"),
        (come(1, 1), "stream 1 was sent twice"),
        (come(FIRST, FIRST), "the first request was sent twice"),
        (come(FIRST, 0, 1, 2, 2), "stream 2 was sent twice"),
        (come(FIRST, 3), "stream 3 is not announced: the first request announces 0 to 2"),
        (come(3, FIRST), "stream 3 is not announced: the first request announces 0 to 2"),
        (come(FIRST, 0, count=0), "stream 0 is not announced: the first request announces none"),
        (come(0, FIRST, count=0), "stream 0 is not announced: the first request announces none"),
        (come(16), "this node accepts 16 besides the first"),
        (come(FIRST, count=17), "is 17, and this node accepts at most 16"),
    ],
)
def test_a_stream_with_a_wrong_number_is_refused(
    steps: Callable[[StreamRegistry], object], reason: str
) -> None:
    with pytest.raises(StreamMismatch) as caught:
        steps(StreamRegistry(16))
    assert reason in caught.value.detail
    assert caught.value.status == 400


@pytest.mark.parametrize("text", ["x", "-1", "1.5", " 1", "1_0", "٣", "9999999", "0x1", "1, 2"])
def test_a_header_that_is_not_a_number_is_refused(text: str) -> None:
    for read in (StreamRegistry(16).first, StreamRegistry(16).further):
        with pytest.raises(StreamMismatch):
            read(text)


def test_a_request_is_the_first_or_one_of_the_others() -> None:
    with pytest.raises(StreamMismatch):
        StreamRegistry(16).further("0", "2")


def test_a_refused_first_stream_counts_as_arrived() -> None:
    registry = StreamRegistry(16)
    with pytest.raises(StreamMismatch):
        registry.first("many")
    with pytest.raises(StreamMismatch):
        registry.first("2")


def test_a_stream_that_left_may_come_again() -> None:
    registry = StreamRegistry(16)
    registry.further("0")
    registry.leave(0)
    registry.leave(0)
    registry.first("1")
    assert not registry.is_complete
    registry.further("0")
    assert registry.is_complete


def test_missing_streams_are_named() -> None:
    registry = StreamRegistry(16)
    registry.further("1")
    error = registry.missing(60)
    assert isinstance(error, StreamMissing)
    assert error.detail.startswith("the first request, the one with Multiplex-Stream-Count, did")
    registry.first("4")
    assert registry.missing(2.5).detail == (
        "stream 0, stream 2, stream 3 did not arrive within 2.5 s "
        "(system.transfers.streams.within)"
    )


def test_streams_have_names() -> None:
    assert (FIRST_NAME, name_of(3)) == ("the first request", "stream 3")
