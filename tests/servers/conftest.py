"""The house of fakes that tests of servers live in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.harness import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)
