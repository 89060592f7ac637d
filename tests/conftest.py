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


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Keep all that there is already out of the collections after each test of this module."""
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A journal, open and empty."""
    made = Store(str(tmp_path))
    made.open()
    yield made
    made.close()
