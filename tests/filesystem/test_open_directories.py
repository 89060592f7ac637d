"""Directories that are kept open, up to a number of them."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from wingsd.filesystem.open_directories import OpenDirectories


def test_a_directory_is_found_after_one_was_missing_at_the_end_of_many(tmp_path: Path) -> None:
    deep = (b"d",) * 70
    (tmp_path / "first").mkdir()
    (tmp_path / "/".join(["d"] * 70)).mkdir(parents=True)
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        with closing(OpenDirectories(root, lambda path: None)) as directories:
            directories.get((b"first",), make=False)
            with pytest.raises(FileNotFoundError):
                directories.get((*deep, b"missing"), make=False)
            found = os.fstat(directories.get((b"first",), make=False))
    finally:
        os.close(root)
    assert os.path.samestat(found, (tmp_path / "first").stat())
