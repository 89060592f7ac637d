"""A file of several names that loses the one by which it was to be read, or was found wrong."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.moves.test_rereading import BIG, Move, move
from wingsd.moves import destination
from wingsd.moves.destination import MoveDestination

__all__ = ["move"]


def _remove(move: Move) -> None:
    (move.root / "a").unlink()


def _remove_its_directory(move: Move) -> None:
    (move.root / "c").mkdir()
    (move.root / "a").rename(move.root / "c/a")


def _rename(move: Move) -> None:
    (move.root / "a").rename(move.root / "c")


def _link(move: Move, to: MoveDestination, content: bytes = b"content") -> None:
    """Send a file, and then another name of it; one that has two at first comes in blocks."""
    (move.root / "a").write_bytes(content)
    move.send(to)
    os.link(move.root / "a", move.root / "b")
    move.send(to)


def _rewrite(move: Move, to: MoveDestination) -> None:
    """Send a file of two names, and then other contents of it."""
    _link(move, to)
    move.read(to)
    (move.root / "a").write_bytes(b"another")
    move.send(to)


def _damage(move: Move, name: str) -> None:
    with (move.tree / name).open("r+b") as file:
        file.write(b"?")


@pytest.mark.parametrize("lose", [_remove, _remove_its_directory, _rename])
def test_a_file_that_was_not_read_back_is_read_by_another_name(
    move: Move, lose: Callable[[Move], None]
) -> None:
    with move.destination.open() as to:
        _rewrite(move, to)
        _damage(move, "b")
        lose(move)
        move.send(to)
        assert {b"b", b"c", b"c/a"}.intersection(move.read(to)[1])


def test_a_file_that_is_being_read_back_is_read_by_another_name(move: Move) -> None:
    with move.destination.open() as to:
        _rewrite(move, to)
        _damage(move, "b")
        pieces = to.rereading.take()
        assert [piece.path for piece in pieces] == [b"a"]
        _remove(move)
        move.send(to)
        assert list(to.rereading.settle(pieces)) == []
        assert move.read(to)[1] == [b"b"]


@pytest.mark.parametrize("content", [b"content", BIG])
def test_a_file_that_was_found_wrong_is_so_by_another_name(move: Move, content: bytes) -> None:
    with move.destination.open() as to:
        _link(move, to, content)
        _damage(move, "a")
        wrong = move.read(to)[1]
        assert set(wrong) >= {b"a"}
        wrong = [b"a"]
        _remove(move)
        move.send(to)
        to.rebase(wrong=wrong)
        assert set(move.read(to)[1]) == {b"b"}
        to.rebase(wrong=[b"b"])
        assert [path for path, _ in to.tree.missing()] == ([b"b"] if content == BIG else [])
        assert (to.tree.find(b"b") is None) is (content != BIG)


def test_what_was_read_back_is_not_read_again_for_a_name_that_it_loses(move: Move) -> None:
    with move.destination.open() as to:
        _link(move, to)
        move.read(to)
        _remove(move)
        move.send(to)
        assert move.read(to) == (set(), [])


def test_of_many_names_that_are_lost_the_files_are_read_by_a_walk(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "MOST", 4)
    for name in ("x", "y"):
        (move.root / name).mkdir()
    for number in range(10):
        (move.root / "x" / str(number)).write_bytes(b"content")
    with move.destination.open() as to:
        move.send(to)
        for number in range(10):
            os.link(move.root / "x" / str(number), move.root / "y" / str(number))
        move.send(to)
        for number in range(10):
            _damage(move, f"y/{number}")
            (move.root / "x" / str(number)).unlink()
        move.send(to)
        assert {b"y/%d" % number for number in range(10)} <= set(move.read(to)[1])
