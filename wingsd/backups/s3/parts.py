"""A part of an archive as it is sent, and how long that may take."""

from __future__ import annotations

import attrs

__all__ = ["Range", "StoreLimits"]


@attrs.frozen
class Range:
    """The part `number` of an archive: its first byte, and how many bytes it has."""

    number: int
    start: int
    size: int


@attrs.frozen
class StoreLimits:
    """Seconds for a whole part, and for which nothing of it may move on."""

    part: float = 7200.0
    stall: float = 300.0
