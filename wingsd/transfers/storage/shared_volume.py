"""Volumes that several nodes share, between which a server's files need not be copied.

A source names its pool in the header `X-Storage-Pool`, which is Pelican's. A destination in a pool
of the same name has the files already. A Pelican source sends all of them nevertheless, since only
the Panel tells it later that they were not needed.

Between two nodes of wingsd, the source leaves a mark on its volume and asks first whether the
destination sees it: names can be the same by accident, a mark cannot. A server's own files are
never changed here.

Blocking: run it in a thread. The functions are pure.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection
from contextlib import suppress
from enum import Enum
from pathlib import Path

import attrs

from wingsd.errors import StorageError, StoragePoolConflict
from wingsd.util.durable import storage_errors
from wingsd.util.text import disk_advice

POOL = "X-Storage-Pool"
#: The mark that the source has made (wingsd's own). An upload with it has no archive.
MARK = "X-Storage-Pool-Mark"
#: The same in the source's `system.backup_directory`, where backups are to go once they moved.
BACKUPS_MARK = "X-Backup-Directory-Mark"
#: The feature of a destination that sees it: a backup removed there is removed here.
SHARED_BACKUPS = "shared-backups"
#: The features of a destination that sees the mark in the same pool, and in any pool.
POOLED = "storage-pool"
SEEN = "shared-volume"


class Sharing(Enum):
    """The relation of the files of both nodes, as it is known before a server is sent."""

    #: It gets a copy of its own.
    COPIED = "copied"
    #: It has them: there is nothing to copy, and nothing may be deleted.
    POOLED = "pooled"
    #: The pool is announced to it, a copy is sent, and uses one of the two.
    UNSURE = "unsure"


def is_same_pool(ours: str, theirs: str) -> bool:
    """Return whether both are the name of one pool; empty means no pool."""
    return ours != "" and ours.casefold() == theirs.casefold()


def pool_headers(pool: str, mark: str = "") -> list[tuple[str, str]]:
    """Return the headers with the pool and the mark."""
    return [(name, value) for name, value in ((POOL, pool), (MARK, mark)) if value]


def sharing_of(features: Collection[str], pool: str) -> Sharing:
    """Return what `features`, the answer to a question with a mark, says about the files.

    Raises `Conflict` for a destination that sees them and does not know it: it would take them for
    something else that is in the way, and this node then delete what it has made of them.
    """
    if POOLED in features:
        return Sharing.POOLED
    if SEEN in features:
        raise StoragePoolConflict(
            "both nodes have the same volume, but not the same storage pool",
            f"on the destination, set system.transfers.storage_pool.pool_name to {pool!r} and "
            "enabled to true, as here",
        )
    # A destination with features is a wingsd, and would have named these.
    return Sharing.COPIED if features else Sharing.UNSURE


_MARK = re.compile(r"[0-9a-f]{32}")
_NOT_SOUND = "the server's files in the storage pool cannot be used"
#: Mode bits that a server's user needs on its directory.
_ALL = stat.S_IRWXU


@attrs.frozen(eq=False, repr=False)
class Marks:
    """The marks in a directory: by a mark another node sees that it shares `what`.

    They are files whose names begin with `prefix`, and have the UUID of a server or a backup, and
    the mark.
    """

    _directory: Path
    _prefix: str
    _what: str

    def leave(self, server: str) -> str:
        """Leave a mark for the destination of the server's transfer. Raises `StorageError`."""
        self.remove(server)
        mark = secrets.token_hex(16)
        self.put(server, mark)
        return mark

    def put(self, name: str, mark: str) -> None:
        """Leave that mark for a question about `name`, a server or a backup."""
        path = self._path(name, mark)
        with storage_errors(
            f"{path}, by which another node sees that it has the same {self._what}, cannot be made"
        ):
            path.touch(mode=0o600)

    def remove(self, server: str, mark: str = "*") -> None:
        """Remove a mark, or all of the server's, as far as possible: they do no harm."""
        pattern = self._path(server, mark)
        with suppress(OSError):
            for path in pattern.parent.glob(pattern.name):
                path.unlink()

    def has(self, server: str, mark: str) -> bool:
        """Return whether a mark is there."""
        # Of what a sender writes, only a valid mark becomes part of a path.
        return _MARK.fullmatch(mark) is not None and self._path(server, mark).is_file()

    def _path(self, server: str, mark: str) -> Path:
        return self._directory / f"{self._prefix}-{server}-{mark}"


