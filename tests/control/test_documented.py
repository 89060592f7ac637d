"""The JSON that programs get is what wingsctl(1) says it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.operators import Operator
from tests.support.sample_server import UUID
from wingsd.statedb import Direction, Outcome

MANUAL = Path(__file__).parent.parent.parent / "man" / "wingsctl.1"


def documented() -> set[str]:
    """Return the words that the manual's section on JSON sets as literals."""
    section = MANUAL.read_text().partition("\n.Sh JSON\n")[2].partition("\n.Sh ")[0]
    lines = re.findall(r"^\.(?:Li|Pq Li) (.*)", section, re.M)
    return {word for line in lines for word in re.findall(r"\w+", line)}


def keys(told: Any) -> Iterator[str]:
    if isinstance(told, dict):
        for key, value in told.items():
            yield key
            yield from keys(value)
    elif isinstance(told, list):
        for each in told:
            yield from keys(each)


@pytest.mark.parametrize("path", ["status", "diagnostics", "transfers", f"transfers/{UUID}"])
async def test_every_key_is_documented(operator: Operator, path: str) -> None:
    store = operator.nodes.source.store
    store.end(2.0, store.begin(1.0, UUID, Direction.IN, "SWAP"), Outcome.SUCCESS)
    store.begin(3.0, UUID, Direction.OUT, "SEND")
    store.add_report(4.0, UUID, Outcome.FAILURE)
    other = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
    invited = await operator.ask("POST", "receive", {"server": other})
    told = await operator.ask("GET", path)
    found = {*keys(told), *keys(invited)}
    assert len(found) > 6
    assert found <= documented()
