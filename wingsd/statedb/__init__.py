"""The state database: transfers, reports to the Panel, tokens and more, kept across restarts.

`Store` has the records, its tables and its file: SQLite with a write-ahead log, where a change is
on disk when its method returns. The database is checked for damage when it is opened, before a
transfer needs a damaged page. Blocking, for one thread at a time. `StateDatabase` calls it for the
reactor, in one thread and in order. `python -m wingsd.statedb` prints it.

A clock that is set forward makes all rows expire at once, and may be set back again. The table
`forgotten` therefore keeps the time up to which tokens were deleted: older ones are refused. And
the ages in `kept` are counted daily.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs.converters import optional

from wingsd.errors import StateDatabaseDamaged, StateDatabaseError
from wingsd.threadio import InThread, Timed, Workers
from wingsd.util.durable import sync_directory


def _split(names: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(names.split() if isinstance(names, str) else names)


class Direction(Enum):
    """The direction of a transfer: to this node or from it."""

    IN = "in"
    OUT = "out"


class Outcome(Enum):
    """The outcome of a transfer or an installation. A person has `CANCELLED` only transfers."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"


class ReportKind(Enum):
    """The subject of a report to the Panel."""

    TRANSFER = "transfer"
    INSTALL = "install"
    REINSTALL = "reinstall"
    RESTORE = "restore"
    BACKUP = "backup"
    BACKUP_DELETION = "backup deletion"

    @property
    def is_transfer(self) -> bool:
        """True for a report about a transfer."""
        return self is ReportKind.TRANSFER

    @property
    def is_installation(self) -> bool:
        """True for a report about an installation."""
        return self in (ReportKind.INSTALL, ReportKind.REINSTALL)


@attrs.frozen(repr=False)
class TransferRecord:
    """A transfer: its last recorded step, and its outcome, None before it has ended."""

    id: int
    server: str
    direction: Direction = attrs.field(converter=Direction)
    step: str
    begun: float
    changed: float
    outcome: Outcome | None = attrs.field(default=None, converter=optional(Outcome))
    #: Whether it is a direct transfer, without a Panel.
    direct: bool = attrs.field(default=False, converter=bool, metadata={"column": "by_hand"})
    #: Why it failed; the archive's bytes and files, None where it ended before.
    reason: str = ""
    bytes: int | None = None
    files: int | None = None
    #: The storage pool that the other node shares: it has the files, so they are not deleted.
    pool: str = ""
    #: Paths of the local backups to be removed once the server has moved.
    removals: tuple[str, ...] = attrs.field(default=(), converter=_split)
    #: The inode of the server's directory; None where it is unknown, or in a pool.
    inode: int | None = attrs.field(default=None, converter=optional(int))
    #: Seconds from the stop of a server that ran until the destination had it; None if not known.
    downtime: float | None = None


@attrs.frozen(eq=False, repr=False)
class TransferResult:
    """Details of an ended transfer; see `TransferRecord`."""

    reason: str = ""
    bytes: int | None = None
    files: int | None = None
    downtime: float | None = None


@attrs.frozen(repr=False)
class InstallationRecord:
    """An installation that is under way, which began at `begun`.

    `ran` is when its script was about to run; None before. Before that nothing has changed, and it
    may begin again. `outcome` is set when it has ended, and what it has left is being removed.
    """

    server: str
    begun: float
    reinstall: bool = attrs.field(default=False, converter=bool)
    #: Whether the server is started when it is installed.
    start: bool = attrs.field(default=False, converter=bool)
    ran: float | None = None
    outcome: Outcome | None = attrs.field(default=None, converter=optional(Outcome))
    #: What was asked for with it, as JSON; empty for nothing.
    options: str = ""


@attrs.frozen(repr=False)
class RestoreRecord:
    """The restoring of a backup that is under way, which began at `begun`.

    With `truncate` the server's present files are to be replaced, else the backup's are laid over
    them.
    """

    server: str
    backup: str
    begun: float
    truncate: bool = attrs.field(converter=bool)
    #: Whether the server is to be started afterwards: it ran, and is being stopped.
    start: bool = attrs.field(default=False, converter=bool)
    #: The inode of the directory with the new content, from when that is whole and durable: from
    #: then on the restoring is completed, and before it nothing of the server has changed.
    inode: int | None = attrs.field(default=None, converter=optional(int))


@attrs.frozen(repr=False)
class RewindRecord:
    """The last rewind of a server to the point `point` of its history, which began at `begun`.

    Its changes were begun if the plan of it exists beside the server's files. `backup` is the one
    that it restores, empty where an operator has ordered it; `truncate` is as of a restore.
    """

    server: str
    point: int
    #: When that point was made, in seconds since the epoch.
    time: float
    begun: float
    #: Whether the server is to be started afterwards: it ran, and is being stopped.
    start: bool = attrs.field(default=False, converter=bool)
    #: The point by which it is undone, or the one before where it has changed nothing; or None.
    undo: int | None = None
    #: None as long as it is under way.
    outcome: Outcome | None = attrs.field(default=None, converter=optional(Outcome))
    backup: str = ""
    truncate: bool = attrs.field(default=False, converter=bool)


@attrs.frozen(repr=False)
class BackupRecord:
    """A backup that is being made since `begun`; `place` is its path in the backup directory."""

    backup: str
    server: str
    adapter: str
    place: str
    begun: float


HISTORY = "history"
"""A server's history among the backups that follow it; see `history_place`."""


def history_place(server: str) -> str:
    """Return the place of a server's history among those of the backups that it leaves.

    That of a left one ends in the number of its transfer, too.
    """
    return f"{server}.{HISTORY}"


POINT = "point"
"""The suffix of a backup that is a point of its server's history; see `point_place`."""


def point_place(backup: str) -> str:
    """Return the place of a backup that is a point among those of the backups of a server."""
    return f"{backup}.{POINT}"


class LeftState(Enum):
    """The state of a local backup, or the history, of a server that has moved away from this node.

    One that follows is sent when the Panel has a record of it, one that is ordered in any case.
    """

    #: The Panel dropped it with its order. It is deleted here.
    DROPPED = "dropped"
    FOLLOWS = "follows"
    ORDERED = "ordered"
    #: It stays here, since an operator has said so.
    KEPT = "kept"
    #: Its server's node has it, or its user has deleted it there: only its removal here is left.
    DONE = "done"


#: The states in which a backup is to be sent.
TO_SEND = frozenset({LeftState.FOLLOWS, LeftState.ORDERED})


@attrs.frozen(repr=False)
class LeavingBackup:
    """A local backup, or the history, that its server leaves if its transfer succeeds.

    `state` is that of it then. `place` is its path in the backup directory, `history_place` or
    `point_place`. It has so many `bytes`, and was `made` then, in seconds since the epoch.
    `newest` is the number of a history's newest point, or of the point that a backup is.
    """

    place: str
    state: LeftState = attrs.field(converter=LeftState)
    bytes: int = 0
    made: float = 0.0
    newest: int = 0

    @property
    def is_history(self) -> bool:
        """True for a history."""
        return f".{HISTORY}" in self.place

    @property
    def is_point(self) -> bool:
        """True for a backup that is a point."""
        return self.place.endswith(f".{POINT}")


@attrs.frozen(repr=False)
class LeftBackup:
    """A local backup, or the history, of a server that has moved away from this node.

    `place` is as that of a LeavingBackup; `since` when the transfer ended, `transfer` that
    transfer. `age` are the seconds that daily looks have counted since, `missed` the age at which
    the Panel was without it first; None where it has not been asked, or had it the last time.
    `newest` is as that of a LeavingBackup.
    """

    place: str
    server: str
    since: float
    age: float
    missed: float | None
    transfer: int
    state: LeftState = attrs.field(converter=LeftState)
    newest: int = 0

    @property
    def is_history(self) -> bool:
        """True for a history."""
        return self.place.startswith(history_place(self.server))

    @property
    def is_point(self) -> bool:
        """True for a backup that is a point."""
        return self.place.endswith(f".{POINT}")


