"""What the tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import busybox, engine
from tests.logs import logged_errors
from wingsd.journal.store import Store

__all__ = ["busybox", "engine", "logged_errors", "store"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A journal, open and empty."""
    made = Store(str(tmp_path))
    made.open()
    yield made
    made.close()


def pytest_collection_finish() -> None:
    """Keep what is there before the first test out of the collections after each of them."""
    gc.collect()
    gc.freeze()
