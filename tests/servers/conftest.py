"""Fixtures of the tests of servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.harness import FakeNode


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)