class ArrivingState(Enum):
    """The state of a local backup, or the history, that follows its server to this node."""

    COMING = "coming"
    HERE = "here"
    #: Its user has deleted it here before it came.
    DELETED = "deleted"
    #: It stays at its source, unless an operator there orders otherwise.
    STAYS = "stays"
    #: It has not come here, and the node that the server has moved on to has a file of it.
    PASSED = "passed"


@attrs.frozen(repr=False)
class ArrivingBackup:
    """A local backup that follows its server to this node, which came by `transfer`.

    It was made at `made`, in seconds since the epoch. A history is the backup `HISTORY`: the
    number of its newest point is `newest`, and `floor` that of the newest one that was here from
    an earlier stay of the server, 0 without one, and -1 as long as that is not known. A backup
    that is a point has the suffix `POINT`; the number of its point is `newest`.
    """

    backup: str
    transfer: int
    server: str
    suffix: str
    bytes: int
    made: float
    state: ArrivingState = attrs.field(default=ArrivingState.COMING, converter=ArrivingState)
    newest: int = 0
    floor: int = 0

    @property
    def is_point(self) -> bool:
        """True for a backup that is a point."""
        return self.suffix == POINT


@attrs.frozen(repr=False)
class Report:
    """A report to the Panel, added at `created`; `answer` is the Panel's last one.

    `settled` is None as long as it is still to be sent.
    """

    id: int
    server: str
    outcome: Outcome = attrs.field(converter=Outcome)
    created: float
    attempts: int = 0
    answer: str = ""
    settled: float | None = None
    #: The UUIDs of the backups received with the server, or that of the one that was restored;
    #: None where the report has none.
    backups: tuple[str, ...] | None = attrs.field(default=None, converter=optional(_split))
    #: When its transfer began at this node; None where the database has no such transfer.
    begun: float | None = None
    kind: ReportKind = attrs.field(default=ReportKind.TRANSFER, converter=ReportKind)
    #: The backup that it is about, and the body of the call as JSON; empty for other reports.
    backup: str = ""
    body: str = ""
    #: Seconds after `begun` for which a Panel that denies the transfer may not have committed it.
    commits_within: float = 60.0

    @property
    def queue(self) -> str:
        """The queue of the report, of which one is sent at a time: its backup, else its server."""
        return self.backup or self.server

    @property
    def what(self) -> str:
        """The report as the log and the listing name it."""
        outcome = self.outcome.value
        return outcome if self.kind.is_transfer else f"{self.kind.value} {outcome}"


@attrs.frozen(repr=False)
class ServerDescription:
    """A server received by a direct transfer: its `description`, JSON as a Panel would send it.

    The description is empty once the Panel describes the server. `digest` is that of the
    transfer's token; `arrived` is the time of arrival, None before.
    """

    server: str
    digest: str
    description: str
    arrived: float | None = None


@attrs.frozen(repr=False)
class DirectDestination:
    """The destination of a direct transfer, and whether the server is removed here afterwards.

    `url` is the other node's address for uploads, `token` the `Authorization` header for it.
    `description` is the server's, JSON as a Panel would send it; earlier versions have none.
    """

    url: str
    token: str = attrs.field(repr=False)
    remove: bool = attrs.field(default=False, converter=bool)
    description: str = attrs.field(default="", repr=False)


