"""The records of the state database, and the tables that they are kept in.

A clock that is set forward makes everything old at once, and may be set back again. So it stays
known up to which time tokens were forgotten: those from before are good for nothing. And what is
kept for some days has its days counted, by looking at it daily.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import attrs

__all__ = ["SCHEMAS", "Account", "Described", "Direction", "Entry", "Order", "Outcome", "Report"]


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(names.split() if isinstance(names, str) else names)


class Direction(Enum):
    """Which of a transfer's two nodes this one is."""

    IN = "in"
    OUT = "out"


class Outcome(Enum):
    """How a transfer ended, or is reported to have ended."""

    SUCCESS = "success"
    FAILURE = "failure"


@attrs.frozen
class Entry:
    """A transfer: the step it was last known to enter, and its outcome, None while it has none."""

    id: int
    server: str
    direction: Direction = attrs.field(converter=Direction)
    step: str
    begun: float
    changed: float
    outcome: Outcome | None = attrs.field(
        default=None, converter=attrs.converters.optional(Outcome)
    )
    #: Whether people moved it, and no Panel was asked.
    by_hand: bool = attrs.field(default=False, converter=bool)
    #: Why it failed; the archive's bytes and files, None where it did not come so far.
    reason: str = ""
    bytes: int | None = None
    files: int | None = None
    #: The storage pool by which the other node may have the server's files: they are left alone.
    pool: str = ""
    #: Local backups to be removed here once the server has moved: paths where they are kept.
    removals: tuple[str, ...] = attrs.field(default=(), converter=_listed)
    #: That of the directory with the server's files; None where it is not known, or of a pool.
    inode: int | None = attrs.field(default=None, converter=attrs.converters.optional(int))


@attrs.frozen
class Account:
    """What is told of a transfer that has ended; see `Entry`."""

    reason: str = ""
    bytes: int | None = None
    files: int | None = None


@attrs.frozen
class Report:
    """What the Panel is to hear of a transfer, since `created`; `answer` is its last word so far.

    `settled` is None as long as it goes on being told.
    """

    id: int
    server: str
    outcome: Outcome = attrs.field(converter=Outcome)
    created: float
    attempts: int = 0
    answer: str = ""
    settled: float | None = None
    #: The UUIDs of the backups that came with the server; None where the Panel is told of none.
    backups: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_listed)
    )
    #: When its transfer began at this node; None where the journal has no such transfer.
    begun: float | None = None


@attrs.frozen
class Described:
    """A server that is moved here by hand: its `description`, JSON as a Panel would send it.

    That is empty when the Panel describes it now. `digest` is that of the token it comes by, and
    `arrived` is when it did, None before.
    """

    server: str
    digest: str
    description: str
    arrived: float | None = None


@attrs.frozen
class Order:
    """Where a server is to be moved by hand, and whether it is then to be removed here.

    `url` is where the other node takes uploads, `token` the whole `Authorization` for there.
    """

    url: str
    token: str = attrs.field(repr=False)
    remove: bool = attrs.field(default=False, converter=bool)


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
    # UUIDs with a space between two; NULL where the Panel is told of no backups.
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
)
