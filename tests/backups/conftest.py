"""The node that the tests of backups use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backups.harness import BackupNode

Make = Callable[..., BackupNode]


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Make]:
    """Make nodes, with the arguments of `BackupNode` but the first."""
    made: list[BackupNode] = []

    def make(*arguments: object, **options: object) -> BackupNode:
        given: tuple[object, ...] = arguments
        node = BackupNode(tmp_path, *given, **options)  # type: ignore[arg-type]
        made.append(node)
        return node

    yield make
    for node in made:
        node.close()


@pytest.fixture
def node(make_node: Make) -> BackupNode:
    return make_node()
