"""Trees in memory: a change costs the digests above it, and no more."""

from __future__ import annotations

import hashlib

import pytest

from tests.moves.moving import LIMITS
from wingsd.errors import DiskLimitExceeded, FrameRefused, RoundIncomplete
from wingsd.moves.batch import (
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    PutFrame,
    Shape,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
)
from wingsd.moves.digests import block_digest
from wingsd.moves.ledger import LedgerReader, LedgerState, LedgerWriter, RecordType, recover
from wingsd.moves.nodes import DirectoryNode, pack_file
from wingsd.moves.tree import MoveLimits, MoveTree, directory_hash


def whole(tree: MoveTree, path: bytes, data: bytes = b"data") -> None:
    frame = WholeFrame(path, 0o644, 1, len(data), block_digest(data))
    tree.begin(frame)
    tree.done(frame)


@pytest.mark.promise("move-requests-are-bounded")
def test_files_that_wait_in_slots_are_counted() -> None:
    tree = MoveTree(MoveLimits(4, 100))
    for name in (b"a", b"b", b"c"):
        whole(tree, name)
    for slot, name in enumerate((b"a", b"b", b"c")):
        tree.apply(TakeFrame(name, slot))
    whole(tree, b"d")
    for slot in range(3):
        tree.apply(PutFrame(b"put%d" % slot, slot))
    assert (tree.members, tree.bytes, tree.slots) == (4, 16, {})
    tree.apply(TakeFrame(b"put0", 0))
    with pytest.raises(FrameRefused, match="more than 4 files"):
        whole(tree, b"e")


@pytest.fixture
def tree() -> MoveTree:
    made = MoveTree(LIMITS)
    for path in (b"a", b"a/b", b"a/c", b"d", b"d/e"):
        made.apply(DirectoryFrame(path, 0o755, 1))
        whole(made, path + b"/file")
    return made


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets an entry for each directory whose digest is computed."""
    counted: list[int] = []

    def counting() -> hashlib._Hash:
        counted.append(1)
        return directory_hash()

    monkeypatch.setattr("wingsd.moves.tree.directory_hash", counting)
    return counted


CHANGES: dict[str, tuple[list[Shape], int]] = {
    "a directory's time": ([DirectoryFrame(b"a/b", 0o755, 2)], 2),
    "a new file": ([FileFrame(1, b"d/big", 0o644, 1, 0, 4096)], 2),
    "a file that is gone": ([GoneFrame(b"a/c/file")], 3),
    "a move": ([TakeFrame(b"a/c/file", 0), PutFrame(b"d/moved", 0)], 4),
    "a hard link": ([HardFrame(b"d/e/hard", b"a/file")], 4),
    "the top directory's time": ([DirectoryFrame(b"", 0o755, 2)], 0),
    "a directory that is gone": ([GoneFrame(b"a")], 1),
}


def test_what_was_found_absent_is_there_when_it_was_added(tree: MoveTree) -> None:
    tree.root()  # all of it is stored
    paths = [b"a/file", b"a/new", b"a/other", b"a/b/new"]
    whole(tree, b"a/b/new")  # in memory alone
    assert tree.store.absent(paths) == {b"a/new", b"a/other"}
    assert [tree.find(path) is not None for path in paths] == [True, False, False, True]
    whole(tree, b"a/new")
    tree.reserve(b"a/other", 1, 0)
    tree.add_reserved(b"a", [(b"other", pack_file(0o644, 1, 0, (1, 1), b""))])
    assert not tree.store.absent(paths)
    assert all(tree.find(path) is not None for path in paths)
    tree.remove(b"a/new")
    assert tree.find(b"a/new") is None


@pytest.mark.parametrize(("changes", "count"), CHANGES.values(), ids=CHANGES)
def test_a_change_costs_the_digests_of_its_directories(
    tree: MoveTree, computed: list[int], changes: list[Shape], count: int
) -> None:
    before = tree.root()
    computed.clear()
    for change in changes:
        tree.apply(change)
    found = tree.root()
    assert found != before
    assert len(computed) == count
    again = MoveTree()
    for frame in tree.frames():
        _add(again, frame)
    assert again.root() == found


def _add(tree: MoveTree, frame: Frame) -> None:
    if isinstance(frame, Shape):
        tree.apply(frame)
    else:
        tree.begin(frame)
        tree.done(frame)


def test_the_root_is_not_told_while_a_block_is_missing(tree: MoveTree) -> None:
    tree.apply(FileFrame(1, b"big", 0o644, 1, 10_000, 4096))
    with pytest.raises(RoundIncomplete, match='blocks of "big" are missing'):
        tree.root()
    tree.done(ZeroFrame(1, 0, 3))
    assert tree.root()
    tree.apply(FileFrame(1, b"big", 0o644, 1, 9_999, 4096))
    assert [path for path, _ in tree.missing()] == [b"big"]


def test_thousands_of_names_of_one_file_take_no_square_of_time(computed: list[int]) -> None:
    tree = MoveTree()
    whole(tree, b"f")
    # each becomes the first one
    for n in range(5_000, 0, -1):
        tree.apply(HardFrame(b"%05d" % n, b"f"))
        if n % 1000 == 0:
            tree.apply(DirectoryFrame(b"", 0o755, n))
    tree.root()
    for n in range(1, 5_001):
        tree.apply(GoneFrame(b"%05d" % n))
    assert tree.members == 1
    tree.root()
    assert len(computed) == 2


def test_a_snapshot_is_the_same_tree(tree: MoveTree) -> None:
    tree.apply(FileFrame(4, b"sparse", 0o600, 5, 3 << 20, 4096))
    tree.done(ZeroFrame(4, 0, 768))
    tree.apply(HardFrame(b"a/hard", b"sparse"))
    writer = LedgerWriter()
    state = LedgerState(3, 20, 9, 15, bytes(32)).encode()
    records = [writer.header(b"m" * 16), writer.record(RecordType.STATE, state)]
    records += [writer.record(RecordType.PART, part) for part in tree.parts()]
    records.append(writer.record(RecordType.END))
    found = recover(LedgerReader(records), LIMITS)
    assert found.tree.root() == tree.root()
    assert found.tree.last_number == 9
    assert (found.tree.members, found.tree.bytes) == (tree.members, tree.bytes)
    received = found.received
    assert (received.round, received.upto, received.closed, received.shape) == (4, 20, 20, 15)


@pytest.mark.promise("move-requests-are-bounded")
def test_attributes_are_bounded() -> None:
    tree = MoveTree(MoveLimits(10_000, 1 << 20))
    value = bytes(60_000)
    for number in range(1_119):  # 64 MiB, and a sixteenth of the disk limit
        tree.add(b"%d" % number, DirectoryNode(0o755, 1, value))
        tree.trim()
    with pytest.raises(DiskLimitExceeded, match="extended attributes"):
        tree.add(b"more", DirectoryNode(0o755, 1, value))
