"""Fixtures of the tests of direct transfers."""

import pytest

from tests.support.node_in_process import nodes
from wingsd.direct_transfers import initiator as sending
from wingsd.transfers.outgoing import move
from wingsd.transfers.peer import moves
from wingsd.util.retry import Backoff

__all__ = ["nodes", "short_pauses"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits before another attempt."""
    monkeypatch.setattr(sending, "OWNERSHIP_BACKOFF", Backoff(0.02, 0.1))
    monkeypatch.setattr(move, "LOST", 0.3)
    monkeypatch.setattr(move, "RESUME_AFTER", 0.01)
    monkeypatch.setattr(moves, "PAUSES", Backoff(0.01, 0.05))
    monkeypatch.setattr(moves, "PROGRESS_EVERY", 0.01)
