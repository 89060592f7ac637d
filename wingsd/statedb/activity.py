"""The activity in the state database: what users did, until the Panel has accepted it.

Rows are added at the end and deleted from the beginning, by one comparison with an id, so that no
statement grows with the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from wingsd.statedb.database import DatabaseFile

__all__ = ["ActivityEntry", "ActivityRows"]

#: Rows that are deleted at once of those that are too many.
TRIMMED_AT_ONCE = 10_000


@attrs.frozen(repr=False)
class ActivityEntry:
    """An event of the server with the UUID `server`, such as `server:console.command`.

    `metadata` is a JSON object, `user` a UUID and None where no user did it, `ip` the user's
    address, and `at` seconds since the epoch. `id` is 0 before it is stored.
    """

    server: str
    event: str
    metadata: str
    user: str | None
    ip: str | None
    at: float
    id: int = 0


class ActivityRows(DatabaseFile):
    """The table of activity. Every method raises `StateDatabaseError`."""

    def add_activity(self, entries: Sequence[ActivityEntry], most: int) -> int:
        """Add entries, and delete the oldest beyond the last `most`; return how many were deleted.

        All or nothing, in one transaction: any number of entries waits for the disk once.
        """
        with self._errors(), self._transaction():
            self._opened.executemany(
                "INSERT INTO activity (server, event, metadata, user, ip, at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (one.server, one.event, one.metadata, one.user, one.ip, one.at)
                    for one in entries
                ],
            )
            return self._opened.execute(
                "DELETE FROM activity WHERE id <= (SELECT max(id) FROM activity) - ?", (most,)
            ).rowcount

    def activity(self, after: int, most: int) -> list[ActivityEntry]:
        """Return the oldest `most` entries with an id above `after`, oldest first."""
        rows = self._rows(
            "SELECT server, event, metadata, user, ip, at, id FROM activity WHERE id > ?"
            " ORDER BY id LIMIT ?",
            after,
            most,
        )
        return [ActivityEntry(*row) for row in rows]

    def delete_activity(self, last: int) -> int:
        """Delete the entries with an id up to `last`; return how many there were."""
        return self._execute("DELETE FROM activity WHERE id <= ?", last).rowcount

    def trim_activity(self, most: int) -> tuple[int, int]:
        """Delete the oldest entries beyond the last `most`, which may be fewer than before.

        Returns how many are left, and how many were deleted.
        """
        deleted = 0
        while gone := self._execute(
            "DELETE FROM activity WHERE id <= min((SELECT max(id) FROM activity) - ?,"
            " (SELECT min(id) FROM activity) + ?)",
            most,
            TRIMMED_AT_ONCE - 1,
        ).rowcount:
            deleted += gone
        ((left,),) = self._rows("SELECT count(*) FROM activity")
        return left, deleted
