"""The archive of the server that most tests transfer."""

from __future__ import annotations

from itertools import count

import pytest

from tests.support.sample_server import archive


def test_an_archive_is_the_same_in_the_next_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is made twice, once to be sent and once for its checksum, both must agree."""
    monkeypatch.setattr("time.time", count(1_700_000_000).__next__)
    assert archive() == archive()
