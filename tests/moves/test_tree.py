"""Trees of moves: their entries, the digests of their blocks, and plans between two of them."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.moves.moving import LIMITS, Source
from wingsd.errors import (
    DiskLimitExceeded,
    FrameRefused,
    SourceFileChanged,
    TreeTooLarge,
)
from wingsd.moves.batch import (
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    PutFrame,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
    frame_bytes,
)
from wingsd.moves.digests import DIGEST, UNKNOWN, block_digest, zero_digest
from wingsd.moves.filling import Batch
from wingsd.moves.ledger import LedgerReader, LedgerState, LedgerWriter, RecordType, recover
from wingsd.moves.nodes import BlockDigests, DirectoryNode, FileNode
from wingsd.moves.tree import MoveLimits, MoveTree


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


# Digests of blocks are as in a list of them, whatever is done


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


# Plans of rounds: renames and links are told, and only what differs is sent


DATA = random.Random(1).randbytes(200_000)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Return a source that has sent two large files and a small one."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(DATA + name.encode())
    (tmp_path / "d").mkdir()
    (tmp_path / "d/small").write_bytes(b"small")
    made = Source(1 << 20, tmp_path)
    made.round()
    return made


def frames(batches: Sequence[Batch]) -> list[Frame]:
    """Return the frames but for those of the top directory, whose time changes."""
    found = [frame for batch in batches for frame in batch.index.frames]
    return [f for f in found if not isinstance(f, DirectoryFrame) or f.path]


def sent(batches: Sequence[Batch]) -> int:
    return sum(frame_bytes(frame) for frame in frames(batches))


def test_files_that_are_the_same_by_their_stat_results_are_not_read(source: Source) -> None:
    read: list[bytes] = []

    def unchanged(before: FileNode, node: FileNode) -> bool:
        same = before.stamp == node.stamp
        if not same:
            read.append(node.names[0])
        return same

    assert source.root is not None
    with (source.root / "a").open("r+b") as file:
        file.write(b"x")
    root = source.sent.root()
    batches = source.round(unchanged=unchanged)
    assert read == [b"a"]
    assert [type(frame) for frame in frames(batches)] == [FileFrame, DataFrame]
    assert sent(batches) == 4096
    assert source.sent.root() != root


def test_a_swap_sends_no_bytes(source: Source) -> None:
    assert source.root is not None
    (source.root / "a").rename(source.root / "c")
    (source.root / "b").rename(source.root / "a")
    (source.root / "c").rename(source.root / "b")
    removal, creation = source.round()
    assert removal.index.frames == (TakeFrame(b"b", 0), TakeFrame(b"a", 1))
    assert frames([creation]) == [PutFrame(b"a", 0), PutFrame(b"b", 1)]


def test_a_file_that_was_written_anew_and_renamed_over_sends_what_differs(source: Source) -> None:
    assert source.root is not None
    (source.root / "new").write_bytes(DATA[:100_000] + b"x" + DATA[100_001:] + b"a")
    (source.root / "new").rename(source.root / "a")
    batches = source.round()
    assert [type(frame) for frame in frames(batches)] == [FileFrame, DataFrame]
    assert sent(batches) == 4096


def test_names_of_a_hard_link_are_linked_again_without_bytes(source: Source) -> None:
    assert source.root is not None
    os.link(source.root / "a", source.root / "z")
    assert frames(source.round()) == [HardFrame(b"z", b"a")]
    (source.root / "a").unlink()
    os.link(source.root / "z", source.root / "d/a")
    gone, made = source.round()
    assert gone.index.frames == (GoneFrame(b"a"),)
    assert [f for f in frames([made]) if not isinstance(f, DirectoryFrame)] == [
        HardFrame(b"d/a", b"z")
    ]


def test_no_batch_is_larger_than_its_limit(tmp_path: Path) -> None:
    for n in range(40):
        (tmp_path / f"f{n}").write_bytes(DATA[: n * 2000])
    (tmp_path / "big").write_bytes(DATA * 10)
    source = Source(256 << 10, tmp_path)
    batches = source.round()
    sizes = [sum(map(len, batch.pieces())) for batch in batches]
    assert max(sizes) <= 256 << 10
    assert sum(sizes) / len(sizes) > 128 << 10
    assert [batch.index.number for batch in batches] == list(range(1, len(batches) + 1))


def test_a_file_that_changes_between_the_walk_and_the_reading_is_named(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source.root is not None
    path = source.root / "a"
    real = os.pread

    def growing(fd: int, length: int, at: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"x")
        return real(fd, length, at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", growing)
        with pytest.raises(SourceFileChanged, match='"a" was changed'):
            source.round()


def test_a_path_that_no_destination_would_take_is_told_by_the_source(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(257):
        deep /= "d"
    os.makedirs(deep)
    with pytest.raises(TreeTooLarge, match="nested too deeply"):
        Source(root=tmp_path).round()
