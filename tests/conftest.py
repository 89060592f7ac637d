"""What the tests share."""

from __future__ import annotations

import gc

from tests.engine import busybox, engine
from tests.logs import logged_errors

__all__ = ["busybox", "engine", "logged_errors"]


def pytest_collection_finish() -> None:
    """Keep what is there before the first test out of the collections after each of them."""
    gc.collect()
    gc.freeze()
