"""What the tests of this room share."""

import pytest

from tests.direct_transfers.scenarios import ends
from wingsd.direct_transfers import outgoing as sending

__all__ = ["ends", "short_pauses"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a source ask again at once."""
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.02)
