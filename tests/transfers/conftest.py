"""What the tests of this room share."""

from tests.transfers.receiving import house

__all__ = ["house"]
