"""What the tests of this room share."""

import pytest

from tests.byhand.ends import ends
from wingsd.byhand import sending

__all__ = ["ends", "short_pauses"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a source ask again at once."""
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.02)
