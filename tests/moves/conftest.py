"""Trees of tests are small: most of them is moved to the file again and again nevertheless."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _little_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wingsd.moves.nodes.IN_MEMORY", 12)
        yield
