"""Any history equals a plain model, whatever is interrupted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.history.reader import points
from tests.history.worlds import model
from tests.support.archives import seen
from wingsd.moves.tree import MoveTree

HISTORIES = 20
ACTS = 12
#: The share of readings in the middle of which files are changed.
CHANGES = 0.15


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_every_point_is_rebuilt_as_it_was(tmp_path: Path, seed: int) -> None:
    with model(tmp_path, seed) as history:
        for _ in range(ACTS):
            history.act()
        history.check()
        assert history.store.verify() == {}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_changes_while_a_point_is_made_it_can_be_rebuilt(
    tmp_path: Path, seed: int
) -> None:
    with model(tmp_path, seed) as history:
        world, source = history.world, history.source
        scan, before = source.scan, source.rule.before_reading

        def scanned(scratch: str) -> MoveTree:
            found = scan(scratch)
            world.change(history.rng.randrange(1, 9))
            return found

        def read(fd: int) -> os.stat_result:
            found = before(fd)
            if history.rng.random() < CHANGES:
                world.change(2)
            return found

        for _ in range(6):
            world.change(history.rng.randrange(1, 9))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(source, "scan", scanned)
                patch.setattr(source.rule, "before_reading", read)
                history.make()
            for point in history.store.points():
                history.rebuilt(point.number)
            assert history.store.verify() == {}
            history.make()
            assert history.rebuilt(history.numbers()[0]) == seen(world.root)


def test_the_document_is_enough_to_read_a_history(tmp_path: Path) -> None:
    with model(tmp_path, 4711) as history:
        for _ in range(ACTS):
            history.act()
        history.make()
        found = points(tmp_path / "history")
        assert sorted(found) == sorted(history.trees)
        for number, tree in history.trees.items():
            entries = found[number]
            assert {b"/" + path if path else b"" for path in entries} == set(tree)
            for path, (kind, *fields) in entries.items():
                mode, mtime, content, *_ = tree[b"/" + path if path else b""]
                if kind == 1:
                    assert (fields[0], fields[1], fields[5]) == (
                        int(mode, 8) & 0o777,
                        mtime,
                        content,
                    )
                elif kind == 2:
                    assert fields == [mtime, content]
                elif kind == 4:
                    assert fields[:2] == [int(mode, 8) & 0o777, mtime]
