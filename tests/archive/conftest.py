"""A tree of everything that a server's directory may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.archives import odd_tree


@pytest.fixture(scope="package")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source") / "tree"
    root.mkdir()
    odd_tree(root)
    return root
