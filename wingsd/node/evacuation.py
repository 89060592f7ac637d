"""The progress of `wingsctl evacuate`, as it reports it: for the status and metrics.

The command orders moves and watches them; the daemon only shows how far it is, also to somebody at
another terminal, and that it has fallen silent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from wingsd.errors import InvalidData

#: The states in which it is at work, and those in which it is not.
AT_WORK = ("seeding", "moving")
STATES = (*AT_WORK, "paused", "done", "failed", "cancelled")


@attrs.frozen(eq=False, repr=False)
class EvacuationReport:
    """The report of a command that moves servers to the pair `to`, by the file `plan`.

    `total`, `moved`, `failed` and `waiting` are numbers of servers, `ends` is when it is expected
    to end, in seconds since the epoch.
    """

    to: str
    plan: str
    state: str
    total: int
    moved: int = 0
    failed: int = 0
    waiting: int = 0
    bytes: int = 0
    bytes_done: int = 0
    ends: float | None = None


class Evacuation:
    """The last report, and when it came, at first when the daemon began.

    `now` returns the seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.last: EvacuationReport | None = None
        self.reported = now()

    def report(self, found: EvacuationReport | None) -> None:
        """Take a report; None forgets the last one. Raises `InvalidData` for an unknown state."""
        if found is not None and found.state not in STATES:
            raise InvalidData(f"state: expected one of {', '.join(STATES)}")
        self.last, self.reported = found, self._now()

    def shown(self) -> dict[str, Any] | None:
        """Return the last report for a status, None without."""
        return None if self.last is None else attrs.asdict(self.last) | {"reported": self.reported}
