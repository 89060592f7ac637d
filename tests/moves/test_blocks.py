"""Digests of blocks are as in a list of them, whatever is done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wingsd.moves.digests import DIGEST, UNKNOWN, zero_digest
from wingsd.moves.nodes import BlockDigests

number = st.integers(0, 1200)
step = st.tuples(st.sampled_from(("set", "zeros", "forget", "resize")), number, number)


@given(number, st.lists(step, max_size=12))
def test_any_changes_are_those_of_a_list(count: int, steps: list[tuple[str, int, int]]) -> None:
    blocks, model = BlockDigests(count), [UNKNOWN] * count
    for kind, first, size in steps:
        if kind == "resize":
            blocks.resize(first)
            model = [*model[:first], *[UNKNOWN] * (first - len(model))]
            continue
        end = min(first + size, len(model))
        if first >= end:
            continue
        if kind == "set":
            digests = [bytes([1 + n % 255]) * DIGEST for n in range(first, end)]
            blocks.set(first, b"".join(digests))
        elif kind == "zeros":
            last = 100 if end == len(model) else 4096
            digests = [zero_digest(4096)] * (end - first - 1) + [zero_digest(last)]
            blocks.set_zeros(first, end - first, 4096, last)
        else:
            digests = [UNKNOWN] * (end - first)
            blocks.forget(first, end - first)
        model[first:end] = digests
    assert blocks.count == len(model)
    assert blocks.get(0, len(model)) == b"".join(model) == b"".join(blocks.portions())
    assert blocks.missing == model.count(UNKNOWN)
    known = {
        first + n: digests[n * DIGEST : n * DIGEST + DIGEST]
        for first, digests in blocks.runs()
        for n in range(len(digests) // DIGEST)
    }
    assert known == {n: digest for n, digest in enumerate(model) if digest != UNKNOWN}


def test_a_hole_of_a_tebibyte_takes_little_memory() -> None:
    blocks = BlockDigests(1 << 24)
    blocks.set_zeros(0, 1 << 24, 65_536, 65_536)
    assert not blocks.missing
    assert len({id(page) for page in blocks._pages.values()}) == 1
