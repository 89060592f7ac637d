"""The journal's database: SQLite with a write-ahead log, each change on the disk when it returns.

Blocking, and for one thread at a time. The database is checked for damage when it is opened: a
damaged page would else be found by the first transfer that needs it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from wingsd.errors import StorageError
from wingsd.statedb.records import (
    SCHEMAS,
    Account,
    Described,
    Direction,
    Entry,
    Order,
    Outcome,
    Report,
)

__all__ = ["FILE", "Store"]

#: The database's name in `system.root_directory`.
FILE = "wingsd.db"
_DAY = 24 * 3600.0
#: Seconds that ended transfers and settled reports are kept for people to read: 90 days.
KEPT = 90 * _DAY
#: Seconds that a used token is remembered after it has expired.
REMEMBERED = _DAY

_VERSION = len(SCHEMAS)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Store:
    """The database in the directory `root`. Every method raises `StorageError`."""

    def __init__(self, root: str) -> None:
        self._path = Path(root) / FILE
        self._connection: sqlite3.Connection | None = None

    def open(self, *, read_only: bool = False) -> None:
        """Open it and check it; make it where it is missing. With `read_only`, only to be read."""
        with self._explained():
            if read_only:
                uri = f"{self._path.absolute().as_uri()}?mode=ro"
                self._connection = sqlite3.connect(uri, uri=True)
                if _version(self._connection) != _VERSION:
                    raise StorageError(
                        f"{self._path} was written by another version of wingsd; start this one, "
                        "which brings it up to date, and try again"
                    )
                self._check(self._connection)
                return
            if not self._path.exists():
                self._make()
            # Its one thread need not be the one that opens it.
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._connection = connection
            self._path.chmod(0o600)
            self._check(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._migrate(connection)

    def _make(self) -> None:
        """Make it whole, or not at all: so an empty file is one that has lost its content."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{FILE}.new")
        # The log of a database that was moved away would be played into this one.
        for left in (new, self._beside("-journal"), self._beside("-wal"), self._beside("-shm")):
            left.unlink(missing_ok=True)
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            new.chmod(0o600)
            self._migrate(connection)
        new.rename(self._path)

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(FILE + suffix)

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raise `StorageError` where the database is damaged. Reads all of it."""
        if not self._path.stat().st_size:
            raise self._damaged("the file is empty")
        ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise self._damaged(found)

    def _damaged(self, why: object) -> StorageError:
        fault = "; ".join(str(why).split("\n"))
        return StorageError(
            f"the journal {self._path} is damaged: {fault}; stop wingsd, keep a copy of {FILE}, "
            f"{FILE}-wal and {FILE}-shm, move all three away and start it again: the new journal "
            "knows no unfinished transfers, no reports that the Panel has not heard, no servers "
            "moved by hand without a Panel, and no used tokens"
        )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        if version > _VERSION:
            raise StorageError(
                f"{self._path} was written by a newer wingsd; install that one again, or move the "
                "file away when no transfer is under way"
            )
        if version < _VERSION:
            missing = "".join(SCHEMAS[version:])
            connection.executescript(
                f"BEGIN IMMEDIATE; {missing} PRAGMA user_version = {_VERSION}; COMMIT;"
            )

    def close(self) -> None:
        """Close it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # Transfers

    def begin(
        self, server: str, direction: Direction, step: str, now: float, *, by_hand: bool = False
    ) -> int:
        """Note a new transfer; return its id."""
        return self._insert(
            "INSERT INTO transfers (server, direction, step, begun, changed, by_hand)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            server,
            direction.value,
            step,
            now,
            now,
            by_hand,
        )

    def enter(self, transfer: int, step: str, now: float) -> None:
        """Note that a transfer enters a step; when this returns, it may."""
        self._execute(
            "UPDATE transfers SET step = ?, changed = ? WHERE id = ?", step, now, transfer
        )

    def note_terms(
        self, transfer: int, pool: str, removals: Sequence[str], inode: int | None = None
    ) -> None:
        """Note of a transfer what `Entry` has by these names."""
        statement = "UPDATE transfers SET pool = ?, removals = ?, inode = ? WHERE id = ?"
        self._execute(statement, pool, " ".join(removals), inode and str(inode), transfer)

    def end(
        self, transfer: int, outcome: Outcome, now: float, account: Account = Account()
    ) -> None:
        """Note how a transfer ended."""
        self._execute(
            "UPDATE transfers SET outcome = ?, changed = ?, reason = ?, bytes = ?, files = ?"
            " WHERE id = ?",
            outcome.value,
            now,
            account.reason,
            account.bytes,
            account.files,
            transfer,
        )
        # It has the other node's token in it, and nobody needs it any more.
        self._execute("DELETE FROM orders WHERE transfer = ?", transfer)

    def transfers(self, *, unfinished: bool = False) -> list[Entry]:
        """Return the transfers, oldest first: all, or those that have not ended."""
        return self._transfers(
            "WHERE outcome IS NULL ORDER BY id" if unfinished else "ORDER BY id"
        )

    def past(self, most: int, server: str | None = None) -> list[Entry]:
        """Return the last `most` that have ended, of one server or of all, the latest first."""
        return self._transfers(
            "WHERE outcome IS NOT NULL AND ? IN (server, '') ORDER BY id DESC LIMIT ?",
            server or "",
            most,
        )

    def _transfers(self, which: str, *values: object) -> list[Entry]:
        rows = self._rows(
            "SELECT id, server, direction, step, begun, changed, outcome,"  # noqa: S608 - constant
            f" by_hand, reason, bytes, files, pool, removals, inode FROM transfers {which}",
            *values,
        )
        return [Entry(*row) for row in rows]

    # Moves by hand

    def describe(self, server: str, digest: str, description: str) -> None:
        """Note what a server is that comes by the token with that digest."""
        self._execute(
            "INSERT OR REPLACE INTO described (server, digest, description) VALUES (?, ?, ?)",
            server,
            digest,
            description,
        )

    def arrived(self, server: str, now: float) -> None:
        """Note that a server which was described is here, whole."""
        self._execute("UPDATE described SET arrived = ? WHERE server = ?", now, server)

    def described(self) -> list[Described]:
        """Return the servers that were described."""
        rows = self._rows("SELECT server, digest, description, arrived FROM described")
        return [Described(*row) for row in rows]

    def hand_over(self, server: str) -> None:
        """Note that a server which arrived is described by the Panel now."""
        self._execute("UPDATE described SET description = '' WHERE server = ?", server)

    def undescribe(self, server: str) -> None:
        """Forget what was described of a server."""
        self._execute("DELETE FROM described WHERE server = ?", server)

    def order(self, transfer: int, order: Order) -> None:
        """Note what was asked for with a transfer."""
        self._execute(
            "INSERT INTO orders (transfer, url, token, remove) VALUES (?, ?, ?, ?)",
            transfer,
            order.url,
            order.token,
            order.remove,
        )

    def ordered(self, transfer: int) -> Order | None:
        """Return that, as long as the transfer has not ended."""
        rows = self._rows("SELECT url, token, remove FROM orders WHERE transfer = ?", transfer)
        return Order(*rows[0]) if rows else None

    # Reports to the Panel

    def add_report(
        self, server: str, outcome: Outcome, now: float, backups: Sequence[str] | None = None
    ) -> Report:
        """Note what the Panel is to be told, before it is."""
        id_ = self._insert(
            "INSERT INTO reports (server, outcome, created, backups, begun)"
            " SELECT ?, ?, ?, ?, (SELECT begun FROM transfers WHERE server = ? AND NOT by_hand"
            " ORDER BY id DESC LIMIT 1)",
            server,
            outcome.value,
            now,
            None if backups is None else " ".join(backups),
            server,
        )
        (report,) = self._reports("WHERE id = ?", id_)
        return report

    def note_attempt(self, report: int, answer: str) -> None:
        """Note one more attempt to tell it, and what came of that."""
        self._execute(
            "UPDATE reports SET attempts = attempts + 1, answer = ? WHERE id = ?", answer, report
        )

    def settle(self, report: int, answer: str, now: float) -> None:
        """Note that it need not be told any more, and why."""
        self._execute(
            "UPDATE reports SET settled = ?, answer = ? WHERE id = ?", now, answer, report
        )

    def reports(self, *, unsettled: bool = False) -> list[Report]:
        """Return the reports, oldest first: all, or those still to be told."""
        return self._reports("WHERE settled IS NULL ORDER BY id" if unsettled else "ORDER BY id")

    def _reports(self, which: str, *values: object) -> list[Report]:
        rows = self._rows(
            "SELECT id, server, outcome, created, attempts, answer, settled, backups,"  # noqa: S608
            f" begun FROM reports {which}",
            *values,
        )
        return [Report(*row) for row in rows]

    # Tokens

    def use_token(self, digest: str, expires: float) -> bool:
        """Use up a transfer's token; return False when it was used before, or may have been."""
        cursor = self._execute(
            "INSERT OR IGNORE INTO tokens (digest, expires) SELECT ?, ?"
            " WHERE ? > (SELECT until FROM forgotten WHERE kind = 'tokens')",
            digest,
            expires,
            expires,
        )
        return cursor.rowcount == 1

    def was_used(self, digest: str, expires: float) -> bool:
        """Return whether a transfer's token was used up, or may have been."""
        found = self._execute(
            "SELECT 1 FROM tokens WHERE digest = ? UNION ALL"
            " SELECT 1 FROM forgotten WHERE kind = 'tokens' AND until >= ?",
            digest,
            expires,
        )
        return found.fetchone() is not None

    def deny(self, jtis: Iterable[str], now: float) -> None:
        """Note console tokens that the Panel has taken back."""
        with self._explained():
            self._opened.executemany(
                "INSERT INTO denied (jti, at) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET at = max(at, excluded.at)",
                [(jti, now) for jti in jtis],
            )

    def denied(self) -> dict[str, float]:
        """Return when each `jti` was taken back."""
        return dict(self._rows("SELECT jti, at FROM denied"))

    def denied_before(self) -> float:
        """Return up to which time it is not known any more what was taken back."""
        ((until,),) = self._rows("SELECT until FROM forgotten WHERE kind = 'denied'")
        return float(until)

    # What is kept for some time

    def ages(self, names: Collection[str], now: float) -> dict[str, float]:
        """Return for how many seconds each of `names` has been kept, and forget all others.

        It is to be asked daily: what passes between two calls counts, and a day at most.
        """
        known = {name for (name,) in self._rows("SELECT name FROM kept")}
        with self._explained():
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

    def forget(self, now: float) -> None:
        """Delete what nobody needs any more."""
        self._execute(
            "DELETE FROM transfers WHERE outcome IS NOT NULL AND changed < ?", now - KEPT
        )
        self._execute("DELETE FROM reports WHERE settled < ?", now - KEPT)
        self._forget("tokens", "expires", now - REMEMBERED)
        self._forget("denied", "at", now - KEPT)
        self._execute(
            "DELETE FROM orders"
            " WHERE transfer NOT IN (SELECT id FROM transfers WHERE outcome IS NULL)"
        )

    def _forget(self, kind: str, time: str, before: float) -> None:
        old = f"FROM {kind} WHERE {time} < ?"
        (last,) = self._execute(f"SELECT max({time}) {old}", before).fetchone()
        if last is None:
            return
        # First: a node that dies in between has forgotten nothing yet.
        self._execute("UPDATE forgotten SET until = max(until, ?) WHERE kind = ?", last, kind)
        self._execute(f"DELETE {old}", before)

    # SQLite

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self._path} is not open")
        return self._connection

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        with self._explained():
            return self._opened.execute(statement, values)

    def _insert(self, statement: str, *values: object) -> int:
        return self._execute(statement, *values).lastrowid or 0

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._opened.execute(statement, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # The lowest byte is the primary code, see https://www.sqlite.org/rescode.html.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
                raise self._damaged(error) from error
            raise StorageError(
                f"the journal {self._path} cannot be used: {error}; see that its disk has room "
                "and is writable"
            ) from error


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
