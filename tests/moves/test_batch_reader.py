"""Batches in pieces of any size: the same runs, and no copies where none are needed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingsd.errors import BatchInvalid
from wingsd.moves.batch import (
    BatchKind,
    BatchReader,
    BlockRun,
    DataFrame,
    Frame,
    Index,
    WholeFrame,
    ZeroFrame,
    encode_batch,
    make_index,
)
from wingsd.moves.digests import block_digest, block_digests
from wingsd.moves.filling import deflated, shrinks

BYTES = random.Random(1).randbytes(30_000)
FRAMES: list[Frame] = [
    WholeFrame(b"empty", 0o644, 1, 0, block_digest(b"")),
    ZeroFrame(3, 0, 7),
    DataFrame(1, 2, 4096, 100, block_digests(BYTES[: 2 * 4096 + 100], 4096)),
    WholeFrame(b"small", 0o644, 1, 11, block_digest(b"hello world")),
    ZeroFrame(2, 0, 1),
]
INDEX = make_index(BatchKind.DATA, 1, 1, 0, FRAMES)
CONTENTS = [BYTES[: 2 * 4096 + 100], b"hello world"]
BATCH = b"".join(encode_batch(INDEX, CONTENTS))


def contents(events: list[Index | BlockRun]) -> list[tuple[Frame, int, int, bytes]]:
    """Return runs, those of one frame joined."""
    found: list[tuple[Frame, int, int, bytes]] = []
    for event in events:
        if isinstance(event, Index):
            assert event == INDEX
        elif found and found[-1][0] is event.frame:
            frame, first, count, data = found[-1]
            assert event.first == first + count
            found[-1] = (frame, first, count + event.count, data + bytes(event.data))
        else:
            found.append((event.frame, event.first, event.count, bytes(event.data)))
    return found


EXPECTED = [
    (FRAMES[0], 0, 1, b""),
    (FRAMES[1], 0, 7, b""),
    (FRAMES[2], 2, 3, CONTENTS[0]),
    (FRAMES[3], 0, 1, CONTENTS[1]),
    (FRAMES[4], 0, 1, b""),
]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 10_000), max_size=20), st.booleans())
def test_pieces_of_any_size_are_the_same_batch(sizes: list[int], zstd: bool) -> None:
    data = b"".join(deflated([BATCH])) if zstd else BATCH
    reader = BatchReader(zstd=zstd)
    events: list[Index | BlockRun] = []
    at = 0
    for size in (*sizes, len(data)):
        # slices of bytes stay as they are, and runs with them
        events += reader.feed(data[at : at + size])
        at += size
    assert reader.finish() == INDEX
    assert contents(events) == EXPECTED


def test_blocks_within_one_piece_are_views_of_it() -> None:
    runs = [event for event in BatchReader().feed(BATCH) if isinstance(event, BlockRun)]
    assert [run.count for run in runs] == [1, 7, 3, 1, 1]
    assert all(run.data.obj is BATCH for run in runs if run.data)


def test_every_cut_is_found() -> None:
    for end in range(0, len(BATCH), 97):
        reader = BatchReader()
        list(reader.feed(BATCH[:end]))
        with pytest.raises(BatchInvalid, match="ends in the middle"):
            reader.finish()


def test_what_does_not_shrink_is_not_compressed() -> None:
    assert not shrinks(BYTES)
    assert not shrinks(b"")
    assert shrinks(b"abcd" * 1000)
