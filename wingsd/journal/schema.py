"""The journal's tables, one script for each version of them: what was released is never changed.

A clock that is set forward makes everything old at once, and may be set back again. So it stays
known up to which time tokens were forgotten: those from before are good for nothing. And what is
kept for some days has its days counted, by looking at it daily.
"""

__all__ = ["SCHEMAS"]

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
