"""What was written is read back once after it is on stable storage, and whatever changes again."""

from __future__ import annotations

import os
import random
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest

from tests.moves.moving import Destination, Source, cut, feed, resume
from wingsd.moves import destination
from wingsd.moves.batch import WrittenBlocks
from wingsd.moves.destination import MoveDestination, Piece, PieceReader

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


def test_what_comes_in_pieces_is_read_back_by_one_checksum(move: Move) -> None:
    with move.destination.open() as to:
        for batch in move.source.round():
            feed(to, cut(batch.pieces(), random.Random(1)))
        to.checkpoint()
        (of_big,) = [piece for piece in to.rereading.take() if piece.length == len(BIG)]
        assert (of_big.path, of_big.expected) == (b"d/big", crc32(BIG))
        with (move.tree / "d/big").open("r+b") as file:
            file.seek(200_000)
            file.write(b"?")
        assert move.read(to)[1] == [b"d/big"]


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


def test_files_under_new_names_are_looked_at(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        move.read(to)
        for name in ("d/big", "d/small"):
            (move.root / name).rename(move.root / f"{name}-moved")
        os.link(move.root / "empty", move.root / "linked")
        move.send(to)
        (move.tree / "linked").unlink()
        with (move.tree / "d/big-moved").open("r+b") as file:
            file.write(b"?")
        read, wrong = move.read(to)
        assert read == {b"d/big-moved", b"d/small-moved", b"linked"}
        assert sorted(set(wrong)) == [b"d/big-moved", b"linked"]


def test_what_waits_to_be_read_follows_a_file_to_its_new_name(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        for name in ("d/big", "d/small"):
            (move.root / name).rename(move.root / f"{name}-moved")
        move.send(to)
        for name in ("d/big-moved", "d/small-moved"):
            (move.tree / name).write_bytes(b"?")
        assert sorted(set(move.read(to)[1])) == [b"d/big-moved", b"d/small-moved"]


def test_a_file_whose_first_name_is_before_the_walk_now_is_read_by_that(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    (move.root / "z").write_bytes(BIG)
    with move.destination.open() as to:
        move.send(to)
    monkeypatch.setattr(destination, "FILES", 1)
    with move.destination.open() as to:
        assert [piece.path for piece in to.rereading.take()] == [b"d/big"]
        assert list(to.rereading.settle([])) == []
        os.link(move.root / "z", move.root / "a")
        move.send(to)
        with (move.tree / "z").open("r+b") as file:
            file.write(b"?")
        assert move.read(to)[1] == [b"a"]


def test_after_a_start_everything_is_read(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        move.read(to)
    (move.tree / "empty").write_bytes(b"longer")
    with move.destination.open() as to:
        assert move.read(to) == ({b"d/big", b"d/small", b"empty"}, [b"empty"])


@pytest.mark.parametrize("found", [b"small and more", b"sma", b"smalL", b""])
def test_a_whole_file_of_another_size_or_content_differs(move: Move, found: bytes) -> None:
    with move.destination.open() as to:
        move.send(to)
        (move.tree / "d/small").write_bytes(found)
        assert move.read(to)[1] == [b"d/small"]


def test_of_many_changes_the_later_paths_are_read_by_a_walk(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "MOST", 8)
    for number in range(40):
        (move.root / f"m{number:02d}").write_bytes(b"%d" % number)
    with move.destination.open() as to:
        move.send(to)
        for name in ("d/small", "m03", "m30"):
            (move.tree / name).write_bytes(b"?")
        read, wrong = move.read(to)
        assert len(read) == 43
        assert sorted(wrong) == [b"d/small", b"m03", b"m30"]
        assert move.read(to) == (set(), [])


@pytest.mark.promise("move-requests-are-bounded")
def test_changes_with_long_paths_are_remembered_up_to_their_bytes(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "MOST", 8)
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


def test_blocks_that_are_being_received_are_passed_over(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        with (move.root / "d/big").open("r+b") as file:
            file.write(b"changed")
        *shape, batch = move.source.round()
        for each in shape:
            feed(to, each.pieces())
        to.rereading.restart()
        to.begin(batch.index)
        with (move.tree / "d/big").open("r+b") as file:
            file.write(b"chan")
        assert move.read(to)[1] == []
        to.abandon(batch.index)
        source = resume(to, move.root)
        for each in source.round():
            feed(to, each.pieces())
        to.checkpoint()
        assert move.read(to)[1] == []
    assert (move.tree / "d/big").read_bytes() == (move.root / "d/big").read_bytes()


def test_blocks_that_a_file_has_no_more_are_not_told_as_differing(move: Move) -> None:
    with move.destination.open() as to:
        move.send(to)
        move.read(to)
        with (move.root / "d/big").open("r+b") as file:
            file.seek(100_000)
            file.write(b"changed")
        move.send(to)
        taken = [piece for piece in to.rereading.take() if piece.first > 1]
        (move.root / "d/big").write_bytes(b"truncated, as a log is")
        move.send(to)
        with closing(PieceReader(os.open(move.tree, os.O_RDONLY))) as reader:
            assert reader.differing(taken) == taken
        assert list(to.rereading.settle(taken)) == []
        assert move.read(to)[1] == []
