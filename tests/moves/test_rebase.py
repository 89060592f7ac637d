"""A destination that begins a round anew, and what it reads back of what was written."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.moves.changing import Changes, change
from tests.moves.moving import MOVE, Destination, Source, differing, feed, resume
from tests.support.archives import seen
from wingsd.errors import BatchConflict, RootMismatch, ShapeMissing, WingsdError
from wingsd.moves import destination as receiving
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import BatchKind, BatchReader, DataFrame, Index, WholeFrame, WrittenBlocks
from wingsd.moves.destination import MoveDestination, Piece, PieceReader
from wingsd.moves.digests import block_digest
from wingsd.moves.filling import Batch
from wingsd.moves.ledger import LedgerFile
from wingsd.moves.nodes import FileNode

Steps = list[tuple[str, int, int, bytes]]


class Killed(BaseException):
    """The process ends here. Nothing may catch it."""


def part_of(to: MoveDestination, batch: Batch, random_: random.Random) -> Index | None:
    """Send the beginning of a batch; return it where it was begun and has not ended."""
    data = b"".join(batch.pieces())
    reader, begun = BatchReader(), None
    for event in reader.feed(data[: random_.randrange(len(data))]):
        if begun is not None and not isinstance(event, Index):
            to.write(begun, [event])
        elif isinstance(event, Index) and event.kind is BatchKind.DATA:
            if not to.begin(event):
                return None
            begun = event
    return begun


def some(to: MoveDestination, batches: list[Batch], random_: random.Random) -> list[Index]:
    """Send some batches of a round; return those that were left open."""
    left = []
    for batch in batches[: random_.randrange(len(batches) + 1)]:
        try:
            if batch.index.kind is BatchKind.SHAPE or random_.random() < 0.6:
                feed(to, batch.pieces())
            elif (begun := part_of(to, batch, random_)) is not None:
                left.append(begun)
        except ShapeMissing:
            break
        if random_.random() < 0.3:
            to.checkpoint()
    return left


def whole(to: MoveDestination, source: Source, tree: Path) -> None:
    """Send a round and close it."""
    for batch in source.round():
        feed(to, batch.pieces())
    to.close_round(source.filler.round, source.filler.number, source.sent.root())
    to.finish()
    assert differing(to, tree) == []


@pytest.mark.root
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.lists(change, max_size=10), st.booleans()), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
def test_any_rounds_that_are_given_up_end_in_the_same_tree(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[Steps, bool]], seed: int
) -> None:
    place = tmp_path_factory.mktemp("move")
    root = place / "source"
    root.mkdir()
    changes, random_ = Changes(root), random.Random(seed)
    destination = Destination(place / "destination")
    opened = destination.open()
    to = opened.of
    held = 0
    for number, (steps, is_opened_again) in enumerate(rounds):
        for step in steps:
            changes.run(step)
        if is_opened_again:
            opened.__exit__()
            opened = destination.open()
            to = opened.of
        source = resume(to, root, size=random_.choice((1 << 16, 1 << 18)))
        highest = to.received.highest
        assert source.filler.number == highest
        assert source.filler.round + 1 == to.received.round > number + 1
        left = some(to, source.round(), random_)
        if left:
            told = to.rebase()
            assert told.next > highest
            assert told.bytes >= 0
            for index in left:
                to.abandon(index)
                with pytest.raises(BatchConflict, match="was given up"):
                    to.end(index)
            held = told.bytes
    source = resume(to, root)
    assert held >= 0
    whole(to, source, destination.tree)
    opened.__exit__()
    with destination.open() as again:
        assert again.tree.root() == source.sent.root()
        again.finish()
    assert seen(destination.tree, owner=False) == seen(root, owner=False)
    assert not os.listdir(destination.place / "aside")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Return a source of small and large files, hard links and holes."""
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    data = random.Random(1)
    for name in ("a", "b", "d/c"):
        (root / name).write_bytes(data.randbytes(200_000))
        (root / f"{name}-small").write_bytes(data.randbytes(500))
    with (root / "sparse").open("wb") as file:
        file.truncate(300_000)
    os.link(root / "a", root / "d/a")
    (root / "d").chmod(0o555)
    return Source(1 << 16, root)


