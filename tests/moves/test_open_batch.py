"""Data batches that are being received: the tree is what a replay of the ledger makes of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.moves.changing import Changes, change
from tests.moves.moving import Destination, Source, differing, feed, resume
from wingsd.errors import DiskLimitExceeded, RoundIncomplete, ShapeMissing, StorageError
from wingsd.moves.batch import (
    BatchKind,
    BatchReader,
    BlockRun,
    DirectoryFrame,
    Frame,
    Index,
    WholeFrame,
    encode_batch,
    make_index,
)
from wingsd.moves.destination import MoveDestination
from wingsd.moves.digests import UNKNOWN, block_digest
from wingsd.moves.filling import Batch
from wingsd.moves.ledger import LedgerReader, recover
from wingsd.moves.nodes import DirectoryNode, EntryStore, FileNode
from wingsd.moves.tree import MoveLimits, MoveTree

Steps = list[tuple[str, int, int, bytes]]


def new_files(**sizes: int) -> tuple[list[Frame], bytes]:
    """Return frames of files that come as a whole, and their bytes."""
    contents = {name.encode(): b"x" * size for name, size in sizes.items()}
    frames: list[Frame] = [
        WholeFrame(path, 0o644, 1, len(data), block_digest(data))
        for path, data in contents.items()
    ]
    return frames, b"".join(contents.values())


def send(to: MoveDestination, number: int, **sizes: int) -> None:
    frames, content = new_files(**sizes)
    feed(to, encode_batch(make_index(BatchKind.DATA, number, 1, 0, frames), [content]))


def runs(batch: Batch) -> list[BlockRun]:
    events = BatchReader().feed(b"".join(batch.pieces()))
    return [event for event in events if isinstance(event, BlockRun)]


@pytest.mark.parametrize("is_smaller_first", [True, False])
def test_what_is_within_the_limits_is_so_when_the_ledger_is_read_again(
    tmp_path: Path, *, is_smaller_first: bool
) -> None:
    destination = Destination(tmp_path, MoveLimits(10, 100))
    with destination.open() as to:
        send(to, 1, b=100)
        to.checkpoint()
        if is_smaller_first:
            send(to, 2, b=50, a=50)
        else:
            with pytest.raises(DiskLimitExceeded):
                send(to, 2, a=50, b=50)
    with destination.open() as to:
        assert (to.tree.members, to.tree.bytes) == ((2, 100) if is_smaller_first else (1, 100))


def test_new_files_of_many_directories_take_little_memory(tmp_path: Path) -> None:
    names = [b"%d" % number for number in range(500)]
    digest = block_digest(b"")
    with Destination(tmp_path).open() as to:
        shapes = [DirectoryFrame(name, 0o755, 1) for name in names]
        to.begin(make_index(BatchKind.SHAPE, 1, 1, 0, shapes))
        wholes = [WholeFrame(name + b"/f", 0o644, 1, 0, digest) for name in names]
        index = make_index(BatchKind.DATA, 2, 1, 1, wholes)
        to.begin(index)
        assert len(to.tree.store._entries) < 100
        to.end(index)
        assert len(to.tree.store._entries) < 100
        assert to.tree.members == 1000


@pytest.mark.parametrize("error", [StorageError("the disk is full"), MemoryError()])
@pytest.mark.parametrize(
    "act", [MoveDestination.end, MoveDestination.abandon, lambda to, index: to.rebase()]
)
def test_nothing_is_taken_after_new_files_could_not_be_stored(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[MoveDestination, Index], object],
    error: Exception,
) -> None:
    destination = Destination(tmp_path)
    frames, _ = new_files(new=5)
    index = make_index(BatchKind.DATA, 1, 1, 0, frames)

    def failing(self: EntryStore, *args: object) -> None:
        raise error

    with destination.open() as to:
        to.begin(index)
        (destination.tree / "new").write_bytes(b"part")
        with monkeypatch.context() as patch:
            patch.setattr(EntryStore, "insert", failing)
            with pytest.raises(type(error)):
                act(to, index)
        # else the next ledger would know nothing of the file, which would stay
        for again in (to.rebase, lambda: to.begin(index), lambda: to.end(index)):
            with pytest.raises(StorageError, match="applied in part"):
                again()
    with destination.open() as to:
        to.rebase()
    assert not (destination.tree / "new").exists()


def entries(tree: MoveTree) -> dict[bytes, list[object]]:
    """Return the names of a tree with all that is known of each."""
    found: dict[bytes, list[object]] = {}
    for path, node in tree.walk():
        if isinstance(node, FileNode):
            digests = node.blocks.get(0, node.blocks.count)
            meta = (node.mode, node.mtime, node.size, node.number)
            found[path] = [*meta, tuple(node.names), digests]
        elif isinstance(node, DirectoryNode):
            found[path] = [node.mode, node.mtime]
        else:
            found[path] = [node.target, node.mtime, tuple(node.names)]
    return found


def check_replayed(to: MoveDestination, destination: Destination, begun: list[Index]) -> None:
    """Check that a replay makes the same of the ledger; `begun` are batches that are open."""
    ledger = (destination.place / "ledger").read_bytes()[: to.ledger.size]
    found = recover(LedgerReader([ledger]), destination.limits)
    for index in found.unproven:
        for frame in index.contents if index.number in found.undurable else ():
            found.tree.done(frame)
    expected = entries(to.tree)
    for frame in (frame for index in begun for frame in index.contents):
        if isinstance(frame, WholeFrame) and frame.path not in expected:
            meta = (frame.mode, frame.mtime, frame.size, 0)
            expected[frame.path] = [*meta, (frame.path,), UNKNOWN]
    tree = found.tree
    with closing(tree.store):
        assert entries(tree) == expected
        assert (tree.members, tree.bytes) == (to.tree.members, to.tree.bytes)


Begun = dict[int, tuple[Batch, list[BlockRun]]]


def step(to: MoveDestination, waiting: list[Batch], begun: Begun, random_: random.Random) -> None:
    """Begin a batch, go on with one that was begun, or do what may be done in between."""
    act = random_.choice(("begin", "begin", "write", "end", "end", "abandon", "flush", "root"))
    if act == "begin" and waiting and len(begun) < 3:
        batch = waiting.pop(random_.randrange(len(waiting)))
        try:
            to.begin(batch.index)
        except ShapeMissing:
            waiting.append(batch)
        else:
            begun[batch.index.number] = (batch, runs(batch))
    elif act in ("write", "end", "abandon") and begun:
        number = random_.choice(sorted(begun))
        batch, left = begun[number]
        count = len(left) if act == "end" else random_.randrange(len(left) + 1)
        to.write(batch.index, left[:count])
        del left[:count]
        if act == "end":
            to.end(batch.index)
        elif act == "abandon":
            to.abandon(batch.index)
            waiting.append(batch)
        if act != "write":
            del begun[number]
    elif act == "flush":
        to.checkpoint()
    else:
        with suppress(RoundIncomplete):
            to.tree.root()


@pytest.mark.root
@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.lists(change, max_size=15), st.booleans()), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
def test_the_tree_is_always_what_a_replay_of_the_ledger_makes_of_it(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[Steps, bool]], seed: int
) -> None:
    place = tmp_path_factory.mktemp("move")
    root = place / "source"
    root.mkdir()
    changes, random_ = Changes(root), random.Random(seed)
    destination = Destination(place / "destination")
    source = Source(1 << 16, root)
    with destination.open() as to:
        for steps, is_given_up in rounds:
            for each in steps:
                changes.run(each)
            waiting = source.round()
            while waiting and waiting[0].index.kind is BatchKind.SHAPE:
                feed(to, waiting.pop(0).pieces())
            begun: Begun = {}
            for _ in range(20):
                step(to, waiting, begun, random_)
                check_replayed(to, destination, [batch.index for batch, _ in begun.values()])
            if is_given_up:
                source = resume(to, root, 1 << 16)
            else:
                while waiting or begun:
                    step(to, waiting, begun, random_)
                to.close_round(source.filler.round, source.filler.number, source.sent.root())
                assert differing(to, destination.tree) == []
            check_replayed(to, destination, [])
