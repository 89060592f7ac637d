"""How much a decompressor is given at a time: what fills a block, and no more."""

from __future__ import annotations

from collections import deque

import pytest

from wingsd.archive.decompress import STEP, Piece, StreamFormat
from wingsd.errors import ArchiveError

BLOCK = 496 << 10


class Growing:
    """Makes `ratio` bytes of each, of which it hands out no more than it is asked for."""

    eof = False
    unused_data = b""

    def __init__(self, ratio: int) -> None:
        self._ratio = ratio
        self._left = 0
        self.taken: list[int] = []
        self.given: list[int] = []

    @property
    def needs_input(self) -> bool:
        return not self._left

    def decompress(self, data: Piece, max_length: int) -> bytes:
        self._left += len(data) * self._ratio
        plain = bytes(min(self._left, max_length))
        self._left -= len(plain)
        self.taken.append(len(data))
        self.given.append(len(plain))
        return plain


def read(decompressor: Growing) -> None:
    """Have it read eight blocks of a stream, which is cut short behind them."""
    plain = StreamFormat("any", (b"x",), lambda: decompressor, tuple).plain(
        iter([b"x" * BLOCK] * 8)
    )
    with pytest.raises(ArchiveError, match="cut short"):
        deque(plain, maxlen=0)


@pytest.mark.parametrize("ratio", [1, 2, 3, 5, 7])
def test_what_is_given_fills_most_of_a_block_and_is_never_too_much(ratio: int) -> None:
    decompressor = Growing(ratio)
    read(decompressor)
    assert sum(decompressor.taken) == 8 * BLOCK
    assert 0 not in decompressor.taken  # nothing was left for a second call
    settled = decompressor.given[len(decompressor.given) // 2 :]
    assert min(settled) > STEP * (0.5 if ratio == 1 else 0.6)


def test_what_unpacks_to_very_much_is_given_in_small_pieces() -> None:
    decompressor = Growing(100)
    read(decompressor)
    assert max(decompressor.taken) <= 64 << 10


def test_what_unpacks_to_nothing_yet_is_not_given_in_endless_pieces() -> None:
    decompressor = Growing(0)
    read(decompressor)
    assert max(decompressor.taken) == BLOCK // 2


def test_after_the_end_of_a_stream_the_pieces_are_small_again() -> None:
    first, second = Growing(1), Growing(1)
    made = iter([first, second])
    plain = StreamFormat("any", (b"x",), lambda: next(made), tuple).plain(iter([b"x" * BLOCK] * 3))
    while sum(first.taken) < 2 * BLOCK:
        next(plain)
    first.eof = True
    with pytest.raises(ArchiveError, match="cut short"):
        deque(plain, maxlen=0)
    assert max(first.taken) == BLOCK // 2
    assert max(second.taken) <= 64 << 10
