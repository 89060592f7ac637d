"""A storage pool: a volume that several nodes have, between which a server's files need not move.

A source names its pool in the header `X-Storage-Pool`, which is Pelican's; for a destination of
the same name the files are there already. A Pelican source sends all of them nevertheless, since
only the Panel's word tells it that they were not wanted.

Two nodes of wingsd do better. The source puts a mark on its volume and asks, before anything is
begun, whether the destination sees it: names can be the same by mistake, a mark cannot. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from wingsd.errors import Conflict

__all__ = [
    "BACKUPS_MARK",
    "MARK",
    "POOL",
    "POOLED",
    "SEEN",
    "SHARED_BACKUPS",
    "Sharing",
    "is_same_pool",
    "pool_headers",
    "sharing_of",
]

POOL = "X-Storage-Pool"
#: The mark that the source has made (wingsd's own). With an upload it tells that there is no
#: archive in it.
MARK = "X-Storage-Pool-Mark"
#: The same in the source's `system.backup_directory`, where backups are to go once they moved.
BACKUPS_MARK = "X-Backup-Directory-Mark"
#: What a destination answers that sees it: what is removed there is removed here.
SHARED_BACKUPS = "shared-backups"
#: What a destination answers about its features: that it has the pool, and sees the mark in it;
#: and that it sees the mark, whatever it calls its own pool.
POOLED = "storage-pool"
SEEN = "shared-volume"


class Sharing(Enum):
    """What is known, before a server is sent, of the files at the destination."""

    #: It gets a copy of its own.
    COPIED = "copied"
    #: It has them: there is nothing to copy, and nothing may be deleted.
    POOLED = "pooled"
    #: It is told of the pool and sent a copy, and takes which of them it will.
    UNSURE = "unsure"


def is_same_pool(ours: str, theirs: str) -> bool:
    """Return whether both are the name of one pool; who has none has an empty name."""
    return ours != "" and ours.casefold() == theirs.casefold()


def pool_headers(pool: str, mark: str = "") -> list[tuple[str, str]]:
    """Return the headers that tell of them."""
    return [(name, value) for name, value in ((POOL, pool), (MARK, mark)) if value]


def sharing_of(features: Collection[str], pool: str) -> Sharing:
    """Return what `features`, the answer to a question with a mark, says about the files.

    Raises `Conflict` for a destination that sees them and does not know it: it would take them for
    something else that is in the way, and this node then delete what it has made of them.
    """
    if POOLED in features:
        return Sharing.POOLED
    if SEEN in features:
        raise Conflict(
            "both nodes have the same volume, but not the same storage pool",
            f"on the destination, set system.transfers.storage_pool.pool_name to {pool!r} and "
            "enabled to true, as here",
        )
    # Whoever has features is a wingsd, and would have said so.
    return Sharing.COPIED if features else Sharing.UNSURE
