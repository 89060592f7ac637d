"""The documents name tests as their proof: each of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/privileges.md", "docs/reliability.md"])
def test_every_test_that_a_document_names_is_there(document: str) -> None:
    found = NAMED.findall((HOME / document).read_text())
    assert found
    for file, name in found:
        text = (HOME / file).read_text()
        assert not name or f"def {name}(" in text, f"{file}::{name}"
