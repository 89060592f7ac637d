"""Sizes and times for people."""

from __future__ import annotations

import pytest

from wingsd.util.text import readable_size, readable_time


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
