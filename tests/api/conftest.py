"""What the tests of the Panel's calls share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.api.node import ApiNode


@pytest.fixture
def node() -> Iterator[ApiNode]:
    made = ApiNode()
    made.start()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