SCHEMAS = (
    """
CREATE TABLE transfers (
    id INTEGER PRIMARY KEY,
    server TEXT NOT NULL,
    direction TEXT NOT NULL,
    step TEXT NOT NULL,
    begun REAL NOT NULL,
    changed REAL NOT NULL,
    outcome TEXT
);
CREATE TABLE reports (
    id INTEGER PRIMARY KEY,
    server TEXT NOT NULL,
    outcome TEXT NOT NULL,
    created REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    answer TEXT NOT NULL DEFAULT '',
    settled REAL
);
CREATE TABLE tokens (digest TEXT PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE denied (jti TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX unfinished ON transfers (id) WHERE outcome IS NULL;
CREATE INDEX unsettled ON reports (id) WHERE settled IS NULL;
""",
    """
CREATE TABLE forgotten (kind TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
INSERT INTO forgotten (kind, until) VALUES ('tokens', 0), ('denied', 0);
CREATE TABLE kept (name TEXT PRIMARY KEY, seen REAL NOT NULL, age REAL NOT NULL) WITHOUT ROWID;
""",
    # UUIDs with a space between two; NULL where the report has no backups.
    """
ALTER TABLE reports ADD COLUMN backups TEXT;
""",
    """
ALTER TABLE transfers ADD COLUMN by_hand INTEGER NOT NULL DEFAULT 0;
ALTER TABLE transfers ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE transfers ADD COLUMN bytes INTEGER;
ALTER TABLE transfers ADD COLUMN files INTEGER;
CREATE TABLE described (
    server TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    description TEXT NOT NULL,
    arrived REAL
) WITHOUT ROWID;
CREATE TABLE orders (
    transfer INTEGER PRIMARY KEY,
    url TEXT NOT NULL,
    token TEXT NOT NULL,
    remove INTEGER NOT NULL
);
""",
    # Paths in `system.backup_directory`, with a space between two: UUIDs and suffixes are in them.
    """
ALTER TABLE transfers ADD COLUMN pool TEXT NOT NULL DEFAULT '';
ALTER TABLE transfers ADD COLUMN removals TEXT NOT NULL DEFAULT '';
""",
    # Decimal, since some are larger than any INTEGER; NULL where it is not known.
    """
ALTER TABLE transfers ADD COLUMN inode TEXT;
""",
    # When the transfer began that is reported; NULL where that is not known.
    """
ALTER TABLE reports ADD COLUMN begun REAL;
""",
    # Installations under way: `ran` is NULL before the script runs, `outcome` before its end.
    """
CREATE TABLE installations (
    server TEXT PRIMARY KEY,
    begun REAL NOT NULL,
    reinstall INTEGER NOT NULL,
    start INTEGER NOT NULL,
    ran REAL,
    outcome TEXT
) WITHOUT ROWID;
ALTER TABLE reports ADD COLUMN kind TEXT NOT NULL DEFAULT 'transfer';
""",
    # The servers whose programs run.
    """
CREATE TABLE running (server TEXT PRIMARY KEY) WITHOUT ROWID;
""",
    """
ALTER TABLE installations ADD COLUMN options TEXT NOT NULL DEFAULT '';
""",
    # They are in `states.json`, as with Wings.
    """
DROP TABLE running;
""",
    # Activity of users that the Panel has not accepted yet. An id is never used again: rows are
    # deleted by ranges of ids.
    """
CREATE TABLE activity (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    server TEXT NOT NULL,
    event TEXT NOT NULL,
    metadata TEXT NOT NULL,
    user TEXT,
    ip TEXT,
    at REAL NOT NULL
);
""",
    # How often a signed URL was used, and from which address first.
    """
ALTER TABLE tokens ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tokens ADD COLUMN address TEXT NOT NULL DEFAULT '';
""",
    # Backups that are being restored; the inode is decimal as above, and NULL until it is known.
    """
CREATE TABLE restores (
    server TEXT PRIMARY KEY,
    backup TEXT NOT NULL,
    begun REAL NOT NULL,
    truncate INTEGER NOT NULL,
    start INTEGER NOT NULL DEFAULT 0,
    inode TEXT
) WITHOUT ROWID;
""",
    # Backups that are being made, and reports about backups, whose body is JSON.
    """
CREATE TABLE backups (
    backup TEXT PRIMARY KEY,
    server TEXT NOT NULL,
    adapter TEXT NOT NULL,
    place TEXT NOT NULL,
    begun REAL NOT NULL
) WITHOUT ROWID;
ALTER TABLE reports ADD COLUMN backup TEXT NOT NULL DEFAULT '';
ALTER TABLE reports ADD COLUMN body TEXT NOT NULL DEFAULT '';
""",
    # Moves that resume, by the number of their transfer; request and state are JSON objects.
    """
CREATE TABLE moves (
    transfer INTEGER PRIMARY KEY,
    server TEXT NOT NULL,
    direction TEXT NOT NULL,
    move TEXT NOT NULL,
    key TEXT NOT NULL,
    token TEXT NOT NULL,
    url TEXT NOT NULL,
    family TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL
);
CREATE INDEX moves_of_servers ON moves (server);
""",
    # The description of a server that is sent without a Panel, for the recovery.
    """
ALTER TABLE orders ADD COLUMN description TEXT NOT NULL DEFAULT '';
""",
    # Servers that this node has stopped, to start them again.
    """
CREATE TABLE starts (server TEXT PRIMARY KEY) WITHOUT ROWID;
""",
    # The direct transfers that have brought servers, by the SHA-256 of their tokens. Never pruned:
    # a source asks until it is answered, also when the server is not here any more.
    """
CREATE TABLE arrivals (digest TEXT PRIMARY KEY, server TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO arrivals (digest, server)
    SELECT digest, server FROM described WHERE arrived IS NOT NULL;
INSERT OR IGNORE INTO arrivals (digest, server)
    SELECT token, server FROM moves WHERE direction = 'in' AND transfer IN
    (SELECT id FROM transfers WHERE outcome = 'success' AND by_hand);
""",
    # For how long a report is sent again that the Panel denies.
    """
ALTER TABLE reports ADD COLUMN commits_within REAL NOT NULL DEFAULT 60;
""",
    # Local backups that the Panel dropped when a transfer took their server away. `age` counts
    # from the first daily look after it, `missed` is the age when the Panel was first without one.
    """
CREATE TABLE dropped (
    place TEXT PRIMARY KEY,
    server TEXT NOT NULL,
    transfer INTEGER NOT NULL,
    age REAL NOT NULL DEFAULT 0,
    seen REAL,
    missed REAL
) WITHOUT ROWID;
""",
    # Pairs with other nodes, by the names that this node has for them: `in` for one that may send
    # seeds here, by a key with that SHA-256; `out` for one at `url` that takes them. The pair of
    # each move of a seed that came or goes by one, and the servers of which seeds are wanted. How
    # long a server was down that has moved; and since when the node takes no servers.
    """
CREATE TABLE pairs (
    name TEXT NOT NULL,
    direction TEXT NOT NULL,
    peer TEXT NOT NULL,
    digest TEXT NOT NULL,
    url TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    servers INTEGER NOT NULL,
    created REAL NOT NULL,
    expires REAL NOT NULL,
    used REAL,
    PRIMARY KEY (direction, name)
) WITHOUT ROWID;
CREATE TABLE wanted_seeds (
    server TEXT PRIMARY KEY,
    pair TEXT NOT NULL,
    at_once INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE maintenance (since REAL NOT NULL, why TEXT NOT NULL);
ALTER TABLE moves ADD COLUMN pair TEXT NOT NULL DEFAULT '';
ALTER TABLE transfers ADD COLUMN downtime REAL;
""",
    # Those of all servers that have moved away, and those that are to come after their servers.
    """
ALTER TABLE dropped RENAME TO left_backups;
ALTER TABLE left_backups ADD COLUMN state TEXT NOT NULL DEFAULT 'dropped';
ALTER TABLE left_backups ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE left_backups ADD COLUMN made REAL NOT NULL DEFAULT 0;
CREATE TABLE arriving_backups (
    backup TEXT NOT NULL,
    transfer INTEGER NOT NULL,
    server TEXT NOT NULL,
    suffix TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    made REAL NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (backup, transfer)
) WITHOUT ROWID;
CREATE INDEX transfers_server ON transfers (server);
""",
    # The last rewind of each server.
    """
CREATE TABLE rewinds (
    server TEXT PRIMARY KEY,
    point INTEGER NOT NULL,
    time REAL NOT NULL,
    begun REAL NOT NULL,
    start INTEGER NOT NULL DEFAULT 0,
    undo INTEGER,
    outcome TEXT
) WITHOUT ROWID;
""",
    # Transfers that a person has cancelled.
    """
UPDATE transfers SET outcome = 'cancelled'
    WHERE outcome = 'failure' AND reason LIKE '%: transfer-cancelled: %';
""",
    # Histories that follow their servers: the number of the newest point there, and here.
    """
ALTER TABLE left_backups ADD COLUMN newest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE arriving_backups ADD COLUMN newest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE arriving_backups ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;
""",
    # Rewinds that restore backups.
    """
ALTER TABLE rewinds ADD COLUMN backup TEXT NOT NULL DEFAULT '';
ALTER TABLE rewinds ADD COLUMN truncate INTEGER NOT NULL DEFAULT 0;
""",
)


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


@attrs.frozen(repr=False)
class MoveRecord:
    """A move; `transfer` is the id of its transfer.

    At the source `key` is the move's key, `token` the header `Authorization` for the first
    request and `url` the destination's address of transfers. At the destination they are the
    SHA-256 of the key, that of the token, and empty. `move` is empty until the destination has
    given the id. `family` is that of the other node, if it is known. `request` is a JSON object
    that never changes, such as what the move was begun with; `state` is one that does. `pair` is
    the pair of a seed, at the source its name and at the destination its identity; empty for any
    other move.
    """

    transfer: int
    server: str
    direction: Direction = attrs.field(converter=Direction)
    move: str
    key: str
    token: str
    url: str = ""
    family: str = ""
    request: str = "{}"
    state: str = "{}"
    pair: str = ""


@attrs.frozen(eq=False, repr=False)
class PairRecord:
    """A pair with another node, which calls itself `peer`.

    `Direction.IN` is one that may send seeds here, of so many `bytes` and `servers` in all, by the
    key with the SHA-256 `digest`; `url` is empty. `Direction.OUT` is one to which this node may
    send them: its limits are those of the last answer. Times are seconds since the epoch; `used`
    is None before the first use.
    """

    name: str
    direction: Direction = attrs.field(converter=Direction)
    peer: str
    digest: str
    url: str
    bytes: int
    servers: int
    created: float
    expires: float
    used: float | None = None

    @property
    def identity(self) -> str:
        """Its own name for copies here: another pair may get its name later."""
        return f"{self.name} {self.digest[:16]}"


@attrs.frozen(eq=False, repr=False)
class WantedSeed:
    """A server of which a seed is wanted by a pair, of so many of its first rounds `at_once`."""

    server: str
    pair: str
    at_once: int


@attrs.frozen(eq=False, repr=False)
class Maintenance:
    """The maintenance of a node since a time, in seconds since the epoch; `why` may be empty."""

    since: float
    why: str


def restore_report(record: RestoreRecord, outcome: Outcome, now: float) -> Report:
    """Return the report of a restore's end, which is not in the database."""
    return Report(
        0,
        record.server,
        outcome,
        now,
        backups=(record.backup,),
        kind=ReportKind.RESTORE,
    )


#: The database's name in `system.root_directory`.
FILE = "wingsd.db"

