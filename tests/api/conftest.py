"""What the tests of the Panel's calls share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.api.file_node import FileNode, Make
from tests.api.node import ApiNode
from tests.support.fixtures import home, outside
from wingsd.config import PTERODACTYL

__all__ = ["home", "make", "node", "outside"]


@pytest.fixture
def node() -> Iterator[ApiNode]:
    made = ApiNode()
    made.start()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a node with the files of one server."""
    made: list[FileNode] = []

    def make(family: str = PTERODACTYL, **options: Any) -> FileNode:
        home = tmp_path / "server"
        home.mkdir()
        made.append(FileNode(home, family, **options))
        made[-1].start()
        return made[-1]

    yield make
    for node in made:
        pytest_twisted.blockon(Deferred.fromCoroutine(node.close()))
