"""The file of the state database: opened, checked, brought up to date, and its statements run.

SQLite with a write-ahead log; a change is on disk when its statement has run. The database is
checked for damage when it is opened, before a transfer needs a damaged page.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from wingsd.errors import StateDatabaseDamaged, StateDatabaseError
from wingsd.statedb.records import SCHEMAS
from wingsd.util.durable import sync_directory

__all__ = ["FILE", "DatabaseFile"]

#: The database's name in `system.root_directory`.
FILE = "wingsd.db"

_VERSION = len(SCHEMAS)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class DatabaseFile:
    """The database in the directory `root`. Every method raises `StateDatabaseError`."""

    def __init__(self, root: str) -> None:
        self._path = Path(root) / FILE
        self._connection: sqlite3.Connection | None = None

    def open(self, *, read_only: bool = False) -> None:
        """Open and check the database; make it if it is missing and not `read_only`."""
        try:
            self._open(read_only=read_only)
        except Exception:
            self.close()
            raise

    def _open(self, *, read_only: bool) -> None:
        with self._errors():
            if read_only:
                uri = f"{self._path.absolute().as_uri()}?mode=ro"
                self._connection = sqlite3.connect(uri, uri=True)
                if _version(self._connection) != _VERSION:
                    raise StateDatabaseError(
                        f"{self._path} was written by another version of wingsd; start this one, "
                        "which brings it up to date, and try again"
                    )
                self._check(self._connection)
                return
            if not self._path.exists():
                self._make()
            # The thread that uses it may be another than the one that opens it.
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._connection = connection
            self._path.chmod(0o600)
            self._check(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._migrate(connection)

    def _make(self) -> None:
        """Make a complete file or none, so that an empty file is a damaged one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{FILE}.new")
        new.unlink(missing_ok=True)
        # The log of a database that was moved away would be replayed into this one.
        for name in (new.name, FILE):
            for suffix in ("-journal", "-wal", "-shm"):
                self._path.with_name(name + suffix).unlink(missing_ok=True)
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            new.chmod(0o600)
            # It is flushed once, as a whole, before it has its name.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = WAL")
            self._migrate(connection)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.rename(self._path)
        sync_directory(self._path.parent)

    def _check(self, connection: sqlite3.Connection) -> None:
        """Read the whole database; raise `StateDatabaseDamaged` where it is damaged."""
        if not self._path.stat().st_size:
            raise self._damaged("the file is empty")
        ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise self._damaged(found)

    def _damaged(self, reason: object) -> StateDatabaseDamaged:
        fault = "; ".join(str(reason).split("\n"))
        return StateDatabaseDamaged(
            f"{self._path}: {fault}; stop wingsd, keep a copy of {FILE}, {FILE}-wal and "
            f"{FILE}-shm, move all three away and start it again: the new database has no "
            "unfinished transfers, no reports still to be sent to the Panel, no servers of direct "
            "transfers, and no used tokens"
        )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        if version > _VERSION:
            raise StateDatabaseError(
                f"{self._path} was written by a newer wingsd; install that one again, or move the "
                "file away when no transfer is under way"
            )
        if version < _VERSION:
            missing = "".join(SCHEMAS[version:])
            connection.executescript(
                f"BEGIN IMMEDIATE; {missing} PRAGMA user_version = {_VERSION}; COMMIT;"
            )

    def close(self) -> None:
        """Close the database."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # SQLite

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StateDatabaseError(f"{self._path} is not open")
        return self._connection

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        with self._errors():
            return self._opened.execute(statement, values)

    def _insert(self, statement: str, *values: object) -> int:
        return self._execute(statement, *values).lastrowid or 0

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._opened.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._opened
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            # SQLite itself rolls back after some errors, and not after others.
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # The lowest byte is the primary code, see https://www.sqlite.org/rescode.html.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
                raise self._damaged(error) from error
            raise StateDatabaseError(
                f"{self._path}: {error}; check that its disk has free space and is writable"
            ) from error


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