_VERSION = len(SCHEMAS)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


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
#: Of a transfer that has not ended, or has moved its server.
_NOT_FAILED = "(outcome IS NULL OR outcome = 'success')"
#: Settles the failures of transfers of a server that a Panel has not heard of.
_DROP_FAILURES = (
    "UPDATE reports SET settled = ?, answer = 'another transfer has begun'"
    " WHERE server = ? AND kind = 'transfer' AND outcome = 'failure' AND settled IS NULL"
)
#: Rows that are deleted at once of those that are too many.
TRIMMED_AT_ONCE = 10_000
#: Uses that no token has.
_UNLIMITED = 1 << 62
#: The left backups whose transfer has moved the server, which no later one brings back.
_LEFT = f"""
    transfer IN (SELECT id FROM transfers WHERE outcome = 'success')
    AND NOT EXISTS (
        SELECT 1 FROM transfers WHERE transfers.server = left_backups.server AND id > transfer
        AND {_NOT_FAILED}
    )
"""  # noqa: S608 - constant
#: Those whose transfer has failed, and those of servers that came back.
_BACK = """
    EXISTS (
        SELECT 1 FROM transfers WHERE transfers.server = left_backups.server AND id > transfer
        AND outcome = 'success'
    )
"""
_AT_HOME = f"transfer NOT IN (SELECT id FROM transfers WHERE {_NOT_FAILED}) OR {_BACK}"  # noqa: S608
_IS_HISTORY = f"place LIKE server || '.{HISTORY}-%'"
#: The arriving backups whose server has not failed to come.
_ARRIVING = f"transfer IN (SELECT id FROM transfers WHERE {_NOT_FAILED})"  # noqa: S608
#: The states of moves to this node that have not failed: whether the server is to be started.
_STARTS, _STARTS_NOT = '{"start": true}', "{}"

R = TypeVar("R", bound=attrs.AttrsInstance)


