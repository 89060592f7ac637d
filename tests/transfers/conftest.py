"""Fixtures of the tests of transfers."""

from __future__ import annotations

import pytest

from tests.support.receiver import Receiver, receiver
from tests.transfers.peers import ca, certificate, tls
from tests.transfers.requests import UploadRequests

__all__ = ["ca", "certificate", "receiver", "tls"]


@pytest.fixture
def requests(receiver: Receiver) -> UploadRequests:
    """The requests of one token, which bring a server to a node."""
    return UploadRequests(receiver)
