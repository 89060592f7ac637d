"""Fixtures that tests of several packages use, by import into their conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.reactor import reactor
from wingsd.filesystem.usage import UsageCounter
from wingsd.threadio import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    pool = Workers(reactor, "test", 4)
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def worker() -> Iterator[Workers]:
    """One thread, as the state database has."""
    pool = Workers(reactor, "database", 1)
    pool.start()
    yield pool
    pool.stop()


# Fixtures of directories: that of a server, and one beside it; by import into a conftest.py


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A server's directory."""
    path = tmp_path / "server"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside it, which nothing may touch or read."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("secret")
    return path


@pytest.fixture
def usage() -> UsageCounter:
    """What the server's files take."""
    return UsageCounter(used=0)
