"""What the tests of this room share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def logged_errors() -> None:
    """In place of the whole house's: nothing here logs or has Deferreds to look for afterwards."""