@pytest.fixture
def destination(tmp_path: Path) -> Destination:
    return Destination(tmp_path / "destination")


def test_what_has_arrived_is_not_sent_again(source: Source, destination: Destination) -> None:
    root = source.root
    assert root is not None
    with destination.open() as to:
        batches = source.round()
        for batch in batches[: len(batches) // 2]:
            feed(to, batch.pieces())
        again = resume(to, root, 1 << 16)
        left = again.round()
        first, rest = (sum(b.index.kind is BatchKind.DATA for b in bs) for bs in (batches, left))
        assert rest == first - (len(batches) // 2 - 1)
        for batch in left:
            feed(to, batch.pieces())
        to.close_round(again.filler.round, again.filler.number, again.sent.root())
    assert seen(destination.tree, owner=False)


def _kill_after(size: int) -> Callable[[int, bytes], int]:
    left = [size]

    def write(fd: int, data: bytes) -> int:
        if left[0] < len(data):
            os.write(fd, data[: left[0]])
            raise Killed
        left[0] -= len(data)
        return os.write(fd, data)

    return write


@pytest.mark.parametrize("move", [None, b"another move" + bytes(4)])
def test_a_rebase_that_is_killed_anywhere_leaves_the_old_ledger_or_the_new_one(
    source: Source, tmp_path: Path, move: bytes | None
) -> None:
    root = source.root
    assert root is not None
    batches = source.round()
    random_ = random.Random(3)
    sizes = [0, 1, 44, 45, 60, *(random_.randrange(3_000) for _ in range(12)), 1 << 30]
    for number, size in enumerate(sizes):
        destination = Destination(tmp_path / f"to{number}")
        with destination.open() as to:
            for batch in batches[: 3 + number % 4]:
                feed(to, batch.pieces())
            part_of(to, batches[3 + number % 4], random.Random(number))
            to.ledger._write = _kill_after(size)
            try:
                to.rebase(move)
            except Killed:
                is_new = False
            else:
                is_new = True
            assert is_new or size != 1 << 30
        path = str(destination.place / "ledger")
        expected = move if is_new and move else MOVE
        destination.move = expected
        assert LedgerFile.move_of(path) == expected
        with destination.open() as to:
            assert to.received.round == (2 if is_new else 1)
            whole(to, resume(to, root, move=move), destination.tree)
        assert seen(destination.tree, owner=False) == seen(root, owner=False)


def test_a_kill_between_the_ledger_and_what_follows_changes_nothing(
    source: Source, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = source.root
    assert root is not None
    (root / "d").chmod(0o755)
    with destination.open() as to:
        whole(to, source, destination.tree)
        (root / "a-small").rename(root / "moved")
        removals = source.round()[:1]
        for batch in removals:
            feed(to, batch.pieces())
        assert os.listdir(destination.place / "aside") == ["0"]

        def dying(self: TreeApplier) -> None:
            empty(self)
            raise Killed

        empty = TreeApplier.empty_slots
        monkeypatch.setattr(TreeApplier, "empty_slots", dying)
        with pytest.raises(Killed):
            to.rebase()
        monkeypatch.undo()
    assert not os.listdir(destination.place / "aside")
    with destination.open() as to:
        whole(to, resume(to, root), destination.tree)
    assert seen(destination.tree, owner=False) == seen(root, owner=False)


def _flip(path: Path, at: int) -> None:
    mode = path.stat().st_mode & 0o7777
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    path.chmod(mode)


def test_what_the_disk_has_changed_is_sent_again_and_nothing_else(
    source: Source, destination: Destination
) -> None:
    root = source.root
    assert root is not None
    with destination.open() as to:
        whole(to, source, destination.tree)
        _flip(destination.tree / "a", 70_000)
        _flip(destination.tree / "b-small", 7)
        os.truncate(destination.tree / "b", 190_000)
        (destination.tree / "d").chmod(0o755)
        (destination.tree / "d/c").unlink()
        (destination.tree / "d/c").mkdir()
        (destination.tree / "d/c/no file").write_bytes(b"")
        wrong = differing(to, destination.tree)
        assert wrong == [b"a", b"b", b"b-small", b"d/c"]
        again = resume(to, root, wrong=wrong)
        (file,) = [node for path, node in again.sent.walk() if path == b"a"]
        assert isinstance(file, FileNode)
        assert file.blocks.missing == 1
        assert again.sent.find(b"b-small") is again.sent.find(b"d/c") is None
        batches = again.round()
        frames = [frame for batch in batches for frame in batch.index.frames]
        sizes: Counter[int] = Counter()
        for frame in frames:
            if isinstance(frame, DataFrame):
                sizes[frame.number] += frame.size
        assert sorted(sizes.values()) == [4096, 200_000 - 190_000 // 4096 * 4096, 200_000]
        assert [f.path for f in frames if isinstance(f, WholeFrame)] == [b"b-small"]
        for batch in batches:
            feed(to, batch.pieces())
        to.close_round(again.filler.round, again.filler.number, again.sent.root())
        to.finish()
        assert differing(to, destination.tree) == []
    assert seen(destination.tree, owner=False) == seen(root, owner=False)


def test_what_the_disk_cannot_read_is_sent_again_and_nothing_else(
    source: Source, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = source.root
    assert root is not None
    with destination.open() as to:
        whole(to, source, destination.tree)
        lost = {os.stat(destination.tree / name).st_ino for name in ("a", "b-small")}
        read, write = os.pread, os.pwrite

        def failing(fd: int, size: int, at: int) -> bytes:
            if at <= 70_000 and os.fstat(fd).st_ino in lost:
                raise OSError(errno.EIO, "Input/output error")
            return read(fd, size, at)

        def mending(fd: int, data: bytes, at: int) -> int:
            lost.discard(os.fstat(fd).st_ino)
            return write(fd, data, at)

        monkeypatch.setattr(os, "pread", failing)
        monkeypatch.setattr(os, "pwrite", mending)
        wrong = differing(to, destination.tree)
        assert wrong == [b"a", b"b-small"]
        again = resume(to, root, wrong=wrong)
        for batch in again.round():
            feed(to, batch.pieces())
        to.close_round(again.filler.round, again.filler.number, again.sent.root())
        to.finish()
        assert differing(to, destination.tree) == []
    assert seen(destination.tree, owner=False) == seen(root, owner=False)


def test_another_root_is_mended_by_another_round(source: Source, destination: Destination) -> None:
    root = source.root
    assert root is not None
    with destination.open() as to:
        whole(to, source, destination.tree)
        # a source that believes of one file that it was sent
        (root / "d/c-small").write_bytes(b"?" * 500)
        for batch in source.round(unchanged=lambda old, node: old.names == [b"d/c-small"]):
            feed(to, batch.pieces())
        node = source.sent.find(b"d/c-small")
        assert isinstance(node, FileNode)
        node.blocks.set(0, block_digest(b"?" * 500))
        source.sent.changed(node)
        numbers = (source.filler.round, source.filler.number)
        with pytest.raises(RootMismatch):
            to.close_round(*numbers, source.sent.root())
        again = resume(to, root)
        with pytest.raises(WingsdError):
            to.close_round(*numbers, source.sent.root())
        whole(to, again, destination.tree)
    assert seen(destination.tree, owner=False) == seen(root, owner=False)


def test_a_page_that_does_not_exist_is_refused(source: Source, destination: Destination) -> None:
    with destination.open() as to:
        for number in (0, 1):
            with pytest.raises(LookupError):
                to.ledger.part(number)
        assert to.rebase().pages == 1
        assert to.ledger.part(1)
        for number in (0, 2, -1):
            with pytest.raises(LookupError):
                to.ledger.part(number)


# What was written is read back once after it is on stable storage, and whatever changes again


BIG = bytes(range(256)) * 1000


class Move:
    """A move of three files, of which everything can be read back at any time."""

    def __init__(self, place: Path) -> None:
        self.root = place / "source"
        (self.root / "d").mkdir(parents=True)
        (self.root / "d/big").write_bytes(BIG)
        (self.root / "d/small").write_bytes(b"small")
        (self.root / "empty").write_bytes(b"")
        self.source = Source(root=self.root)
        self.destination = Destination(place / "destination")
        self.tree = self.destination.tree

    def send(self, to: MoveDestination) -> None:
        """Send a round."""
        for batch in self.source.round():
            feed(to, batch.pieces())
        to.close_round(self.source.filler.round, self.source.filler.number, to.tree.root())

    def read(self, to: MoveDestination) -> tuple[set[bytes], list[bytes]]:
        """Read back what was not yet; return the paths that were read, and those that differ."""
        read: set[bytes] = set()
        wrong: list[bytes] = []
        with closing(PieceReader(os.open(self.tree, os.O_RDONLY))) as reader:
            while pieces := to.rereading.take():
                assert to.rereading.take() == pieces
                read |= {piece.path for piece in pieces}
                wrong += to.rereading.settle(reader.differing(pieces))
        return read, wrong


@pytest.fixture
def move(tmp_path: Path) -> Move:
    return Move(tmp_path)


def test_only_what_is_on_stable_storage_is_read_and_only_once(move: Move) -> None:
    with move.destination.open() as to:
        for batch in move.source.round():
            feed(to, batch.pieces())
        # nothing but the size of what comes in blocks
        assert move.read(to) == ({b"d/big"}, [])
        to.checkpoint()
        assert move.read(to) == ({b"d/big", b"d/small", b"empty"}, [])
        assert move.read(to) == (set(), [])


def test_a_file_that_a_later_batch_has_changed_is_read_again(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        move.read(to)
        with (move.root / "d/big").open("r+b") as file:
            file.seek(100_000)
            file.write(b"changed")
        (move.root / "d/small").write_bytes(b"other")
        move.send(to)
        with (move.tree / "d/big").open("r+b") as file:
            file.write(b"?")
            assert move.read(to) == ({b"d/big", b"d/small"}, [])  # not in the block that was sent
            file.seek(100_000)
            file.write(b"!")
        to.rereading.restart()
        assert move.read(to)[1] == [b"d/big"]


def test_what_waits_to_be_read_follows_a_file_to_its_new_name(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        for name in ("d/big", "d/small"):
            (move.root / name).rename(move.root / f"{name}-moved")
        move.send(to)
        for name in ("d/big-moved", "d/small-moved"):
            (move.tree / name).write_bytes(b"?")
        assert sorted(set(move.read(to)[1])) == [b"d/big-moved", b"d/small-moved"]


def test_after_a_start_everything_is_read(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        move.read(to)
    (move.tree / "empty").write_bytes(b"longer")
    with move.destination.open() as to:
        assert move.read(to) == ({b"d/big", b"d/small", b"empty"}, [b"empty"])


@pytest.mark.promise("move-requests-are-bounded")
def test_changes_with_long_paths_are_remembered_up_to_their_bytes(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "MOST", 8)
    deep = move.root.joinpath(*["d" * 250] * 4)
    deep.mkdir(parents=True)
    for number in range(8):
        (deep / f"m{number}").write_bytes(b"%d" % number)
    with move.destination.open() as to:
        move.send(to)
        remembered = [each for each in to.rereading._changes if isinstance(each, WrittenBlocks)]
        paths = [each.of for each in remembered if isinstance(each.of, bytes)]
        assert 0 < sum(map(len, paths)) <= 8 * 256
        read, _ = move.read(to)
        assert sum(path.count(b"d" * 250) == 4 for path in read) == 8
        assert move.read(to) == (set(), [])


def test_what_changes_while_it_is_read_is_not_told_as_differing(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        taken: list[Piece] = list(to.rereading.take())
        (move.root / "d/big").write_bytes(b"no longer big")
        (move.root / "d/small").unlink()
        (move.root / "empty").write_bytes(b"no longer empty")
        move.send(to)
        with closing(PieceReader(os.open(move.tree, os.O_RDONLY))) as reader:
            differing = reader.differing(taken)
            assert {piece.path for piece in differing} == {b"d/big", b"d/small", b"empty"}
        assert list(to.rereading.settle(differing)) == []
        assert move.read(to)[1] == []
