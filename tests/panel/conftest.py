"""The client of the Panel that the tests here use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.panel.client_harness import Harness
from tests.support.reactor import reactor
from wingsd.panel import client as panel_module
from wingsd.util.retry import Backoff


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    monkeypatch.setattr(panel_module, "BACKOFF", Backoff(0.001, 12.0, factor=1.5))
    made = Harness()
    pytest_twisted.blockon(Deferred.fromCoroutine(made.fake.listen(reactor)))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.fake.close()))
