"""Fixtures of the checks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.quota_vm.projects import BEYOND


@pytest.fixture(params=BEYOND)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory for one test; what it leaves is deleted, as numbers of projects are reused."""
    made = Path(f"/run/{kind}/{abs(hash(request.node.name)):x}")
    made.mkdir(mode=0o755)
    yield made
    subprocess.run(["/usr/bin/chattr", "-R", "-i", made], check=False, capture_output=True)
    subprocess.run(["/bin/rm", "-rf", made], check=True)
