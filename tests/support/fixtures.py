"""Fixtures that tests of several packages use, by import into their conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.reactor import reactor
from wingsd.threadio import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    pool = Workers(reactor, "test", 4)
    pool.start()
    yield pool
    pool.stop()
