"""The state database: its rows, read and written. A change is on disk when its method returns.

Blocking, for one thread at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from wingsd.statedb.database import FILE
from wingsd.statedb.moves import MoveRecord, MoveRows
from wingsd.statedb.records import (
    DirectDestination,
    Direction,
    InstallationRecord,
    Outcome,
    Report,
    ReportKind,
    ServerDescription,
    TransferRecord,
    TransferResult,
)

__all__ = ["FILE", "Store"]

_DAY = 24 * 3600.0
#: Seconds for which ended transfers and settled reports are kept: 90 days.
KEPT = 90 * _DAY
#: Seconds for which a used token is kept after it has expired.
TOKENS_KEPT = _DAY
#: Direct transfers that have moved servers away, and were the last of them.
_MOVED_DIRECTLY = (
    "WHERE id IN (SELECT max(id) FROM transfers WHERE outcome = 'success' GROUP BY server)"
    " AND direction = 'out' AND by_hand"
)
#: Settles the failures of transfers of a server that a Panel has not heard of.
_DROP_FAILURES = (
    "UPDATE reports SET settled = ?, answer = 'another transfer has begun'"
    " WHERE server = ? AND kind = 'transfer' AND outcome = 'failure' AND settled IS NULL"
)


class Store(MoveRows):
    """The database in the directory `root`. Every method raises `StateDatabaseError`.

    `now` is the time of a call, in seconds since the epoch.
    """

    # Transfers

    def begin(
        self, now: float, server: str, direction: Direction, step: str, *, direct: bool = False
    ) -> int:
        """Add a transfer; return its id.

        Nothing more is done of one of the server that has failed, and no failure is reported that
        a Panel would take for that of this one.
        """
        with self._errors(), self._transaction():
            return self._begin(now, server, direction, step, direct=direct)

    def _begin(
        self, now: float, server: str, direction: Direction, step: str, *, direct: bool
    ) -> int:
        failed = "outcome IS NULL AND direction = 'out' AND step = 'FAILED'"
        rows = self._rows(f"SELECT id FROM transfers WHERE server = ? AND {failed}", server)  # noqa: S608
        for (id_,) in rows:
            self.end(now, id_, Outcome.FAILURE, is_told=False)
        if not direct:
            self._execute(_DROP_FAILURES, now, server)
        return self._insert(
            "INSERT INTO transfers (server, direction, step, begun, changed, by_hand)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            server,
            direction.value,
            step,
            now,
            now,
            direct,
        )

    def admit_move(
        self, now: float, record: MoveRecord, step: str, expires: float, *, direct: bool
    ) -> int | None:
        """Add a transfer to this node by a move, add that, and mark its token as used.

        All or nothing, in one transaction: None if the token may have been used. Return the id of
        the transfer, which `record` has not. `expires` is when the token does, in seconds since
        the epoch.
        """
        with self._errors(), self._transaction():
            if not self.use_token(record.token, expires):
                return None
            entry = self._begin(now, record.server, record.direction, step, direct=direct)
            self.add_move(attrs.evolve(record, transfer=entry))
            return entry

    def enter(self, now: float, transfer: int, step: str) -> None:
        """Record the step of a transfer, before it is taken."""
        self._execute(
            "UPDATE transfers SET step = ?, changed = ? WHERE id = ?", step, now, transfer
        )

    def set_terms(
        self,
        transfer: int,
        pool: str = "",
        removals: Sequence[str] = (),
        inode: int | None = None,
        dropped: Sequence[str] = (),
    ) -> None:
        """Set these fields of a transfer, all at once; see `TransferRecord`.

        `dropped` are the paths of the local backups that the Panel drops if the server moves.
        """
        statement = "UPDATE transfers SET pool = ?, removals = ?, inode = ? WHERE id = ?"
        with self._errors(), self._transaction():
            self._execute(statement, pool, " ".join(removals), inode and str(inode), transfer)
            self.add_dropped(transfer, dropped)

    def end(
        self,
        now: float,
        transfer: int,
        outcome: Outcome,
        result: TransferResult = TransferResult(),
        *,
        is_told: bool = True,
    ) -> None:
        """Record the outcome of a transfer.

        Without `is_told` its destination may not have heard that its move has failed: the move
        stays until `drop_move`.
        """
        self._execute(
            "UPDATE transfers SET outcome = ?, changed = ?, reason = ?, bytes = ?, files = ?"
            " WHERE id = ?",
            outcome.value,
            now,
            result.reason,
            result.bytes,
            result.files,
            transfer,
        )
        # They have the other node's token or key and are not needed any more.
        self._execute("DELETE FROM orders WHERE transfer = ?", transfer)
        if is_told:
            self._execute("DELETE FROM moves WHERE transfer = ? AND direction = 'out'", transfer)

    def transfers(self) -> list[TransferRecord]:
        """Return all transfers, oldest first."""
        return self._transfers("ORDER BY id")

    def transfer(self, transfer: int) -> TransferRecord | None:
        """Return a transfer by its id."""
        return next(iter(self._transfers("WHERE id = ?", transfer)), None)

    def unfinished(self) -> list[TransferRecord]:
        """Return the transfers that have not ended, oldest first."""
        return self._transfers("WHERE outcome IS NULL ORDER BY id")

    def ended(self, most: int, server: str | None = None) -> list[TransferRecord]:
        """Return the last `most` ended transfers, of one server or of all, latest first."""
        return self._transfers(
            "WHERE outcome IS NOT NULL AND ? IN (server, '') ORDER BY id DESC LIMIT ?",
            server or "",
            most,
        )

    def last_move(self, server: str) -> TransferRecord | None:
        """Return the last transfer of a server that has not failed, or not yet."""
        which = "WHERE server = ? AND outcome IS NOT 'failure' ORDER BY id DESC LIMIT 1"
        return next(iter(self._transfers(which, server)), None)

    def moved_directly(self) -> list[TransferRecord]:
        """Return the direct transfers that have moved servers away, and were the last of them."""
        return self._transfers(f"{_MOVED_DIRECTLY} ORDER BY id")

    def _transfers(self, which: str, *values: object) -> list[TransferRecord]:
        rows = self._rows(
            "SELECT id, server, direction, step, begun, changed, outcome,"  # noqa: S608 - constant
            f" by_hand, reason, bytes, files, pool, removals, inode FROM transfers {which}",
            *values,
        )
        return [TransferRecord(*row) for row in rows]

    # Direct transfers

    def add_description(self, server: str, digest: str, description: str) -> None:
        """Add the description of a server to be received with the token of that digest."""
        self._execute(
            "INSERT OR REPLACE INTO described (server, digest, description) VALUES (?, ?, ?)",
            server,
            digest,
            description,
        )

    def mark_arrived(self, now: float, server: str) -> None:
        """Record that a described server has been received, and by which token."""
        with self._errors(), self._transaction():
            self._execute("UPDATE described SET arrived = ? WHERE server = ?", now, server)
            self._execute(
                "INSERT OR REPLACE INTO arrivals (digest, server)"
                " SELECT digest, server FROM described WHERE server = ?",
                server,
            )

    def has_arrived(self, digest: str) -> bool:
        """Return whether a server was received by the token of that digest.

        It may have been deleted since, or sent on.
        """
        return bool(self._rows("SELECT 1 FROM arrivals WHERE digest = ?", digest))

    def descriptions(self) -> list[ServerDescription]:
        """Return all descriptions of servers."""
        rows = self._rows("SELECT server, digest, description, arrived FROM described")
        return [ServerDescription(*row) for row in rows]

    def clear_description(self, server: str) -> None:
        """Empty the description of a received server that the Panel describes now."""
        self._execute("UPDATE described SET description = '' WHERE server = ?", server)

    def delete_description(self, server: str) -> None:
        """Delete the description of a server."""
        self._execute("DELETE FROM described WHERE server = ?", server)

    def delete_lost(self, server: str) -> None:
        """Delete the description of a server that is lost, and that it was received."""
        with self._errors(), self._transaction():
            digest = "(SELECT digest FROM described WHERE server = ?)"
            self._execute(f"DELETE FROM arrivals WHERE digest = {digest}", server)  # noqa: S608
            self.delete_description(server)

    def add_destination(self, transfer: int, destination: DirectDestination) -> None:
        """Add the destination of a direct transfer."""
        self._execute(
            "INSERT INTO orders (transfer, url, token, remove, description)"
            " VALUES (?, ?, ?, ?, ?)",
            transfer,
            destination.url,
            destination.token,
            destination.remove,
            destination.description,
        )

    def destination(self, transfer: int) -> DirectDestination | None:
        """Return the destination of a direct transfer, None when it has ended."""
        fields = "url, token, remove, description"
        rows = self._rows(f"SELECT {fields} FROM orders WHERE transfer = ?", transfer)  # noqa: S608
        return DirectDestination(*rows[0]) if rows else None

    # Installations

    def begin_installation(
        self,
        now: float,
        server: str,
        *,
        reinstall: bool,
        start: bool,
        options: str = "",
        runs: bool = False,
    ) -> InstallationRecord:
        """Add an installation, in place of an earlier one of the server.

        `runs`: its script runs already.
        """
        ran = now if runs else None
        self._execute(
            "INSERT OR REPLACE INTO installations (server, begun, reinstall, start, options, ran)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            server,
            now,
            reinstall,
            start,
            options,
            ran,
        )
        return InstallationRecord(server, now, reinstall, start, ran, options=options)

    def run_installation(self, now: float, server: str) -> None:
        """Record that the script of an installation is about to run."""
        self._execute("UPDATE installations SET ran = ? WHERE server = ?", now, server)

    def decide_installation(self, server: str, outcome: Outcome) -> None:
        """Record how an installation has ended, before what it has left is removed."""
        self._execute(
            "UPDATE installations SET outcome = ? WHERE server = ?", outcome.value, server
        )

    def delete_installation(self, server: str) -> None:
        """Delete an installation of which nothing is reported."""
        self._execute("DELETE FROM installations WHERE server = ?", server)

    def installations(self) -> list[InstallationRecord]:
        """Return the installations under way, oldest first."""
        rows = self._rows(
            "SELECT server, begun, reinstall, start, ran, outcome, options FROM installations"
            " ORDER BY begun"
        )
        return [InstallationRecord(*row) for row in rows]

    # Reports to the Panel

    def add_report(
        self,
        now: float,
        server: str,
        outcome: Outcome,
        backups: Sequence[str] | None = None,
        commits_within: float = 60.0,
    ) -> Report:
        """Add a report to the Panel, before it is sent."""
        id_ = self._insert(
            "INSERT INTO reports (server, outcome, created, backups, commits_within, begun)"
            " SELECT ?, ?, ?, ?, ?, (SELECT begun FROM transfers WHERE server = ? AND NOT by_hand"
            " ORDER BY id DESC LIMIT 1)",
            server,
            outcome.value,
            now,
            None if backups is None else " ".join(backups),
            commits_within,
            server,
        )
        (report,) = self._reports("WHERE id = ?", id_)
        return report

    def is_failure_reported(self, server: str, begun: float) -> bool:
        """Return whether the failure of the transfer that began then was recorded as a report."""
        return bool(
            self._rows(
                "SELECT 1 FROM reports WHERE server = ? AND begun = ? AND kind = 'transfer'"
                " AND outcome = 'failure'",
                server,
                begun,
            )
        )

    def end_installation(
        self, now: float, server: str, kind: ReportKind, outcome: Outcome
    ) -> Report:
        """Delete an installation and add the report of its end, both or neither."""
        with self._errors(), self._transaction():
            self._opened.execute("DELETE FROM installations WHERE server = ?", (server,))
            cursor = self._opened.execute(
                "INSERT INTO reports (server, outcome, created, kind) VALUES (?, ?, ?, ?)",
                (server, outcome.value, now, kind.value),
            )
        (report,) = self._reports("WHERE id = ?", cursor.lastrowid)
        return report

    def add_backup_report(
        self,
        now: float,
        server: str,
        backup: str,
        outcome: Outcome,
        body: str,
        kind: ReportKind = ReportKind.BACKUP,
    ) -> Report:
        """Add a report about a backup; with that it is not being made any more."""
        with self._errors(), self._transaction():
            self._opened.execute("DELETE FROM backups WHERE backup = ?", (backup,))
            cursor = self._opened.execute(
                "INSERT INTO reports (server, outcome, created, kind, backup, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (server, outcome.value, now, kind.value, backup, body),
            )
        (report,) = self._reports("WHERE id = ?", cursor.lastrowid)
        return report

    def record_attempt(self, report: Report, answer: str) -> None:
        """Record one more attempt to send a report, and the answer."""
        self._execute(
            "UPDATE reports SET attempts = attempts + 1, answer = ? WHERE id = ?",
            answer,
            report.id,
        )

    def close_report(self, now: float, report: Report, answer: str) -> None:
        """Record that a report is not to be sent any more, and the final answer or reason."""
        self._execute(
            "UPDATE reports SET settled = ?, answer = ? WHERE id = ?", now, answer, report.id
        )

    def reports(self) -> list[Report]:
        """Return all reports, oldest first."""
        return self._reports("ORDER BY id")

    def unsettled(self) -> list[Report]:
        """Return the reports still to be sent, oldest first."""
        return self._reports("WHERE settled IS NULL ORDER BY id")

    def _reports(self, which: str, *values: object) -> list[Report]:
        rows = self._rows(
            "SELECT id, server, outcome, created, attempts, answer, settled, backups,"  # noqa: S608
            f" begun, kind, backup, body, commits_within FROM reports {which}",
            *values,
        )
        return [Report(*row) for row in rows]

    # Ages and deletion

    def ages(self, now: float, names: Collection[str]) -> dict[str, float]:
        """Return for how many seconds each of `names` has been known, and delete all others.

        To be called daily: the time between two calls counts, a day at most.
        """
        known = {name for (name,) in self._rows("SELECT name FROM kept")}
        with self._errors(), self._transaction():
            self._opened.executemany(
                "DELETE FROM kept WHERE name = ?", [(name,) for name in known.difference(names)]
            )
            self._opened.executemany(
                "INSERT INTO kept (name, seen, age) VALUES (?, ?, 0)",
                [(name, now) for name in names if name not in known],
            )
        self._execute(
            "UPDATE kept SET age = age + max(0, min(? - seen, ?)), seen = ?", now, _DAY, now
        )
        return dict(self._rows("SELECT name, age FROM kept"))

    def prune(self, now: float) -> None:
        """Delete expired rows, but not those of `moved_directly`."""
        self.prune_dropped()
        self._execute(
            "DELETE FROM transfers WHERE outcome IS NOT NULL AND changed < ?"  # noqa: S608 - constant
            f" AND id NOT IN (SELECT id FROM transfers {_MOVED_DIRECTLY})"
            " AND id NOT IN (SELECT transfer FROM dropped)",
            now - KEPT,
        )
        self._execute("DELETE FROM reports WHERE settled < ?", now - KEPT)
        # Those to this node stay as long as their transfers: a source may still ask how it ended.
        self._execute("DELETE FROM moves WHERE transfer NOT IN (SELECT id FROM transfers)")
        self._delete_before("tokens", "expires", now - TOKENS_KEPT)
        self._delete_before("denied", "at", now - KEPT)
        self._execute(
            "DELETE FROM orders"
            " WHERE transfer NOT IN (SELECT id FROM transfers WHERE outcome IS NULL)"
        )

    def _delete_before(self, kind: str, time: str, before: float) -> None:
        old = f"FROM {kind} WHERE {time} < ?"
        (last,) = self._execute(f"SELECT max({time}) {old}", before).fetchone()
        if last is None:
            return
        # First: if the node dies in between, nothing has been deleted yet.
        self._execute("UPDATE forgotten SET until = max(until, ?) WHERE kind = ?", last, kind)
        self._execute(f"DELETE {old}", before)