class Volume:
    """`data` is `system.data`, `owner` the user and group id of every server's files.

    `pool` is the name of the storage pool that it is, empty without one. `backups` is
    `system.backup_directory`, which nodes may share whatever they have of the other.
    """

    def __init__(self, data: str, owner: tuple[int, int], pool: str, backups: str = "") -> None:
        self.pool = pool
        self._data = Path(data)
        self.marks = Marks(self._data, ".pool-mark", "storage pool")
        backup_directory = Path(backups or data)
        self.backup_marks = Marks(backup_directory, ".backups-mark", "directory of backups")
        self._user = owner[0]

    # At the source

    def inode(self, server: str) -> int | None:
        """Return that of the server's directory, None where it cannot be found."""
        try:
            status = (self._data / server).lstat()
        except OSError:
            return None
        return status.st_ino if stat.S_ISDIR(status.st_mode) else None

    # At the destination

    def features(self, server: str, pool: str, mark: str, backups_mark: str = "") -> list[str]:
        """Return what the sender of the server is answered about its pool and its marks."""
        found = []
        if self.marks.has(server, mark):
            found += [SEEN, POOLED] if is_same_pool(self.pool, pool) else [SEEN]
        if self.backup_marks.has(server, backups_mark):
            found.append(SHARED_BACKUPS)
        return found

    def check(self, server: str, mark: str) -> None:
        """Return if the server's directory is there and sound.

        Without the proof of a `mark` it must not be empty. Raises `StorageError`.
        """
        path = self._data / server
        if mark and not self.marks.has(server, mark):
            raise _not_sound(
                f"{self._data} is not the volume that the other node has, though both call it "
                f"{self.pool!r}; mount the same, or give them pools of different names"
            )
        try:
            status = path.lstat()
            fault = self._fault(path, status) or ("" if mark else _emptiness(path))
        except FileNotFoundError:
            fault = "is not there; check that the volume that both nodes share is mounted"
        except OSError as error:
            fault = f"cannot be inspected: {disk_advice(error)}"
        if fault:
            raise _not_sound(f"{path} {fault}")

    def require_free(self, server: str) -> None:
        """Return if there is nothing in the server's place.

        What is there may be the sender's own, of which a copy would then take the place. Raises
        `Conflict`.
        """
        path = self._data / server
        if os.path.lexists(path):
            raise StoragePoolConflict(
                "the server's directory is already in the storage pool",
                f"{path} may be what the other node sends: if both have the same volume, set "
                "system.transfers.storage_pool on both to the same pool_name; if it is only left "
                "over, move it away",
            )

    def size(self) -> int:
        """Return how many bytes the volume has, so that no archive of what is on it has more."""
        try:
            return shutil.disk_usage(self._data).total
        except OSError as error:
            raise _not_sound(f"{self._data} cannot be inspected: {disk_advice(error)}") from error

    def _fault(self, path: Path, status: os.stat_result) -> str:
        if not stat.S_ISDIR(status.st_mode):
            return "is not a directory; put the server's directory in its place"
        if status.st_uid != self._user:
            return (
                f"belongs to the user id {status.st_uid}, and the servers of this node to "
                f"{self._user}; set system.user to the same on all nodes of the pool"
            )
        if status.st_mode & _ALL != _ALL:
            return f"has the mode {stat.S_IMODE(status.st_mode):o}; its user needs all of rwx"
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            return "cannot be read and written by this node; see the user it runs as"
        return ""


def _emptiness(path: Path) -> str:
    with os.scandir(path) as entries:
        if next(entries, None) is None:
            return "is empty; check that the volume that both nodes share is mounted"
    return ""


def _not_sound(detail: str) -> StorageError:
    return StorageError(detail, _NOT_SOUND)
