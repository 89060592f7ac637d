"""An activity log that keeps what is reported, for tests of those who report."""

from __future__ import annotations

from collections.abc import Mapping

from wingsd.activity import ActivityLog


class RecordedActivity(ActivityLog):
    """The activity of one server: event, metadata, user and address of each entry.

    `times` are those that were given with them, in seconds since the epoch.
    """

    def __init__(self, server: str) -> None:
        self.entries: list[tuple[str, dict[str, object], str | None, str | None]] = []
        self.times: list[float | None] = []
        self._server = server

    def record(
        self,
        server: str,
        event: str,
        metadata: Mapping[str, object],
        user: str | None = None,
        ip: str | None = None,
        at: float | None = None,
    ) -> None:
        assert server == self._server
        self.entries.append((event, dict(metadata), user, ip))
        self.times.append(at)
