"""The records of the state database, and the tables that they are kept in.

A clock that is set forward makes all rows expire at once, and may be set back again. The table
`forgotten` therefore keeps the time up to which tokens were deleted: older ones are refused. And
the ages in `kept` are counted daily.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import attrs

__all__ = [
    "SCHEMAS",
    "ActivityEntry",
    "BackupRecord",
    "DirectDestination",
    "Direction",
    "DroppedBackup",
    "InstallationRecord",
    "MoveRecord",
    "Outcome",
    "Report",
    "ReportKind",
    "RestoreRecord",
    "ServerDescription",
    "TransferRecord",
    "TransferResult",
    "restore_report",
]


def _split(names: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(names.split() if isinstance(names, str) else names)


class Direction(Enum):
    """The direction of a transfer: to this node or from it."""

    IN = "in"
    OUT = "out"


class Outcome(Enum):
    """The outcome of a transfer or an installation."""

    SUCCESS = "success"
    FAILURE = "failure"


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
    outcome: Outcome | None = attrs.field(
        default=None, converter=attrs.converters.optional(Outcome)
    )
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
    inode: int | None = attrs.field(default=None, converter=attrs.converters.optional(int))


@attrs.frozen(eq=False, repr=False)
class TransferResult:
    """Details of an ended transfer; see `TransferRecord`."""

    reason: str = ""
    bytes: int | None = None
    files: int | None = None


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
    outcome: Outcome | None = attrs.field(
        default=None, converter=attrs.converters.optional(Outcome)
    )
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
    inode: int | None = attrs.field(default=None, converter=attrs.converters.optional(int))


@attrs.frozen(repr=False)
class BackupRecord:
    """A backup that is being made since `begun`; `place` is its path in the backup directory."""

    backup: str
    server: str
    adapter: str
    place: str
    begun: float


@attrs.frozen(repr=False)
class DroppedBackup:
    """A local backup that the Panel dropped when its server moved away from this node.

    `place` is its path in the backup directory, `since` when the transfer ended. `age` are the
    seconds that daily looks have counted since, `missed` the age at which the Panel was without it
    first; None where it has not been asked, or had it the last time.
    """

    place: str
    server: str
    since: float
    age: float
    missed: float | None


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
    backups: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_split)
    )
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
    # What a server is that is sent without a Panel, for the next daemon.
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
    that never changes, such as what the move was begun with; `state` is one that does.
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
