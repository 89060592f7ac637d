"""What the tests of the WebSocket share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.websocket.consoles import ConsoleNode


@pytest.fixture
def node() -> Iterator[ConsoleNode]:
    made = ConsoleNode()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
