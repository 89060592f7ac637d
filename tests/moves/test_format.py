"""The format of docs/moves.md, made here by hand; batches in pieces; pages of what is held."""

from __future__ import annotations

import random
from hashlib import sha256
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.documents import page
from wingsd.errors import BatchInvalid, HeldTreeInvalid
from wingsd.moves.batch import (
    AttributesFrame,
    BatchKind,
    BatchReader,
    BlockRun,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    Index,
    LinkFrame,
    PutFrame,
    Shape,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
    decode_index,
    encode_batch,
    make_index,
)
from wingsd.moves.digests import block_digest, block_digests
from wingsd.moves.filling import deflated, shrinks
from wingsd.moves.nodes import FileNode
from wingsd.moves.tree import MAX_PART, HeldTree, MoveLimits, MoveTree, held_limits

D, E = b"d" * 16, b"e" * 16
A = b"\x06\0user.a\x01\0v"


def digest(data: bytes) -> bytes:
    return sha256(data).digest()


ENCODED: list[tuple[Frame, bytes]] = [
    (DirectoryFrame(b"a", 0o755, -1), b"\x01\x01\0a\xed\x01" + b"\xff" * 8),
    (DirectoryFrame(b"", 0o755, 1), b"\x01\0\0\xed\x01" + pack("<q", 1)),
    (
        FileFrame(7, b"a/b", 0o600, 5, 70_000, 4096),
        b"\x02\x03\0a/b" + pack("<IHqQI", 7, 0o600, 5, 70_000, 4096),
    ),
    (LinkFrame(b"l", b"../t", 3), b"\x03\x01\0l\x04\0../t" + pack("<q", 3)),
    (HardFrame(b"h", b"a/b"), b"\x04\x01\0h\x03\0a/b"),
    (TakeFrame(b"a", 9), b"\x05\x01\0a\x09\0\0\0"),
    (PutFrame(b"a", 9), b"\x06\x01\0a\x09\0\0\0"),
    (GoneFrame(b"a"), b"\x07\x01\0a"),
    (
        WholeFrame(b"w", 0o1777, 2, 3, D),
        b"\x10\x01\0w" + pack("<HqI", 0o1777, 2, 3) + D,
    ),
    (
        DataFrame(7, 2, 4096, 100, D + E),
        b"\x11" + pack("<IIIII", 7, 2, 2, 4096, 100) + D + E,
    ),
    (ZeroFrame(7, 0, 5), b"\x12" + pack("<III", 7, 0, 5)),
    (
        DirectoryFrame(b"d", 0o755, 1, A),
        b"\x08\x01\0d\xed\x01" + pack("<q", 1) + b"\x0b\0" + A,
    ),
    (
        WholeFrame(b"w", 0o1777, 2, 3, D, A),
        b"\x13\x01\0w" + pack("<HqI", 0o1777, 2, 3) + D + b"\x0b\0" + A,
    ),
    (AttributesFrame(7, A), b"\x14\x07\0\0\0\x0b\0" + A),
    (AttributesFrame(7, b""), b"\x14\x07\0\0\0\0\0"),
]


@pytest.mark.parametrize(("frame", "encoded"), ENCODED, ids=lambda each: type(each).__name__)
def test_each_frame_has_the_bytes_of_the_document(frame: Frame, encoded: bytes) -> None:
    kind = 2 if encoded[0] >= 16 else 1
    index = pack("<QIBQI", 3, 1, kind, 2, 1) + encoded
    made = make_index(BatchKind(kind), 3, 1, 2, [frame])
    assert made.raw == index
    assert decode_index(index) == made
    batch = b"".join(encode_batch(made, [b"bytes"]))
    assert batch == b"WMVB\x01\0\0\0" + pack("<I", len(index)) + digest(index) + index + b"bytes"


def test_the_root_of_an_empty_directory() -> None:
    tree = MoveTree()
    tree.apply(DirectoryFrame(b"", 0o755, 1))
    empty = digest(b"wingsd move 1 directory\n")
    expected = digest(b"wingsd move 1 root\n" + pack("<Hq", 0o755, 1) + empty)
    assert tree.root() == expected
    assert expected.hex() in page("docs/protocol.md").text


