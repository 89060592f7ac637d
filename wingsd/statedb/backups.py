"""The backups in the state database that are being made, or were dropped by the Panel.

Blocking, for one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterable

from wingsd.statedb.records import BackupRecord, DroppedBackup
from wingsd.statedb.restores import RestoreRows

__all__ = ["BackupRows"]

_DAY = 24 * 3600.0
#: The dropped backups whose transfer has moved the server, which no later one brings back.
_LEFT = """
    transfer IN (SELECT id FROM transfers WHERE outcome = 'success')
    AND NOT EXISTS (
        SELECT 1 FROM transfers WHERE transfers.server = dropped.server AND id > transfer
        AND outcome IS NOT 'failure'
    )
"""
#: Those whose transfer has failed, and those of servers that came back.
_KEPT = """
    transfer NOT IN (SELECT id FROM transfers WHERE outcome IS NOT 'failure')
    OR EXISTS (
        SELECT 1 FROM transfers WHERE transfers.server = dropped.server AND id > transfer
        AND outcome = 'success'
    )
"""


class BackupRows(RestoreRows):
    """The rows of backups. `now` is the time of a call, in seconds since the epoch."""

    def begin_backup(self, now: float, backup: str, server: str, adapter: str, place: str) -> None:
        """Add a backup, before anything of it is written; see `BackupRecord`."""
        self._execute(
            "INSERT OR REPLACE INTO backups (backup, server, adapter, place, begun)"
            " VALUES (?, ?, ?, ?, ?)",
            backup,
            server,
            adapter,
            place,
            now,
        )

    def backups(self) -> list[BackupRecord]:
        """Return the backups that are being made, oldest first."""
        rows = self._rows(
            "SELECT backup, server, adapter, place, begun FROM backups ORDER BY begun"
        )
        return [BackupRecord(*row) for row in rows]

    def add_dropped(self, transfer: int, places: Iterable[str]) -> None:
        """Add the backups that the Panel drops if a transfer moves their server."""
        for place in places:
            self._execute(
                "INSERT OR REPLACE INTO dropped (place, server, transfer)"
                " SELECT ?, server, id FROM transfers WHERE id = ?",
                place,
                transfer,
            )

    def dropped(self) -> list[DroppedBackup]:
        """Return the dropped backups of servers that have moved, and are not coming back."""
        rows = self._rows(
            "SELECT place, server, (SELECT changed FROM transfers WHERE id = transfer),"  # noqa: S608 - constant
            f" age, missed FROM dropped WHERE {_LEFT} ORDER BY place"
        )
        return [DroppedBackup(*row) for row in rows]

    def prune_dropped(self) -> None:
        """Forget those whose transfer has failed, and those of servers that came back."""
        self._execute(f"DELETE FROM dropped WHERE {_KEPT}")  # noqa: S608

    def age_dropped(self, now: float) -> list[DroppedBackup]:
        """Count their ages; return them.

        To be called daily: the time between two calls counts, a day at most.
        """
        self._execute(
            "UPDATE dropped SET seen = ?, age = age + max(0, min(? - coalesce(seen, ?), ?))"  # noqa: S608
            f" WHERE {_LEFT}",
            now,
            now,
            now,
            _DAY,
        )
        return self.dropped()

    def set_missed(self, place: str, *, is_missed: bool) -> None:
        """Record whether the Panel was without a dropped backup; the first time counts."""
        self._execute(
            "UPDATE dropped SET missed = CASE WHEN ? THEN coalesce(missed, age) END"
            " WHERE place = ?",
            is_missed,
            place,
        )

    def forget_dropped(self, place: str) -> None:
        """Forget a dropped backup: it stays, or is deleted."""
        self._execute("DELETE FROM dropped WHERE place = ?", place)
