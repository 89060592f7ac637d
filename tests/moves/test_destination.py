"""The destination of a move: what it takes together, repeats, refuses and proves."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.moves.changing import Changes, change
from tests.moves.moving import LIMITS, Destination, Source, differing, feed, resume
from wingsd.errors import (
    BatchConflict,
    FrameRefused,
    RootMismatch,
    RoundIncomplete,
    ShapeMissing,
    StorageError,
)
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import (
    BatchKind,
    BatchReader,
    BlockRun,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    Index,
    PutFrame,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
    encode_batch,
    make_index,
)
from wingsd.moves.destination import MoveDestination
from wingsd.moves.digests import UNKNOWN, block_digest, block_digests
from wingsd.moves.filling import Batch
from wingsd.moves.ledger import LedgerReader, recover
from wingsd.moves.nodes import DirectoryNode, EntryStore, FileNode
from wingsd.moves.tree import MoveTree

DATA = b"d" * 12_288


def shape(number: int, needs: int, *frames: Frame) -> Index:
    return make_index(BatchKind.SHAPE, number, 1, needs, frames)


def data(number: int, *frames: Frame) -> Index:
    return make_index(BatchKind.DATA, number, 1, 1, frames)


FILE = shape(1, 0, FileFrame(1, b"f", 0o640, 7, len(DATA), 4096))
FIRST = data(2, DataFrame(1, 0, 4096, 4096, block_digests(DATA[:8192], 4096)))
SECOND = data(3, DataFrame(1, 2, 4096, 4096, block_digest(DATA[:4096])))
ALL = data(4, ZeroFrame(1, 0, 3))
TAKE, PUT = shape(2, 1, TakeFrame(b"f", 0)), shape(3, 2, PutFrame(b"g", 0))


def runs(index: Index, content: bytes) -> list[BlockRun]:
    events = BatchReader().feed(b"".join(encode_batch(index, [content])))
    return [event for event in events if isinstance(event, BlockRun)]


@pytest.fixture
def destination(tmp_path: Path) -> Destination:
    return Destination(tmp_path, LIMITS)


def test_batches_of_different_blocks_are_received_at_once(destination: Destination) -> None:
    with destination.open() as to:
        assert to.begin(FILE)
        assert to.begin(SECOND)
        assert to.begin(FIRST)
        with pytest.raises(ShapeMissing, match="being received already"):
            to.begin(FIRST)
        with pytest.raises(ShapeMissing, match="has contents of batch"):
            to.begin(ALL)
        with pytest.raises(ShapeMissing, match="is applied alone"):
            to.begin(shape(5, 1, GoneFrame(b"f")))
        for index, content in ((SECOND, DATA[:4096]), (FIRST, DATA[:8192])):
            for run in runs(index, content):
                to.write(index, [run])
            to.end(index)
            # of 2, none has arrived when 3 has
            assert to.durable == 1
        assert not to.begin(FIRST)
        assert (to.received.upto, to.durable) == (3, 1)
        to.checkpoint()
        assert to.durable == 3
        to.close_round(1, 3, to.tree.root())
    assert (destination.tree / "f").read_bytes() == DATA


def test_a_batch_is_on_stable_storage_before_another_overwrites_what_it_has(
    destination: Destination,
) -> None:
    def whole(number: int, path: bytes, content: bytes) -> Index:
        return data(number, WholeFrame(path, 0o600, number, len(content), block_digest(content)))

    with destination.open() as to:
        to.begin(FILE)
        feed(to, encode_batch(FIRST, [DATA[:8192]]))
        feed(to, encode_batch(SECOND, [DATA[:4096]]))
        feed(to, encode_batch(whole(4, b"w", b"1234"), [b"1234"]))
        feed(to, encode_batch(whole(5, b"x", b""), []))
        assert to.durable == 1
        feed(to, encode_batch(whole(6, b"w", b"5"), [b"5"]))
        assert to.durable == 5
        feed(to, encode_batch(data(7, ZeroFrame(1, 2, 1)), []))
        assert to.durable == 5
        feed(to, encode_batch(data(8, ZeroFrame(1, 1, 2)), []))
        assert to.durable == 7
        root = to.tree.root()
    with destination.open() as to:
        assert (to.received.upto, to.durable) == (8, 8)
        assert to.tree.root() == root


def test_a_batch_that_was_given_up_may_come_with_other_contents(destination: Destination) -> None:
    with destination.open() as to:
        to.begin(FILE)
        to.begin(FIRST)
        to.abandon(FIRST)
        other = data(2, ZeroFrame(1, 0, 3))
        assert feed(to, encode_batch(other, ()))
        with pytest.raises(BatchConflict, match="with other contents"):
            to.begin(FIRST)
        root = to.tree.root()
    with destination.open() as to:
        assert to.tree.root() == root
        to.close_round(1, 2, root)


def test_a_round_is_closed_when_all_of_it_is_here_and_equal(destination: Destination) -> None:
    whole = WholeFrame(b"w", 0o600, 5, 4, block_digest(b"1234"))
    with destination.open() as to:
        to.begin(FILE)
        feed(to, encode_batch(FIRST, [DATA[:8192]]))
        with pytest.raises(RoundIncomplete, match="those up to 2 are here"):
            to.close_round(1, 3, bytes(32))
        with pytest.raises(RoundIncomplete, match='blocks of "f" are missing'):
            to.close_round(1, 2, bytes(32))
        feed(to, encode_batch(SECOND, [DATA[:4096]]))
        with pytest.raises(RootMismatch, match="compare the directories"):
            to.close_round(1, 3, bytes(32))
        with pytest.raises(BatchConflict, match="is not what is open"):
            to.close_round(1, 2, to.tree.root())
        root = to.tree.root()
        to.close_round(1, 3, root)
        with pytest.raises(RootMismatch, match="with another root"):
            to.close_round(1, 3, bytes(32))
        with pytest.raises(BatchConflict, match="is of round 1"):
            to.begin(data(4, whole))
        assert not to.begin(FIRST)
    with destination.open() as to:
        to.close_round(1, 3, root)
        assert to.received.round == 2


def test_a_batch_that_was_given_up_belongs_to_a_round_that_is_open(
    destination: Destination,
) -> None:
    whole = WholeFrame(b"w", 0o600, 5, 4, block_digest(b"1234"))
    index = make_index(BatchKind.DATA, 2, 2, 1, [whole])
    with destination.open() as to:
        to.begin(shape(1, 0, DirectoryFrame(b"d", 0o755, 1)))
        to.close_round(1, 1, to.tree.root())
        assert to.is_between_rounds
        to.begin(index)
        to.write(index, runs(index, b"1234"))
        assert not to.is_between_rounds
        to.abandon(index)
        assert (destination.tree / "w").exists()
        assert not to.is_between_rounds  # with what is there, nothing may be committed
    with destination.open() as to:
        assert not to.is_between_rounds
        to.rebase()
        to.close_round(3, 2, to.tree.root())
        assert to.is_between_rounds
    assert not (destination.tree / "w").exists()


def test_a_file_that_may_not_be_read_has_its_mode_when_it_was_read_back(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, opens = b"secret", os.open

    def open_unprivileged(path: Any, flags: int, *args: Any, dir_fd: int | None = None) -> int:
        fd = opens(path, flags, *args, dir_fd=dir_fd)
        is_to_read = flags & (os.O_ACCMODE | os.O_PATH) == os.O_RDONLY
        if path == b"key" and is_to_read and not os.fstat(fd).st_mode & 0o400:
            os.close(fd)
            raise PermissionError(errno.EACCES, "Permission denied")
        return fd

    key = make_index(
        BatchKind.DATA, 1, 1, 0, [WholeFrame(b"key", 0o200, 7, 6, block_digest(content))]
    )
    with destination.open() as to:
        to.begin(key)
        for run in runs(key, content):
            to.write(key, [run])
        to.end(key)
        monkeypatch.setattr(os, "open", open_unprivileged)
        assert differing(to, destination.tree) == []
        assert (destination.tree / "key").stat().st_mode & 0o7777 == 0o200


@pytest.mark.parametrize(("error", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_zeros_are_written_where_nobody_knows_of_a_hole(
    destination: Destination, monkeypatch: pytest.MonkeyPatch, error: int, fails: bool
) -> None:
    seek = os.lseek

    def failing(fd: int, at: int, how: int) -> int:
        if how in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(error, os.strerror(error))
        return seek(fd, at, how)

    with destination.open() as to:
        to.begin(FILE)
        feed(to, encode_batch(FIRST, [DATA[:8192]]))
        feed(to, encode_batch(SECOND, [DATA[:4096]]))
        monkeypatch.setattr(os, "lseek", failing)
        if fails:
            with pytest.raises(StorageError, match="the disk failed"):
                feed(to, encode_batch(ALL, []))
        else:
            assert feed(to, encode_batch(ALL, []))
            assert (destination.tree / "f").read_bytes() == bytes(len(DATA))


@pytest.mark.promise("durable-batches-stay")
@pytest.mark.parametrize("is_unreadable", [False, True])
def test_what_was_written_is_read_back_where_the_daemon_ended_before_it_was_flushed(
    destination: Destination, monkeypatch: pytest.MonkeyPatch, is_unreadable: bool
) -> None:
    with destination.open() as to:
        to.begin(FILE)
        for index, content in ((FIRST, DATA[:8192]), (SECOND, DATA[:4096])):
            to.begin(index)
            for run in runs(index, content):
                to.write(index, [run])
            to.end(index)
    if is_unreadable:
        file, read = os.stat(destination.tree / "f").st_ino, os.pread

        def failing(fd: int, size: int, at: int) -> bytes:
            if not at and os.fstat(fd).st_ino == file:
                raise OSError(errno.EIO, "Input/output error")
            return read(fd, size, at)

        monkeypatch.setattr(os, "pread", failing)
    else:
        with (destination.tree / "f").open("r+b") as file_:
            file_.write(b"\0")  # the disk has not taken it
    with destination.open() as to:
        assert [to.received.has(index.number) for index in (FIRST, SECOND)] == [False, True]


def test_after_a_batch_that_was_applied_in_part_the_move_is_opened_again(
    destination: Destination,
) -> None:
    bad = shape(2, 1, GoneFrame(b"f"), GoneFrame(b"missing"))
    with destination.open() as to:
        to.begin(FILE)
        with pytest.raises(FrameRefused):
            to.begin(bad)
        for call in (
            lambda: to.begin(FIRST),
            lambda: to.end(FIRST),
            lambda: to.close_round(1, 1, to.tree.root()),
            to.compact,
        ):
            with pytest.raises(StorageError, match="must be resumed"):
                call()
    with destination.open() as to:
        assert to.tree.find(b"f")
        assert feed(to, encode_batch(FIRST, [DATA[:8192]]))


@pytest.mark.promise("durable-batches-stay")
@pytest.mark.parametrize("batch", [TAKE, PUT], ids=["take", "put"])
def test_a_rename_that_a_crash_has_left_with_both_names_is_done(
    destination: Destination, monkeypatch: pytest.MonkeyPatch, batch: Index
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the power fails")

    with destination.open() as to:
        for before in (FILE, TAKE):
            if before.number < batch.number:
                to.begin(before)
        with monkeypatch.context() as patch:
            patch.setattr(TreeApplier, "shape", fail)
            with pytest.raises(OSError, match="power"):
                to.begin(batch)
    tree, slot = destination.tree, destination.place / "aside" / "0"
    # As btrfs may have it after the log of what was flushed is played back.
    if batch is TAKE:
        slot.hardlink_to(tree / "f")
    else:
        (tree / "g").hardlink_to(slot)
    with destination.open() as to:
        assert os.listdir(tree) == ([] if batch is TAKE else ["g"])
        assert os.listdir(slot.parent) == (["0"] if batch is TAKE else [])
        if batch is TAKE:
            to.begin(PUT)
        assert (os.listdir(tree), os.listdir(slot.parent)) == (["g"], [])


def test_files_in_slots_that_nothing_knows_of_are_removed(destination: Destination) -> None:
    with destination.open() as to:
        to.begin(FILE)
        to.begin(TAKE)
    (destination.place / "aside" / "7").write_bytes(b"?")
    with destination.open() as to:
        assert os.listdir(destination.place / "aside") == ["0"]
        to.begin(PUT)
        assert os.listdir(destination.place / "aside") == []


# Data batches that are being received: the tree is what a replay of the ledger makes of them


Steps = list[tuple[str, int, int, bytes]]


def new_files(**sizes: int) -> tuple[list[Frame], bytes]:
    """Return frames of files that come as a whole, and their bytes."""
    contents = {name.encode(): b"x" * size for name, size in sizes.items()}
    frames: list[Frame] = [
        WholeFrame(path, 0o644, 1, len(data), block_digest(data))
        for path, data in contents.items()
    ]
    return frames, b"".join(contents.values())


def runs_of(batch: Batch) -> list[BlockRun]:
    events = BatchReader().feed(b"".join(batch.pieces()))
    return [event for event in events if isinstance(event, BlockRun)]


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
            begun[batch.index.number] = (batch, runs_of(batch))
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
