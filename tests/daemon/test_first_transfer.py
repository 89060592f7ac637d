"""docs/moving.md says what two real nodes say in a first transfer, line by line."""

from __future__ import annotations

import re

import pytest

from tests.support.documents import page
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

BLOCKS = page("docs/moving.md").blocks


def shown(about: str) -> list[str]:
    lines = [line for block in BLOCKS if block.about == about for line in block.code.splitlines()]
    assert lines
    return lines


def in_order(lines: list[str], log: list[str]) -> bool:
    """Return whether each of `lines` ends one of the log's, and in this order."""
    rest = iter(log)
    for line in lines:
        pattern = re.escape(line.replace("UUID", UUID)).replace("…", ".+")
        if not any(re.search(rf"{pattern}$", said) for said in rest):
            pytest.fail(f"{line!r} is not in the rest of\n" + "\n".join(log))
    return True


async def test_each_node_logs_what_the_page_shows(nodes: TwoNodes) -> None:
    await nodes.start()
    await nodes.transfer()
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    await nodes.destination.wait_for_line("state success")
    for node in (nodes.source, nodes.destination):
        assert in_order(shown("both-nodes"), node.log)
    # The Panel's order to delete may be faster than the destination's answer.
    *steps, moved, deleted = shown("node-a")
    assert in_order([*steps, moved], nodes.source.log)
    assert in_order([deleted], nodes.source.log)
    assert in_order(shown("node-b"), nodes.destination.log)


def test_a_missing_or_misplaced_line_is_noticed() -> None:
    log = [f"{UUID}: stopping the server", f"{UUID}: removing its container"]
    assert in_order(["UUID: stopping the …"], log)
    with pytest.raises(pytest.fail.Exception):
        in_order(["UUID: removing its container", "UUID: stopping the server"], log)
