"""Points are named by their numbers and by times."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from wingsd.cli.rewind import order

NOW = datetime(2026, 12, 1, 14, 40).astimezone()


def at(text: str) -> dict[str, Any]:
    return {"at": datetime.fromisoformat(text).astimezone().timestamp()}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12", {"point": 12}),
        ("14:35", at("2026-12-01T14:35:00")),
        ("14:35:20", at("2026-12-01T14:35:20")),
        ("14:41", at("2026-11-30T14:41:00")),
        ("2026-11-30 09:05", at("2026-11-30T09:05:00")),
        ("2026-11-30T09:05:30", at("2026-11-30T09:05:30")),
        ("-10m", {"at": (NOW - timedelta(minutes=10)).timestamp()}),
        ("-2d", {"at": (NOW - timedelta(days=2)).timestamp()}),
        ("yesterday", None),
        ("", None),
        ("25:00", None),
        ("-10", None),
    ],
)
def test_a_point_is_named_by_its_number_or_a_time(text: str, found: Any) -> None:
    assert order(text, NOW) == found
