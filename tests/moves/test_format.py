"""The format of docs/protocol.md, made here by hand: it is the same in every version."""

from __future__ import annotations

from hashlib import sha256
from struct import pack

import pytest

from tests.support.documents import page
from wingsd.moves.batch import (
    AttributesFrame,
    BatchKind,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
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
from wingsd.moves.digests import block_digests
from wingsd.moves.tree import MoveTree

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
