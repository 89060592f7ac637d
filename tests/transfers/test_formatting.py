"""How a transfer speaks to people."""

from __future__ import annotations

import pytest

from wingsd.transfers.formatting import (
    DESTINATION,
    SOURCE,
    console_line,
    progress_bar,
    readable_size,
    readable_time,
    summary,
)

GIB = 1 << 30


def test_a_line_is_dated_and_says_who_speaks() -> None:
    assert console_line(1_700_000_000, SOURCE, "hi") == (
        "\x1b[33m\x1b[1mTue, 14 Nov 2023 22:13:20 UTC [Transfer System] [Source Node]:\x1b[0m hi"
    )
    assert "[Destination Node]:" in console_line(0, DESTINATION, "x")


def test_what_others_say_is_escaped_in_a_line() -> None:
    assert console_line(0, SOURCE, "a\x1b[2J\nb").endswith(":\x1b[0m a\\x1b[2J\\nb")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 20, "1.5 GiB"),
        (5 << 50, "5.0 PiB"),
        (5 << 60, "5120.0 PiB"),
    ],
)
def test_sizes_have_units(size: int, text: str) -> None:
    assert readable_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s"), (60, "1 min"), (119, "119 s"), (600, "10 min"), (3600, "1 h"), (14400, "4 h")],
)
def test_times_have_units(seconds: float, text: str) -> None:
    assert readable_time(seconds) == text


@pytest.mark.parametrize(
    ("done", "total", "bar"),
    [
        (0, 10 * GIB, f"[{' ' * 25}] 0 B / 10.0 GiB"),
        (2 * GIB, 10 * GIB, f"[{'=' * 5}{' ' * 20}] 2.0 GiB / 10.0 GiB"),
        (10 * GIB, 10 * GIB, f"[{'=' * 25}] 10.0 GiB / 10.0 GiB"),
        (5 << 20, 0, "5.0 MiB of an unknown total"),
    ],
)
def test_the_bar_is_as_long_as_what_is_done(done: int, total: int, bar: str) -> None:
    assert progress_bar(done, total) == bar


def test_a_tree_that_grew_is_not_more_than_full() -> None:
    assert progress_bar(3 * GIB, 2 * GIB) == f"[{'=' * 25}] 3.0 GiB / 3.0 GiB"


@pytest.mark.parametrize(
    ("count", "receiving", "sending", "line"),
    [
        (None, [], [], "waits for the Panel to tell which servers it has; no transfer under way"),
        (0, [], [], "0 servers; no transfer under way"),
        (1, ["a"], [], "1 server; receiving a"),
        (12, ["a"], ["b", "c"], "12 servers; receiving a, sending 2 servers"),
    ],
)
def test_what_a_node_does_is_told_in_a_line(
    count: int | None, receiving: list[str], sending: list[str], line: str
) -> None:
    assert summary(count, receiving, sending) == line


def test_and_how_far_it_has_come() -> None:
    line = "1 server; receiving a (1.5 GiB so far), sending 2 servers (1.0 KiB so far)"
    assert summary(1, ["a"], ["b", "c"], 1536 << 20, 1024) == line