class Store:
    """The database in the directory `root`. Every method raises `StateDatabaseError`.

    `now` is the time of a call, in seconds since the epoch.
    """

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

    def _add(self, into: str, **values: object) -> int:
        """Insert a row `into` a table, such as `OR REPLACE INTO moves`; return its id."""
        names, places = ", ".join(values), ", ".join("?" * len(values))
        plain = (each.value if isinstance(each, Enum) else each for each in values.values())
        statement = f"INSERT {into} ({names}) VALUES ({places})"  # noqa: S608
        return self._execute(statement, *plain).lastrowid or 0

    def _records(self, kind: type[R], table: str, where: str = "", *values: object) -> list[R]:
        """Return rows as records, whose fields have the names of the columns."""
        fields = attrs.fields(kind)
        names = ", ".join(each.metadata.get("column", each.name) for each in fields)
        rows = self._rows(f"SELECT {names} FROM {table} {where}", *values)  # noqa: S608
        return [kind(*row) for row in rows]

    def _record(self, kind: type[R], table: str, where: str, *values: object) -> R | None:
        return next(iter(self._records(kind, table, where, *values)), None)

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._opened.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
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

    # Transfers

    def begin(
        self, now: float, server: str, direction: Direction, step: str, *, direct: bool = False
    ) -> int:
        """Add a transfer; return its id.

        Nothing more is done of one of the server that has failed, and no failure is reported that
        a Panel would take for that of this one.
        """
        with self._transaction():
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
        return self._add(
            "INTO transfers",
            server=server,
            direction=direction,
            step=step,
            begun=now,
            changed=now,
            by_hand=direct,
        )

    def admit_move(
        self, now: float, record: MoveRecord, step: str, expires: float, *, direct: bool
    ) -> int | None:
        """Add a transfer to this node by a move, add that, and mark its token as used.

        All or nothing, in one transaction: None if the token may have been used. Return the id of
        the transfer, which `record` has not. `expires` is when the token does, in seconds since
        the epoch.
        """
        with self._transaction():
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
        left: Sequence[LeavingBackup] = (),
    ) -> None:
        """Set these fields of a transfer, all at once; see `TransferRecord`.

        `left` are the local backups that stay here if the server moves.
        """
        statement = "UPDATE transfers SET pool = ?, removals = ?, inode = ? WHERE id = ?"
        with self._transaction():
            self._execute(statement, pool, " ".join(removals), inode and str(inode), transfer)
            self._execute("DELETE FROM left_backups WHERE transfer = ?", transfer)
            for each in left:
                self._execute(
                    "INSERT OR REPLACE INTO left_backups"
                    " (place, state, bytes, made, newest, server, transfer)"
                    " SELECT ?, ?, ?, ?, ?, server, id FROM transfers WHERE id = ?",
                    # the node that a history was to follow to before may not have heard of its end
                    each.place + (f"-{transfer}" if each.is_history else ""),
                    each.state.value,
                    each.bytes,
                    each.made,
                    each.newest,
                    transfer,
                )

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
            "UPDATE transfers SET outcome = ?, changed = ?, reason = ?, bytes = ?, files = ?,"
            " downtime = ? WHERE id = ?",
            outcome.value,
            now,
            result.reason,
            result.bytes,
            result.files,
            result.downtime,
            transfer,
        )
        # They have the other node's token or key and are not needed any more.
        self._execute("DELETE FROM orders WHERE transfer = ?", transfer)
        if is_told:
            # That of a server which has moved, and whose backups follow, has the key for these.
            self._execute(
                "DELETE FROM moves WHERE transfer = ? AND direction = 'out' AND (? != 'success'"
                " OR transfer NOT IN"
                " (SELECT transfer FROM left_backups WHERE state != 'dropped'))",
                transfer,
                outcome.value,
            )

    def transfers(self) -> list[TransferRecord]:
        """Return all transfers, oldest first."""
        return self._records(TransferRecord, "transfers", "ORDER BY id")

    def transfer(self, transfer: int) -> TransferRecord | None:
        """Return a transfer by its id."""
        return self._record(TransferRecord, "transfers", "WHERE id = ?", transfer)

    def unfinished(self) -> list[TransferRecord]:
        """Return the transfers that have not ended, oldest first."""
        return self._records(TransferRecord, "transfers", "WHERE outcome IS NULL ORDER BY id")

    def ended(self, most: int, server: str | None = None) -> list[TransferRecord]:
        """Return the last `most` ended transfers, of one server or of all, latest first."""
        which = "WHERE outcome IS NOT NULL AND ? IN (server, '') ORDER BY id DESC LIMIT ?"
        return self._records(TransferRecord, "transfers", which, server or "", most)

    def last_number(self) -> int:
        """Return the highest id of a transfer; 0 without any."""
        ((last,),) = self._rows("SELECT coalesce(max(id), 0) FROM transfers")
        return int(last)

    def sent_since(self, since: float) -> list[TransferRecord]:
        """Return the transfers to other nodes by the Panel that have ended since, oldest first."""
        which = (
            "WHERE outcome IS NOT NULL AND direction = 'out' AND NOT by_hand AND changed >= ?"
            " ORDER BY changed, id LIMIT 10000"
        )
        return self._records(TransferRecord, "transfers", which, since)

    def last_move(self, server: str) -> TransferRecord | None:
        """Return the last transfer of a server that has not failed, or not yet."""
        which = f"WHERE server = ? AND {_NOT_FAILED} ORDER BY id DESC LIMIT 1"
        return self._record(TransferRecord, "transfers", which, server)

    def moved_directly(self) -> list[TransferRecord]:
        """Return the direct transfers that have moved servers away, and were the last of them."""
        return self._records(TransferRecord, "transfers", f"{_MOVED_DIRECTLY} ORDER BY id")

    # Moves that resume, in both directions

    def add_move(self, record: MoveRecord) -> None:
        """Add a move."""
        self._add("OR REPLACE INTO moves", **attrs.asdict(record, recurse=False))

    def drop_move(self, transfer: int) -> None:
        """Delete the move of a transfer that goes on as one stream, or has failed."""
        self._execute("DELETE FROM moves WHERE transfer = ?", transfer)

    def set_move(self, transfer: int, move: str) -> None:
        """Record the id that the destination has given."""
        self._execute("UPDATE moves SET move = ? WHERE transfer = ?", move, transfer)

    def set_move_state(self, transfer: int, state: str) -> None:
        """Record the state of a move, a JSON object."""
        self._execute("UPDATE moves SET state = ? WHERE transfer = ?", state, transfer)

    def change_move_state(self, transfer: int, changes: Mapping[str, object]) -> None:
        """Change fields of the state of a move, if it is recorded; the others stay."""
        record = self.move(transfer)
        if record is not None:
            self.set_move_state(transfer, json.dumps({**json.loads(record.state), **changes}))

    def set_start(self, transfer: int, *, starts: bool) -> None:
        """Record whether the server of a move to this node is to be started at the end."""
        self.set_move_state(transfer, _STARTS if starts else _STARTS_NOT)

    def starts(self, transfer: int) -> bool:
        """Return whether that is recorded; False for a transfer as one stream."""
        move = self.move(transfer)
        return move is not None and move.direction is Direction.IN and move.state == _STARTS

    def arrived_to_start(self) -> list[MoveRecord]:
        """Return the moves that have succeeded, and whose servers are still to be started."""
        return self._records(
            MoveRecord,
            "moves",
            "WHERE direction = 'in' AND state = ? AND transfer IN "
            "(SELECT id FROM transfers WHERE outcome = 'success') ORDER BY transfer",
            _STARTS,
        )

    def move(self, transfer: int) -> MoveRecord | None:
        """Return the move of a transfer, None for a transfer as one stream."""
        return self._record(MoveRecord, "moves", "WHERE transfer = ?", transfer)

    def open_moves(self) -> list[MoveRecord]:
        """Return the moves in both directions whose transfers have not ended.

        And those to other nodes that have failed, where these may not have heard of it.
        """
        return self._records(
            MoveRecord,
            "moves",
            "WHERE transfer IN (SELECT id FROM transfers WHERE outcome IS NULL "
            "OR outcome != 'success' AND moves.direction = 'out') ORDER BY transfer",
        )

    def find_move(self, direction: Direction, move: str) -> MoveRecord | None:
        """Return a move by its id, also when it has ended."""
        where = "WHERE direction = ? AND move = ? ORDER BY transfer DESC LIMIT 1"
        return self._record(MoveRecord, "moves", where, direction.value, move)

    def find_admitted(self, token: str) -> MoveRecord | None:
        """Return the move to this node that was begun with the token of that SHA-256."""
        where = "WHERE direction = 'in' AND token = ? ORDER BY transfer DESC LIMIT 1"
        return self._record(MoveRecord, "moves", where, token)

    # Direct transfers

    def add_description(self, server: str, digest: str, description: str) -> None:
        """Add the description of a server to be received with the token of that digest."""
        self._add(
            "OR REPLACE INTO described", server=server, digest=digest, description=description
        )

    def mark_arrived(self, now: float, server: str) -> None:
        """Record that a described server has been received, and by which token."""
        with self._transaction():
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
        return self._records(ServerDescription, "described")

    def clear_description(self, server: str) -> None:
        """Empty the description of a received server that the Panel describes now."""
        self._execute("UPDATE described SET description = '' WHERE server = ?", server)

    def delete_description(self, server: str) -> None:
        """Delete the description of a server."""
        self._execute("DELETE FROM described WHERE server = ?", server)

    def delete_lost(self, server: str) -> None:
        """Delete the description of a server that is lost, and that it was received."""
        with self._transaction():
            digest = "(SELECT digest FROM described WHERE server = ?)"
            self._execute(f"DELETE FROM arrivals WHERE digest = {digest}", server)  # noqa: S608
            self.delete_description(server)

    def add_destination(self, transfer: int, destination: DirectDestination) -> None:
        """Add the destination of a direct transfer."""
        self._add("INTO orders", transfer=transfer, **attrs.asdict(destination))

    def destination(self, transfer: int) -> DirectDestination | None:
        """Return the destination of a direct transfer, None when it has ended."""
        return self._record(DirectDestination, "orders", "WHERE transfer = ?", transfer)

    # Pairs, wanted seeds, and maintenance

    def save_pair(self, record: PairRecord) -> None:
        """Add a pair, or change it."""
        self._add("OR REPLACE INTO pairs", **attrs.asdict(record))

    def pairs(self) -> list[PairRecord]:
        """Return all pairs."""
        return self._records(PairRecord, "pairs", "ORDER BY created")

    def delete_pair(self, direction: Direction, name: str) -> None:
        """Delete a pair; no seeds are wanted by one from this node any more."""
        with self._transaction():
            self._execute(
                "DELETE FROM pairs WHERE direction = ? AND name = ?", direction.value, name
            )
            if direction is Direction.OUT:
                self._execute("DELETE FROM wanted_seeds WHERE pair = ?", name)

    def want_seeds(self, seeds: Sequence[WantedSeed]) -> None:
        """Add servers of which seeds are wanted, all or none; known ones stay."""
        with self._transaction():
            for each in seeds:
                self._add("OR IGNORE INTO wanted_seeds", **attrs.asdict(each))

    def wanted_seeds(self) -> list[WantedSeed]:
        """Return the servers of which seeds are wanted."""
        return self._records(WantedSeed, "wanted_seeds")

    def drop_seed(self, server: str) -> None:
        """Delete a server of which no seed is wanted any more."""
        self._execute("DELETE FROM wanted_seeds WHERE server = ?", server)

    def set_maintenance(self, now: float, why: str | None) -> None:
        """Begin maintenance, or change why; None ends it."""
        with self._transaction():
            found = self.maintenance()
            self._execute("DELETE FROM maintenance")
            if why is not None:
                self._add("INTO maintenance", since=found.since if found else now, why=why)

    def maintenance(self) -> Maintenance | None:
        """Return the maintenance of the node, None without."""
        return self._record(Maintenance, "maintenance", "")

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
        record = InstallationRecord(server, now, reinstall, start, ran, options=options)
        self._add("OR REPLACE INTO installations", **attrs.asdict(record))
        return record

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
        return self._records(InstallationRecord, "installations", "ORDER BY begun")

    # Backups that are being restored

    def begin_restore(
        self, now: float, server: str, backup: str, *, truncate: bool
    ) -> RestoreRecord:
        """Add a restore, in place of an earlier one of the server."""
        record = RestoreRecord(server, backup, now, truncate)
        self._add("OR REPLACE INTO restores", **attrs.asdict(record))
        return record

    def start_after_restore(self, server: str) -> None:
        """Record that a server is to be started when its backup is restored."""
        self._execute("UPDATE restores SET start = 1 WHERE server = ?", server)

    def commit_restore(self, server: str, inode: int) -> None:
        """Record that the new content is whole, in the directory with that inode."""
        self._execute("UPDATE restores SET inode = ? WHERE server = ?", str(inode), server)

    def restores(self) -> list[RestoreRecord]:
        """Return the restores under way, oldest first."""
        return self._records(RestoreRecord, "restores", "ORDER BY begun")

    def end_restore(self, now: float, record: RestoreRecord, outcome: Outcome) -> Report:
        """Delete a restore and add the report of its end, both or neither.

        If the server is to be started, that is due from then on.
        """
        with self._transaction():
            self._execute(
                "INSERT OR IGNORE INTO starts (server)"
                " SELECT server FROM restores WHERE server = ? AND start",
                record.server,
            )
            self._execute("DELETE FROM restores WHERE server = ?", record.server)
            kind = ReportKind.RESTORE
            return self._add_report(now, record.server, outcome, kind, backups=record.backup)

    # Rewinds to points of histories

    def begin_rewind(
        self,
        now: float,
        server: str,
        point: int,
        time: float,
        backup: str = "",
        *,
        truncate: bool = False,
    ) -> RewindRecord:
        """Add a rewind, in place of an earlier one of the server.

        The point by which that is undone stays until this one has changed something.
        """
        self._execute(
            "INSERT INTO rewinds (server, point, time, begun, backup, truncate)"
            " VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (server) DO UPDATE SET point = excluded.point, time = excluded.time,"
            " begun = excluded.begun, start = 0, outcome = NULL, backup = excluded.backup,"
            " truncate = excluded.truncate",
            server,
            point,
            time,
            now,
            backup,
            truncate,
        )
        (record,) = self._records(RewindRecord, "rewinds", "WHERE server = ?", server)
        return record

    def start_after_rewind(self, server: str) -> None:
        """Record that a server is to be started when it is rewound."""
        self._execute("UPDATE rewinds SET start = 1 WHERE server = ?", server)

    def set_undo(self, server: str, point: int | None) -> None:
        """Record the point by which a rewind can be undone, None where there is none."""
        self._execute("UPDATE rewinds SET undo = ? WHERE server = ?", point, server)

    def rewinds(self) -> list[RewindRecord]:
        """Return the last rewind of each server."""
        return self._records(RewindRecord, "rewinds", "ORDER BY begun")

    def end_rewind(
        self, now: float, server: str, outcome: Outcome, *, starts: bool = True
    ) -> Report | None:
        """Record the end of a rewind, and add the report of it if that restores a backup.

        If the server is to be started, that is due from then on, unless it `starts` no more.
        """
        with self._transaction():
            rows = self._rows("SELECT backup FROM rewinds WHERE server = ?", server)
            self._execute(
                "INSERT OR IGNORE INTO starts (server)"
                " SELECT server FROM rewinds WHERE server = ? AND start AND ?",
                server,
                starts,
            )
            self._execute(
                "UPDATE rewinds SET outcome = ?, start = 0 WHERE server = ?",
                outcome.value,
                server,
            )
            for (backup,) in rows:
                if backup:
                    kind = ReportKind.RESTORE
                    return self._add_report(now, server, outcome, kind, backups=backup)
            return None

    def forget_rewind(self, server: str) -> None:
        """Delete the last rewind of a server, which can no more be undone."""
        self._execute("DELETE FROM rewinds WHERE server = ?", server)

    def due_starts(self) -> list[str]:
        """Return the servers that are to be started again, and were not."""
        return [server for (server,) in self._rows("SELECT server FROM starts ORDER BY server")]

    def end_start(self, server: str) -> None:
        """Record that a server was started, or is not to be any more."""
        self._execute("DELETE FROM starts WHERE server = ?", server)

    # Backups that are being made, or whose servers have moved away

    def begin_backup(self, now: float, backup: str, server: str, adapter: str, place: str) -> None:
        """Add a backup, before anything of it is written; see `BackupRecord`."""
        self._add(
            "OR REPLACE INTO backups",
            **attrs.asdict(BackupRecord(backup, server, adapter, place, now)),
        )

    def backups(self) -> list[BackupRecord]:
        """Return the backups that are being made, oldest first."""
        return self._records(BackupRecord, "backups", "ORDER BY begun")

    def left(self, backup: str = "") -> list[LeftBackup]:
        """Return the local backups of servers that have moved away, and are not coming back.

        With `backup`, those of that UUID.
        """
        return self._left(f"place LIKE ? AND {_LEFT}", f"%{backup}.%")

    def _left(self, which: str, *values: object) -> list[LeftBackup]:
        rows = self._rows(
            "SELECT place, server,"  # noqa: S608 - constant
            " (SELECT changed FROM transfers WHERE id = transfer), age, missed, transfer, state,"
            " newest"
            f" FROM left_backups WHERE {which} ORDER BY transfer, place",
            *values,
        )
        return [LeftBackup(*row) for row in rows]

    def age_left(self, now: float) -> list[LeftBackup]:
        """Count their ages; return them.

        To be called daily: the time between two calls counts, a day at most.
        """
        self._execute(
            "UPDATE left_backups SET seen = ?,"  # noqa: S608 - constant
            f" age = age + max(0, min(? - coalesce(seen, ?), ?)) WHERE {_LEFT}",
            now,
            now,
            now,
            _DAY,
        )
        return self.left()

    def announced(self, transfer: int) -> list[LeavingBackup]:
        """Return the local backups, and the history, that follow the server of a transfer."""
        which = "WHERE transfer = ? AND state = 'follows' ORDER BY place"
        return self._records(LeavingBackup, "left_backups", which, transfer)

    def set_missed(self, left: LeftBackup, *, is_missed: bool) -> None:
        """Record whether the Panel was without a left backup; the first time counts."""
        self._execute(
            "UPDATE left_backups SET missed = CASE WHEN ? THEN coalesce(missed, age) END"
            " WHERE place = ? AND transfer = ?",
            is_missed,
            left.place,
            left.transfer,
        )

    def set_left_state(self, left: LeftBackup, state: LeftState) -> bool:
        """Record the state of a left backup, where it has not changed; return whether it had not.

        Nor where its server is coming back.
        """
        return bool(
            self._execute(
                "UPDATE left_backups SET state = ?, missed = NULL"  # noqa: S608 - constant
                f" WHERE place = ? AND transfer = ? AND state = ? AND {_LEFT}",
                state.value,
                left.place,
                left.transfer,
                left.state.value,
            ).rowcount
        )

    def begin_removal(self, left: LeftBackup, backup: str, state: ArrivingState) -> bool:
        """Record that a left backup is being removed, as `set_left_state`.

        Where it was still to come to this node before its server left, it gets that `state`.
        """
        with self._transaction():
            is_begun = self.set_left_state(left, LeftState.DONE)
            if is_begun:
                self.end_coming(state, backup, left.server, left.transfer)
        return is_begun

    def is_being_removed(self, left: LeftBackup) -> bool:
        """Return whether the removal of a left backup has begun, and its server is not back."""
        which = f"WHERE place = ? AND transfer = ? AND state = 'done' AND {_LEFT}"
        rows = self._rows(
            f"SELECT 1 FROM left_backups {which}",  # noqa: S608 - constant
            left.place,
            left.transfer,
        )
        return bool(rows)

    def forget_left(self, left: LeftBackup) -> None:
        """Forget a left backup: it stays, or is deleted."""
        which = "WHERE place = ? AND transfer = ?"
        self._execute(f"DELETE FROM left_backups {which}", left.place, left.transfer)  # noqa: S608

    # Backups that follow their servers to this node

    def add_arriving(self, backups: Sequence[ArrivingBackup]) -> None:
        """Add backups that are to come, all or none; those that are known stay as they are."""
        with self._transaction():
            for each in backups:
                self._add("OR IGNORE INTO arriving_backups", **attrs.asdict(each, recurse=False))

    def arriving(self, transfer: int, backup: str) -> ArrivingBackup | None:
        """Return a backup that follows a server which came by a transfer."""
        which = "WHERE transfer = ? AND backup = ?"
        return self._record(ArrivingBackup, "arriving_backups", which, transfer, backup)

    def histories_left(self, server: str = "") -> list[LeftBackup]:
        """Return the histories that servers leave or have left here, if they are not back.

        Of one server, or of all; also of those that are leaving.
        """
        which = f"{_IS_HISTORY} AND ? IN (server, '') AND NOT ({_AT_HOME})"
        return self._left(which, server)

    def histories_back(self) -> list[LeftBackup]:
        """Return the histories of servers that have come back to this node."""
        return self._left(f"{_IS_HISTORY} AND {_BACK}")

    def coming_histories(self, server: str = "") -> list[ArrivingBackup]:
        """Return the histories that follow servers to this node: of one or of all, latest first.

        Also those that are not to come any more.
        """
        which = f"WHERE backup = '{HISTORY}' AND ? IN (server, '') AND {_ARRIVING}"
        return self._records(
            ArrivingBackup, "arriving_backups", f"{which} ORDER BY transfer DESC", server
        )

    def coming(self, server: str = "", backup: str = "") -> list[ArrivingBackup]:
        """Return the backups that are still to come: of a server, of a UUID, or all."""
        which = (
            f"WHERE state = 'coming' AND backup != '{HISTORY}'"
            f" AND ? IN (server, '') AND ? IN (backup, '') AND {_ARRIVING}"
        )
        return self._records(
            ArrivingBackup,
            "arriving_backups",
            f"{which} ORDER BY transfer, backup",
            server,
            backup,
        )

    def end_coming(
        self,
        state: ArrivingState,
        backup: str = "",
        server: str = "",
        before: int = _UNLIMITED,
    ) -> int:
        """Set the state of the backups that are still to come, of a UUID or of a server.

        Only of those that follow a server which came by a transfer `before` that one. Return how
        many there were.
        """
        return self._execute(
            "UPDATE arriving_backups SET state = ?"
            " WHERE state = 'coming' AND ? IN (backup, '') AND ? IN (server, '')"
            " AND transfer < ?",
            state.value,
            backup,
            server,
            before,
        ).rowcount

    def note_deleted(self, server: str, backup: str = "") -> None:
        """Record that backups which are points, and have followed a server, were deleted here.

        The nodes that it has left have their names as long as its history follows, and ask.
        """
        self._execute(
            "UPDATE arriving_backups SET state = 'deleted'"
            " WHERE state = 'here' AND suffix = ? AND ? IN (server, '') AND ? IN (backup, '')",
            POINT,
            server,
            backup,
        )

    def order_arriving(self, transfer: int, backup: str) -> None:
        """Expect a backup again that was to stay at its source."""
        self._execute(
            "UPDATE arriving_backups SET state = 'coming'"
            " WHERE transfer = ? AND backup = ? AND state = 'stays'",
            transfer,
            backup,
        )

    def set_floor(self, coming: ArrivingBackup, floor: int) -> None:
        """Record the floor of a history that is to come, when it is known."""
        self._execute(
            "UPDATE arriving_backups SET floor = ? WHERE transfer = ? AND backup = ?",
            floor,
            coming.transfer,
            coming.backup,
        )

    def forget_arriving(self, transfer: int, backup: str) -> None:
        """Forget a backup that is here or deleted; one that was to come stays at its source."""
        which = "WHERE transfer = ? AND backup = ? AND state"
        with self._transaction():
            self._execute(
                f"DELETE FROM arriving_backups {which} IN ('here', 'deleted', 'passed')",  # noqa: S608
                transfer,
                backup,
            )
            self._execute(
                f"UPDATE arriving_backups SET state = 'stays' {which} = 'coming'",  # noqa: S608
                transfer,
                backup,
            )

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
        which = "WHERE server = ? AND NOT by_hand ORDER BY id DESC LIMIT 1"
        last = self._record(TransferRecord, "transfers", which, server)
        return self._add_report(
            now,
            server,
            outcome,
            ReportKind.TRANSFER,
            backups=None if backups is None else " ".join(backups),
            commits_within=commits_within,
            begun=None if last is None else last.begun,
        )

    def _add_report(
        self, now: float, server: str, outcome: Outcome, kind: ReportKind, **more: object
    ) -> Report:
        values = {"server": server, "outcome": outcome, "created": now, "kind": kind}
        (report,) = self._records(
            Report, "reports", "WHERE id = ?", self._add("INTO reports", **values, **more)
        )
        return report

    def is_failure_reported(self, server: str, begun: float) -> bool:
        """Return whether the failure of the transfer that began then was recorded as a report."""
        which = "server = ? AND begun = ? AND kind = 'transfer' AND outcome = 'failure'"
        return bool(self._rows(f"SELECT 1 FROM reports WHERE {which}", server, begun))  # noqa: S608

    def end_installation(
        self, now: float, server: str, kind: ReportKind, outcome: Outcome
    ) -> Report:
        """Delete an installation and add the report of its end, both or neither."""
        with self._transaction():
            self.delete_installation(server)
            return self._add_report(now, server, outcome, kind)

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
        with self._transaction():
            self._execute("DELETE FROM backups WHERE backup = ?", backup)
            return self._add_report(now, server, outcome, kind, backup=backup, body=body)

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
        return self._records(Report, "reports", "ORDER BY id")

    def unsettled(self) -> list[Report]:
        """Return the reports still to be sent, oldest first."""
        return self._records(Report, "reports", "WHERE settled IS NULL ORDER BY id")

    # Tokens that were used, and those that are revoked

    def use_token(self, digest: str, expires: float) -> bool:
        """Mark a transfer's token as used; return False if it was used, or may have been."""
        cursor = self._execute(
            "INSERT OR IGNORE INTO tokens (digest, expires) SELECT ?, ?"
            " WHERE ? > (SELECT until FROM forgotten WHERE kind = 'tokens')",
            digest,
            expires,
            expires,
        )
        return cursor.rowcount == 1

    def use_url(
        self,
        digest: str,
        expires: float,
        most: int,
        address: str,
        *,
        resumes: bool,
        counts: bool = True,
    ) -> bool:
        """Count a use of a signed URL; return False where there were `most` (0: no limit).

        With `resumes` it is not counted, and allowed, from the address of the first use. False as
        well where it may have been used. Without `counts` the same is returned, and none counted.
        """
        if (
            resumes
            and address
            and self._rows(
                "SELECT 1 FROM tokens WHERE digest = ? AND address = ?", digest, address
            )
        ):
            return True
        if not counts:
            return not self._rows(
                "SELECT 1 FROM tokens WHERE digest = ? AND uses >= ? UNION ALL"
                " SELECT 1 FROM forgotten WHERE kind = 'tokens' AND until >= ?",
                digest,
                most or _UNLIMITED,
                expires,
            )
        cursor = self._execute(
            "INSERT INTO tokens (digest, expires, address) SELECT ?, ?, ?"
            " WHERE ? > (SELECT until FROM forgotten WHERE kind = 'tokens')"
            " ON CONFLICT (digest) DO UPDATE SET uses = uses + 1 WHERE uses < ?",
            digest,
            expires,
            address,
            expires,
            most or _UNLIMITED,
        )
        return cursor.rowcount == 1

    def was_used(self, digest: str, expires: float) -> bool:
        """Return whether a transfer's token was used, or may have been."""
        found = self._execute(
            "SELECT 1 FROM tokens WHERE digest = ? UNION ALL"
            " SELECT 1 FROM forgotten WHERE kind = 'tokens' AND until >= ?",
            digest,
            expires,
        )
        return found.fetchone() is not None

    def deny(self, now: float, keys: Sequence[str]) -> None:
        """Add console tokens that the Panel has revoked, by their `jti` or their user's key.

        All or none are added.
        """
        # Without the transaction, each row would wait for the disk.
        with self._transaction():
            self._opened.executemany(
                "INSERT INTO denied (jti, at) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET at = max(at, excluded.at)",
                [(key, now) for key in keys],
            )

    def denied(self) -> dict[str, float]:
        """Return the time at which each `jti`, and each user's key, was revoked."""
        return dict(self._rows("SELECT jti, at FROM denied"))

    def denied_before(self) -> float:
        """Return the time up to which revocations have been deleted."""
        ((until,),) = self._rows("SELECT until FROM forgotten WHERE kind = 'denied'")
        return float(until)

    # Activity: rows are added at the end and deleted from the beginning, by one comparison with
    # an id, so that no statement grows with the number of rows

    def add_activity(self, entries: Sequence[ActivityEntry], most: int) -> int:
        """Add entries, and delete the oldest beyond the last `most`; return how many were deleted.

        All or nothing, in one transaction: any number of entries waits for the disk once.
        """
        with self._transaction():
            self._opened.executemany(
                "INSERT INTO activity (server, event, metadata, user, ip, at)"
                " VALUES (:server, :event, :metadata, :user, :ip, :at)",
                map(attrs.asdict, entries),
            )
            return self._opened.execute(
                "DELETE FROM activity WHERE id <= (SELECT max(id) FROM activity) - ?", (most,)
            ).rowcount

    def activity(self, after: int, most: int) -> list[ActivityEntry]:
        """Return the oldest `most` entries with an id above `after`, oldest first."""
        which = "WHERE id > ? ORDER BY id LIMIT ?"
        return self._records(ActivityEntry, "activity", which, after, most)

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

    # Ages and deletion

    def ages(self, now: float, names: Collection[str], kind: str = "") -> dict[str, float]:
        """Return for how many seconds each of `names` has been known, and delete all others.

        Those of each `kind` are counted by calls of their own. To be called daily: the time
        between two calls counts, a day at most.
        """
        prefix = f"{kind}:" if kind else ""
        names = {f"{prefix}{name}" for name in names}
        all_known = (name for (name,) in self._rows("SELECT name FROM kept"))
        known = {name for name in all_known if "".join(name.rpartition(":")[:2]) == prefix}
        with self._transaction():
            self._opened.executemany(
                "DELETE FROM kept WHERE name = ?", [(name,) for name in known.difference(names)]
            )
            self._opened.executemany(
                "INSERT INTO kept (name, seen, age) VALUES (?, ?, 0)",
                [(name, now) for name in names if name not in known],
            )
            self._opened.executemany(
                "UPDATE kept SET age = age + max(0, min(? - seen, ?)), seen = ? WHERE name = ?",
                [(now, _DAY, now, name) for name in names],
            )
        rows = self._rows("SELECT name, age FROM kept")
        return {name.removeprefix(prefix): age for name, age in rows if name in names}

    def prune(self, now: float) -> None:
        """Delete expired rows, but not those of `moved_directly`."""
        self._execute(
            f"DELETE FROM left_backups WHERE {_AT_HOME} OR (state = 'done'"  # noqa: S608
            " AND transfer IN (SELECT id FROM transfers WHERE changed < ?))",
            now - KEPT,
        )
        self._execute(
            f"DELETE FROM arriving_backups WHERE NOT ({_ARRIVING}) OR (state != 'coming'"  # noqa: S608
            " AND transfer IN (SELECT id FROM transfers WHERE changed < ?))",
            now - KEPT,
        )
        self._execute(
            "DELETE FROM transfers WHERE outcome IS NOT NULL AND changed < ?"  # noqa: S608 - constant
            f" AND id NOT IN (SELECT id FROM transfers {_MOVED_DIRECTLY})"
            " AND id NOT IN (SELECT transfer FROM left_backups)"
            " AND id NOT IN (SELECT transfer FROM arriving_backups)",
            now - KEPT,
        )
        self._execute("DELETE FROM reports WHERE settled < ?", now - KEPT)
        # Those to this node stay as long as their transfers: a source may still ask how it ended.
        self._execute("DELETE FROM moves WHERE transfer NOT IN (SELECT id FROM transfers)")
        # Those from this node have the keys by which backups follow their servers.
        self._execute(
            "DELETE FROM moves WHERE direction = 'out' AND transfer IN"
            " (SELECT id FROM transfers WHERE outcome = 'success') AND transfer NOT IN"
            " (SELECT transfer FROM left_backups)"
        )
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


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


