"""The document of the calls that this node has, and that the one in docs/ is it."""

from __future__ import annotations

from pathlib import Path

import wingsd
from handbook.openapi import text

DOCS = Path(wingsd.__file__).parent.parent / "docs"


def test_the_one_for_people_is_current() -> None:
    assert (DOCS / "openapi.yml").read_text() == text(), "make openapi writes it"
