"""The backups that are being restored, in the state database.

Blocking, for one thread at a time.
"""

from __future__ import annotations

from wingsd.statedb.records import Outcome, Report, ReportKind, RestoreRecord
from wingsd.statedb.tokens import TokenRows

__all__ = ["RestoreRows", "restore_report"]


class RestoreRows(TokenRows):
    """The rows of restores. `now` is the time of a call, in seconds since the epoch."""

    def begin_restore(
        self, now: float, server: str, backup: str, *, truncate: bool
    ) -> RestoreRecord:
        """Add a restore, in place of an earlier one of the server."""
        self._execute(
            "INSERT OR REPLACE INTO restores (server, backup, begun, truncate)"
            " VALUES (?, ?, ?, ?)",
            server,
            backup,
            now,
            truncate,
        )
        return RestoreRecord(server, backup, now, truncate)

    def start_after_restore(self, server: str) -> None:
        """Record that a server is to be started when its backup is restored."""
        self._execute("UPDATE restores SET start = 1 WHERE server = ?", server)

    def commit_restore(self, server: str, inode: int) -> None:
        """Record that the new content is whole, in the directory with that inode."""
        self._execute("UPDATE restores SET inode = ? WHERE server = ?", str(inode), server)

    def restores(self) -> list[RestoreRecord]:
        """Return the restores under way, oldest first."""
        rows = self._rows(
            "SELECT server, backup, begun, truncate, start, inode FROM restores ORDER BY begun"
        )
        return [RestoreRecord(*row) for row in rows]

    def end_restore(self, now: float, record: RestoreRecord, outcome: Outcome) -> Report:
        """Delete a restore and add the report of its end, both or neither.

        If the server is to be started, that is due from then on.
        """
        with self._errors(), self._transaction():
            self._opened.execute(
                "INSERT OR IGNORE INTO starts (server)"
                " SELECT server FROM restores WHERE server = ? AND start",
                (record.server,),
            )
            self._opened.execute("DELETE FROM restores WHERE server = ?", (record.server,))
            cursor = self._opened.execute(
                "INSERT INTO reports (server, outcome, created, kind, backups)"
                " VALUES (?, ?, ?, ?, ?)",
                (record.server, outcome.value, now, ReportKind.RESTORE.value, record.backup),
            )
        return restore_report(record, outcome, now, cursor.lastrowid or 0)

    def due_starts(self) -> list[str]:
        """Return the servers that are to be started again, and were not."""
        return [server for (server,) in self._rows("SELECT server FROM starts ORDER BY server")]

    def end_start(self, server: str) -> None:
        """Record that a server was started, or is not to be any more."""
        self._execute("DELETE FROM starts WHERE server = ?", server)


def restore_report(record: RestoreRecord, outcome: Outcome, now: float, id_: int = 0) -> Report:
    """Return the report of a restore's end; without an id it is not in the database."""
    return Report(
        id_,
        record.server,
        outcome,
        now,
        backups=(record.backup,),
        kind=ReportKind.RESTORE,
    )