class StateDatabase:
    """The state database in `store`. `worker` has one thread; `now` gives seconds since the epoch.

    Its methods are those of `Store`, with a Deferred as result. It fails with
    `StateDatabaseError` where the disk fails; what the call was to record must then not be done.
    """

    def __init__(self, store: Store, worker: Workers, now: Callable[[], float]) -> None:
        self.store = store
        self.worker = worker
        self.now = now

    def seconds_since(self, time: float) -> float:
        """Return the age of `time` in seconds; below 0 where the clock was set back."""
        return self.now() - time

    #: After all calls before it. SQLite crashes when another thread closes a database in use.
    close = InThread(Store.close)

    begin = Timed(Store.begin)
    enter = Timed(Store.enter)
    set_terms = InThread(Store.set_terms)
    end = Timed(Store.end)
    transfer = InThread(Store.transfer)
    unfinished = InThread(Store.unfinished)
    ended = InThread(Store.ended)
    last_number = InThread(Store.last_number)
    sent_since = InThread(Store.sent_since)
    last_move = InThread(Store.last_move)
    moved_directly = InThread(Store.moved_directly)

    add_description = InThread(Store.add_description)
    mark_arrived = Timed(Store.mark_arrived)
    has_arrived = InThread(Store.has_arrived)
    descriptions = InThread(Store.descriptions)
    clear_description = InThread(Store.clear_description)
    delete_description = InThread(Store.delete_description)
    delete_lost = InThread(Store.delete_lost)
    add_destination = InThread(Store.add_destination)
    destination = InThread(Store.destination)

    save_pair = InThread(Store.save_pair)
    delete_pair = InThread(Store.delete_pair)
    pairs = InThread(Store.pairs)
    want_seeds = InThread(Store.want_seeds)
    wanted_seeds = InThread(Store.wanted_seeds)
    drop_seed = InThread(Store.drop_seed)
    set_maintenance = Timed(Store.set_maintenance)
    maintenance = InThread(Store.maintenance)

    begin_installation = Timed(Store.begin_installation)
    run_installation = Timed(Store.run_installation)
    decide_installation = InThread(Store.decide_installation)
    delete_installation = InThread(Store.delete_installation)
    installations = InThread(Store.installations)
    end_installation = Timed(Store.end_installation)

    begin_restore = Timed(Store.begin_restore)
    start_after_restore = InThread(Store.start_after_restore)
    commit_restore = InThread(Store.commit_restore)
    end_restore = Timed(Store.end_restore)
    begin_rewind = Timed(Store.begin_rewind)
    start_after_rewind = InThread(Store.start_after_rewind)
    set_undo = InThread(Store.set_undo)
    rewinds = InThread(Store.rewinds)
    end_rewind = Timed(Store.end_rewind)
    forget_rewind = InThread(Store.forget_rewind)
    due_starts = InThread(Store.due_starts)
    end_start = InThread(Store.end_start)

    add_move = InThread(Store.add_move)
    admit_move = Timed(Store.admit_move)
    drop_move = InThread(Store.drop_move)
    set_move = InThread(Store.set_move)
    set_move_state = InThread(Store.set_move_state)
    change_move_state = InThread(Store.change_move_state)
    set_start = InThread(Store.set_start)
    starts = InThread(Store.starts)
    arrived_to_start = InThread(Store.arrived_to_start)
    move = InThread(Store.move)
    find_move = InThread(Store.find_move)
    find_admitted = InThread(Store.find_admitted)

    begin_backup = Timed(Store.begin_backup)
    backups = InThread(Store.backups)
    add_backup_report = Timed(Store.add_backup_report)
    left = InThread(Store.left)
    age_left = Timed(Store.age_left)
    announced = InThread(Store.announced)
    set_missed = InThread(Store.set_missed)
    set_left_state = InThread(Store.set_left_state)
    begin_removal = InThread(Store.begin_removal)
    is_being_removed = InThread(Store.is_being_removed)
    forget_left = InThread(Store.forget_left)
    histories_left = InThread(Store.histories_left)
    histories_back = InThread(Store.histories_back)
    add_arriving = InThread(Store.add_arriving)
    arriving = InThread(Store.arriving)
    coming = InThread(Store.coming)
    coming_histories = InThread(Store.coming_histories)
    end_coming = InThread(Store.end_coming)
    note_deleted = InThread(Store.note_deleted)
    order_arriving = InThread(Store.order_arriving)
    forget_arriving = InThread(Store.forget_arriving)
    set_floor = InThread(Store.set_floor)

    add_report = Timed(Store.add_report)
    is_failure_reported = InThread(Store.is_failure_reported)
    record_attempt = InThread(Store.record_attempt)
    close_report = Timed(Store.close_report)
    unsettled = InThread(Store.unsettled)

    use_token = InThread(Store.use_token)
    use_url = InThread(Store.use_url)
    was_used = InThread(Store.was_used)
    deny = Timed(Store.deny)
    denied = InThread(Store.denied)

    add_activity = InThread(Store.add_activity)
    activity = InThread(Store.activity)
    delete_activity = InThread(Store.delete_activity)
    trim_activity = InThread(Store.trim_activity)

    ages = Timed(Store.ages)
    prune = Timed(Store.prune)
