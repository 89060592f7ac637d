"""Fixtures of the tests of direct transfers."""

import pytest

from tests.support.node_in_process import nodes
from wingsd.direct_transfers import initiator as sending
from wingsd.util.retry import Backoff

__all__ = ["nodes", "short_pauses"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "OWNERSHIP_BACKOFF", Backoff(0.02, 60.0))
