"""The node that the tests of restores share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.restores.node import RestoreHarness


@pytest.fixture
def restoring(tmp_path: Path) -> Iterator[RestoreHarness]:
    made = RestoreHarness(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
