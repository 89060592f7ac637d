"""Limits of a download."""

from __future__ import annotations

import attrs

__all__ = ["FetchLimits"]


@attrs.frozen
class FetchLimits:
    """Limits of one download, in seconds and bytes.

    `connect` is for each address, `answer` from the beginning to the head of the final answer,
    `idle` between two pieces of the body, `total` for all of it. `redirects` are followed at most.
    `body` are the most bytes of a body, None for those that the answer announces.
    """

    connect: float = 10
    answer: float = 60
    idle: float = 60
    total: float = 12 * 3600
    redirects: int = 10
    body: int | None = None
