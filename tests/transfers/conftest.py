"""What the tests of this room share."""

from __future__ import annotations

import pytest

from tests.transfers.receiving import House, house
from tests.transfers.two_nodes import Town
from tests.transfers.uploading import ca, certificate, tls

__all__ = ["ca", "certificate", "house", "tls"]


@pytest.fixture
def town(house: House) -> Town:
    """A node that one server is on its way to."""
    return Town(house)
