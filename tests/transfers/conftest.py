"""Fixtures of the tests of transfers."""

from __future__ import annotations

import pytest

from tests.support.receiver import Receiver, receiver
from tests.transfers.requests import UploadRequests
from tests.transfers.uploading import ca, certificate, tls

__all__ = ["ca", "certificate", "receiver", "tls"]


@pytest.fixture
def requests(receiver: Receiver) -> UploadRequests:
    """The requests of one token, which bring a server to a node."""
    return UploadRequests(receiver)
