"""Pages of what a destination holds: whole trees of any size, and hostile answers."""

from __future__ import annotations

import random

import pytest

from wingsd.errors import HeldTreeInvalid
from wingsd.moves.batch import (
    BatchKind,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
    make_index,
)
from wingsd.moves.digests import block_digest
from wingsd.moves.nodes import FileNode
from wingsd.moves.tree import MAX_PART, HeldTree, MoveLimits, MoveTree, held_limits

LIMITS = MoveLimits(10, 1 << 28)
FILE = FileFrame(1, b"f", 0o644, 1, 100_000, 4096)


def page(*frames: Frame, number: int = 1, in_round: int = 1) -> bytes:
    data = isinstance(frames[0], WholeFrame | DataFrame | ZeroFrame)
    kind = BatchKind.DATA if data else BatchKind.SHAPE
    return make_index(kind, number, in_round, 0, frames).raw


def test_a_large_tree_with_unknown_blocks_comes_in_pages() -> None:
    random_ = random.Random(1)
    tree = MoveTree()
    for n in range(2_000):
        path = b"directory/%04d" % n
        if not n:
            tree.apply(DirectoryFrame(b"directory", 0o755, 5))
        frame = WholeFrame(path, 0o600, n, 60_000, random_.randbytes(16))
        tree.begin(frame)
        tree.done(frame)
    # more bytes than a batch may have
    tree.apply(FileFrame(3, b"world", 0o644, 1, (1 << 30) - 1, 16_384))
    for first in range(0, 65_536, 256):
        if first % 1024:
            digests = random_.randbytes(16 * 256)
            last = 16_383 if first == 65_280 else 16_384
            tree.done(DataFrame(3, first, 16_384, last, digests))
    tree.apply(LinkFrame(b"link", b"world", 2))
    tree.apply(HardFrame(b"directory/hard", b"world"))
    found = list(tree.parts())
    assert len(found) > 1
    assert max(map(len, found)) <= MAX_PART
    held = HeldTree(held_limits(MoveTree()))
    for part in found:
        held.add(part)
    copy = held.finish(7)
    assert copy.last_number == 7
    assert [f.encode() for f in copy.frames()] == [f.encode() for f in tree.frames()]
    missing = 64 * 256 * 16_384
    assert copy.held_bytes() == tree.held_bytes() == 2_000 * 60_000 + (1 << 30) - 1 - missing
    node = copy.find(b"world")
    assert isinstance(node, FileNode)
    assert node.blocks.missing == 64 * 256


HOSTILE: dict[str, list[bytes]] = {
    "no page": [b""],
    "nonsense": [b"nonsense" * 10],
    "too long": [bytes(MAX_PART + 1)],
    "a batch": [page(FILE, number=2)],
    "of a round": [page(FILE, in_round=2)],
    "a file taken out": [page(FILE), page(TakeFrame(b"f", 1))],
    "a file put": [page(PutFrame(b"f", 1))],
    "a name that is gone": [page(FILE), page(GoneFrame(b"f"))],
    "a path outside": [page(LinkFrame(b"../f", b"t", 1))],
    "no parent": [page(LinkFrame(b"d/f", b"t", 1))],
    "a name twice": [page(FILE), page(LinkFrame(b"f", b"t", 1))],
    "a number twice": [page(FILE), page(FileFrame(1, b"g", 0o644, 1, 1, 4096))],
    "blocks of no file": [page(ZeroFrame(1, 0, 1))],
    "blocks beyond the end": [page(FILE), page(ZeroFrame(1, 24, 2))],
    "a link to nothing": [page(HardFrame(b"a", b"b"))],
    "too many names": [page(*(LinkFrame(b"%d" % n, b"t", 1) for n in range(11)))],
    "too many bytes": [page(FileFrame(1, b"f", 0o644, 1, (1 << 28) + 1, 4096))],
    "the same without end": [
        page(FileFrame(1, b"f", 0o644, 1, 1 << 28, 4096)),
        *([page(DataFrame(1, 0, 4096, 4096, b"digest of block." * (1 << 16)))] * 20),
    ],
}


@pytest.mark.promise("move-requests-are-bounded")
@pytest.mark.parametrize("pages", HOSTILE.values(), ids=HOSTILE)
def test_pages_that_no_destination_tells_are_refused(pages: list[bytes]) -> None:
    held = HeldTree(LIMITS)

    def add() -> None:
        for each in pages:
            held.add(each)

    with pytest.raises(HeldTreeInvalid, match="remove the partial copy"):
        add()


@pytest.mark.parametrize("number", [-1, 0, 1 << 31, 1 << 64])
def test_a_highest_number_that_cannot_be_is_refused(number: int) -> None:
    held = HeldTree(LIMITS)
    held.add(page(FILE))
    held.add(page(WholeFrame(b"w", 0o600, 1, 1, block_digest(b"1"))))
    with pytest.raises(HeldTreeInvalid, match="highest number"):
        held.finish(number)
    assert held.finish(1).members == 2


def test_pages_without_an_end_are_refused_however_small_they_are() -> None:
    tree = HeldTree(MoveLimits(10, 0))
    small = page(DirectoryFrame(b"", 0o755, 1))

    def endless() -> None:
        for _ in range(1000):
            tree.add(small)

    with pytest.raises(HeldTreeInvalid, match="larger than the server"):
        endless()
