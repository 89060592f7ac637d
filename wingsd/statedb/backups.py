"""The backups in the state database that are being made.

Blocking, for one thread at a time.
"""

from __future__ import annotations

from wingsd.statedb.records import BackupRecord
from wingsd.statedb.restores import RestoreRows

__all__ = ["BackupRows"]


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
