"""What stands in the journal. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import attrs

__all__ = ["Direction", "Entry", "Outcome", "Report"]


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(names.split() if isinstance(names, str) else names)


class Direction(Enum):
    """Which of a transfer's two nodes this one is."""

    IN = "in"
    OUT = "out"


class Outcome(Enum):
    """How a transfer ended, or is reported to have ended."""

    SUCCESS = "success"
    FAILURE = "failure"


@attrs.frozen
class Entry:
    """A transfer: the step it was last known to enter, and its outcome, None while it has none."""

    id: int
    server: str
    direction: Direction = attrs.field(converter=Direction)
    step: str
    begun: float
    changed: float
    outcome: Outcome | None = attrs.field(
        default=None, converter=attrs.converters.optional(Outcome)
    )


@attrs.frozen
class Report:
    """What the Panel is to hear of a transfer, since `created`; `answer` is its last word so far.

    `settled` is None as long as it goes on being told.
    """

    id: int
    server: str
    outcome: Outcome = attrs.field(converter=Outcome)
    created: float
    attempts: int = 0
    answer: str = ""
    settled: float | None = None
    #: The UUIDs of the backups that came with the server; None where the Panel is told of none.
    backups: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_listed)
    )
