"""Any history equals a plain model, whatever is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.history.reader import points
from tests.history.worlds import model

HISTORIES = 40
ACTS = 12


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_every_point_is_rebuilt_as_it_was(tmp_path: Path, seed: int) -> None:
    with model(tmp_path, seed) as history:
        for _ in range(ACTS):
            history.act()
        history.check()
        assert history.store.verify() == {}


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
