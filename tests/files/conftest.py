"""A server's directory, and its open root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wingsd.filesystem import ServerRoot, directory_opener


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "server"
    path.mkdir()
    return path


@pytest.fixture
def root(home: Path) -> Iterator[ServerRoot]:
    with ServerRoot(str(home), directory_opener("auto")) as root:
        yield root
