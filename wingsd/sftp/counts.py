"""Figures of SFTP since the daemon's start, for its metrics."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["SftpCounts"]


@attrs.define(eq=False, repr=False)
class SftpCounts:
    """The open sessions, and since the daemon's start the refused logins and the bytes.

    `refused` is by the kind of login. `moved` has the bytes of requests (`in`) and of answers
    (`out`) of all processes.
    """

    sessions: int = 0
    refused: dict[str, int] = attrs.field(
        factory=lambda: dict.fromkeys(("password", "public_key"), 0)
    )
    moved: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(("in", "out"), 0))
    #: What the running process has reported of itself.
    _reported: dict[str, int] = attrs.field(factory=dict, init=False)

    def add(self, totals: Mapping[str, int]) -> None:
        """Count the bytes that the running process reports since its start."""
        for direction, total in totals.items():
            if direction in self.moved:
                self.moved[direction] += total - self._reported.get(direction, 0)
                self._reported[direction] = total

    def refuse(self, kind: str) -> None:
        """Count a refused login."""
        self.refused[kind] = self.refused.get(kind, 0) + 1

    def process_ended(self) -> None:
        """Have the next process begin with nothing."""
        self._reported.clear()
