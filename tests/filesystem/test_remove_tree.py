from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from wingsd.filesystem.removal import remove_tree

pytestmark = pytest.mark.root


def test_a_tree_goes_and_what_it_points_to_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    tree = tmp_path / "-rf"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed" / "file").touch()
    (tree / "closed").chmod(0)
    (tree / "link").symlink_to(precious)
    remove_tree(str(tree))
    remove_tree(str(tree))
    assert list(tmp_path.iterdir()) == [precious]


def test_what_cannot_be_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = b"/bin/rm: cannot remove 'x/y': Operation not permitted\nand more\n"
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, b"", complaint)
    )
    with pytest.raises(OSError, match=r"^cannot remove 'x/y': Operation not permitted$"):
        remove_tree(str(tmp_path))
