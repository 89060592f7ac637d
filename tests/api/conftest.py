"""Nodes for the tests of the Panel's calls, which are closed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.api.file_node import FileNode, Make, SignedSite
from tests.api.node import ApiNode
from tests.support.fixtures import home, outside
from wingsd.config import PTERODACTYL

__all__ = ["home", "outside"]

N = TypeVar("N", bound=ApiNode)


@pytest.fixture
def closing() -> Iterator[Callable[[N], N]]:
    """Has a node closed after the test."""
    nodes: list[ApiNode] = []

    def closing(node: N) -> N:
        nodes.append(node)
        return node

    yield closing
    for node in nodes:
        pytest_twisted.blockon(Deferred.fromCoroutine(node.close()))


@pytest.fixture
def node(closing: Callable[[ApiNode], ApiNode]) -> ApiNode:
    return closing(ApiNode())


@pytest.fixture
def make(closing: Callable[[FileNode], FileNode], tmp_path: Path) -> Make:
    """Makes a node with the files of one server."""

    def make(family: str = PTERODACTYL, **options: Any) -> FileNode:
        return closing(FileNode(tmp_path / "server", family, **options))

    return make


@pytest.fixture
def family(request: pytest.FixtureRequest) -> str:
    """The family of a site; that of another one is a test's parameter."""
    return str(getattr(request, "param", PTERODACTYL))


@pytest.fixture
def site(closing: Callable[[SignedSite], SignedSite], tmp_path: Path, family: str) -> SignedSite:
    return closing(SignedSite(tmp_path, family))
