"""Threads for the tests of streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.reactor import reactor
from wingsd.threadio import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    pool = Workers(reactor, "test", 2)
    pool.start()
    yield pool
    pool.stop()
