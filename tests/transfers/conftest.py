"""What the tests of this room share."""

from tests.transfers.receiving import house
from tests.transfers.uploading import ca, certificate, tls

__all__ = ["ca", "certificate", "house", "tls"]
