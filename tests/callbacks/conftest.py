"""The queue of reports that the tests here use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.callbacks.queue_harness import QueueHarness


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[QueueHarness]:
    made = QueueHarness(tmp_path)
    yield made
    made.callbacks.stop()
    made.store.close()