def test_the_root_of_a_tree_with_everything() -> None:
    tree = MoveTree()
    data, small = b"x" * 70_000, b"small"
    shapes: list[Shape] = [
        DirectoryFrame(b"", 0o750, 1),
        DirectoryFrame(b"d", 0o700, 2),
        FileFrame(1, b"d/big", 0o644, 3, 70_000, 4096),
        LinkFrame(b"link", b"d/big", 4),
        # sorts before "d/big" as a whole, and after it by its names
        HardFrame(b"d-hard", b"d/big"),
    ]
    blocks = block_digests(data, 4096)
    for frame in shapes:
        tree.apply(frame)
    contents = (
        DataFrame(1, 0, 4096, 368, blocks),
        WholeFrame(b"empty", 0o600, 5, 0, digest(b"")[:16]),
        WholeFrame(b"small", 0o600, 6, 5, digest(small)[:16]),
    )
    for content in contents:
        tree.begin(content)
        tree.done(content)

    def file(size: int, block_size: int, digests: bytes) -> bytes:
        return digest(b"wingsd move 1 file\n" + pack("<QI", size, block_size) + digests)

    d = digest(
        b"wingsd move 1 directory\n"
        b"\x01\x03\0big" + pack("<HqQ", 0o644, 3, 70_000) + file(70_000, 4096, blocks)
    )
    top = digest(
        b"wingsd move 1 directory\n"
        b"\x04\x01\0d" + pack("<Hq", 0o700, 2) + d + b"\x03\x06\0d-hard\x05\0d/big"
        b"\x01\x05\0empty"
        + pack("<HqQ", 0o600, 5, 0)
        + file(0, 65_536, digest(b"")[:16])
        + b"\x02\x04\0link"
        + pack("<q", 4)
        + b"\x05\0d/big"
        b"\x01\x05\0small" + pack("<HqQ", 0o600, 6, 5) + file(5, 65_536, digest(small)[:16])
    )
    assert tree.root() == digest(b"wingsd move 1 root\n" + pack("<Hq", 0o750, 1) + top)


def test_the_root_of_a_tree_with_attributes() -> None:
    tree = MoveTree()
    for frame in (
        DirectoryFrame(b"", 0o750, 1, A),
        DirectoryFrame(b"d", 0o700, 2, A),
        FileFrame(1, b"n", 0o644, 3, 0, 4096),
    ):
        tree.apply(frame)
    for content in (AttributesFrame(1, A), WholeFrame(b"w", 0o600, 5, 0, digest(b"")[:16], A)):
        tree.begin(content)
        tree.done(content)

    def file(block_size: int, digests: bytes) -> bytes:
        return digest(b"wingsd move 1 file\n" + pack("<QI", 0, block_size) + digests)

    d = digest(b"wingsd move 1 directory\n")
    top = digest(
        b"wingsd move 1 directory\n"
        b"\x06\x01\0d"
        + pack("<Hq", 0o700, 2)
        + d
        + digest(A)
        + b"\x05\x01\0n"
        + pack("<HqQ", 0o644, 3, 0)
        + file(4096, b"")
        + digest(A)
        + b"\x05\x01\0w"
        + pack("<HqQ", 0o600, 5, 0)
        + file(65_536, digest(b"")[:16])
        + digest(A)
    )
    root = b"wingsd move 1 root\n" + pack("<Hq", 0o750, 1) + top + digest(A)
    assert tree.root() == digest(root)
    tree.apply(DirectoryFrame(b"", 0o750, 1))
    assert tree.root() == digest(root[:-32])
    assert tree.attribute_bytes == 3 * len(A)
    tree.apply(GoneFrame(b"d"))
    tree.apply(GoneFrame(b"n"))
    tree.apply(GoneFrame(b"w"))
    assert tree.attribute_bytes == 0


# Batches in pieces of any size: the same runs, and no copies where none are needed


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


# Pages of what a destination holds: whole trees of any size, and hostile answers


LIMITS = MoveLimits(10, 1 << 28)
FILE = FileFrame(1, b"f", 0o644, 1, 100_000, 4096)


def held_page(*frames: Frame, number: int = 1, in_round: int = 1) -> bytes:
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
    "a batch": [held_page(FILE, number=2)],
    "of a round": [held_page(FILE, in_round=2)],
    "a file taken out": [held_page(FILE), held_page(TakeFrame(b"f", 1))],
    "a file put": [held_page(PutFrame(b"f", 1))],
    "a name that is gone": [held_page(FILE), held_page(GoneFrame(b"f"))],
    "a path outside": [held_page(LinkFrame(b"../f", b"t", 1))],
    "no parent": [held_page(LinkFrame(b"d/f", b"t", 1))],
    "a name twice": [held_page(FILE), held_page(LinkFrame(b"f", b"t", 1))],
    "a number twice": [held_page(FILE), held_page(FileFrame(1, b"g", 0o644, 1, 1, 4096))],
    "blocks of no file": [held_page(ZeroFrame(1, 0, 1))],
    "blocks beyond the end": [held_page(FILE), held_page(ZeroFrame(1, 24, 2))],
    "a link to nothing": [held_page(HardFrame(b"a", b"b"))],
    "too many names": [held_page(*(LinkFrame(b"%d" % n, b"t", 1) for n in range(11)))],
    "too many bytes": [held_page(FileFrame(1, b"f", 0o644, 1, (1 << 28) + 1, 4096))],
    "the same without end": [
        held_page(FileFrame(1, b"f", 0o644, 1, 1 << 28, 4096)),
        *([held_page(DataFrame(1, 0, 4096, 4096, b"digest of block." * (1 << 16)))] * 20),
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


def test_pages_without_an_end_are_refused_however_small_they_are() -> None:
    tree = HeldTree(MoveLimits(10, 0))
    small = held_page(DirectoryFrame(b"", 0o755, 1))

    def endless() -> None:
        for _ in range(1000):
            tree.add(small)

    with pytest.raises(HeldTreeInvalid, match="larger than the server"):
        endless()
