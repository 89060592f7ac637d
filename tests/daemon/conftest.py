"""What the tests of the whole daemon share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.daemon.harness import House
from tests.daemon.pair import Pair


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A node that is not started yet, and its Panel; both are ended in any case."""
    made = House(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two nodes that are not started yet, and their Panel; all are ended in any case."""
    made = Pair(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
