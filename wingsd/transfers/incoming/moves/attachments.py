"""The attachments of a move, backups and the installation log, which arrive in pieces.

A piece is appended to a file beside the staged ones, which gets its name when the whole has the
SHA-256 that was sent. Blocking, for one thread at a time each.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs

from wingsd.archive.quota import require_free_space
from wingsd.backups.local import Backup, backup_at
from wingsd.backups.received import ReceivedBackups, write_all
from wingsd.errors import AttachmentMissing, AttachmentOffsetWrong, MoveRequestInvalid
from wingsd.transfers.incoming.moves.partial_copy import room_errors
from wingsd.transfers.storage.incoming import LOG_LIMIT, InstallLogs
from wingsd.util.durable import storage_errors
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

#: The name of the installation log.
LOG = "install.log"
#: Attachments of one move.
_MOST = 4096
#: The files of attachments.
_Store = ReceivedBackups | InstallLogs


@attrs.frozen(eq=False, repr=False)
class MovedBackup:
    """A local backup that comes with the server; `path` is its path among the backups."""

    uuid: Annotated[str, Keywords(format="uuid")]
    path: str
    bytes: Annotated[int, Keywords(minimum=0)]


def check_announced(announced: Sequence[MovedBackup], log: int | None) -> None:
    """Raise `MoveRequestInvalid` for attachments that this node cannot take."""
    if len(announced) > _MOST:
        raise MoveRequestInvalid(f"it announces more than {_MOST} backups")
    known = set()
    for each in announced:
        uuid = _backup(each).uuid
        if uuid in known:
            raise MoveRequestInvalid(f"the backup {uuid} is announced twice")
        known.add(uuid)
    if log is not None and not 0 <= log <= LOG_LIMIT:
        raise MoveRequestInvalid(f"the log has {log} bytes, and at most {LOG_LIMIT} are taken")


class _Attachment:
    """One attachment, of `size` bytes, which grows in a file until it is whole.

    The files are those that `store` has for `key`, a server's UUID, and for one of its backups.
    """

    def __init__(self, name: str, size: int, store: _Store, *key: Any) -> None:
        self.name = name
        self.size = size
        self.store = store
        self.key = key
        #: How many bytes of it have arrived here; other threads only look at it.
        self.arrived = 0
        #: The SHA-256 of the whole, empty before; and the hash of so many bytes, where all of
        #: these have arrived in order here.
        self._sha256 = ""
        self._hash: tuple[int, hashlib._Hash] | None = None

    def part(self) -> Path:
        """Return the file in which it grows."""
        return self.store.part(*self.key)

    def whole(self) -> Path | None:
        """Return the file that is whole, None before."""
        return self.store.whole(*self.key)

    @property
    def offset(self) -> int:
        """The number of bytes that are here."""
        if self.whole() is not None:
            return self.size
        try:
            return self.part().stat().st_size
        except FileNotFoundError:
            return 0

    def write(self, at: int, blocks: Iterator[bytes], reserve: int) -> int:
        """Append a piece that begins `at` the end; return how many bytes are here."""
        known = self._hash if at else (0, hashlib.sha256())
        hasher = known[1] if known is not None and known[0] == at else None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        path = self.part()
        with storage_errors(f"{path} cannot be written"):
            fd = os.open(path, flags, 0o600)
        try:
            for block in blocks:
                if at + len(block) > self.size:
                    raise MoveRequestInvalid(
                        f"{self.name} was announced with {self.size} bytes, and has more"
                    )
                if reserve:
                    _require_space(os.fstatvfs(fd), reserve, self.name, len(block))
                with storage_errors(f"{path} cannot be written"):
                    write_all(fd, block)
                at += len(block)
                self.arrived += len(block)
                if hasher is not None:
                    hasher.update(block)
                    self._hash = (at, hasher)
        finally:
            os.close(fd)
        return at

    def finish(self, here: int, sha256: str) -> None:
        """Stage what is here, if it has that SHA-256, and delete it otherwise."""
        if here != self.size:
            raise MoveRequestInvalid(
                f"{self.name} was announced with {self.size} bytes, and ends at {here}"
            )
        part, whole = self.part(), self.whole()
        if (self._sha256 or self._read(whole or part)) != sha256:
            self.store.drop(*self.key)
            self._sha256 = ""
            raise AttachmentOffsetWrong(0, f"{self.name} does not fit its SHA-256; send it again")
        if whole is None:
            with storage_errors(f"{part} cannot be written"), open(part, "rb") as file:
                os.fsync(file.fileno())
            self.store.complete(*self.key, sha256=sha256)
        self._sha256 = sha256

    def _read(self, path: Path) -> str:
        """Return the SHA-256 of all that has arrived."""
        known, self._hash = self._hash, None
        with storage_errors(f"{path} cannot be read"):
            if known is not None and known[0] == path.stat().st_size:
                return known[1].hexdigest()
            with open(path, "rb", buffering=0) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()


@attrs.define(eq=False, repr=False, slots=False)
class Attachments:
    """The attachments of the move of `server`, as they were announced.

    Every method raises `StorageError`, `MoveNoSpace`, and `AttachmentMissing` for another name.
    """

    _server: str
    _announced: Sequence[MovedBackup]
    _log: int | None
    _received: ReceivedBackups
    _logs: InstallLogs
    _reserve: int

    def __attrs_post_init__(self) -> None:
        """Raise `MoveRequestInvalid`; see `check_announced`."""
        check_announced(self._announced, self._log)
        server, received = self._server, self._received
        backups = [_backup(each) for each in self._announced]
        every = [
            _Attachment(backup.uuid, each.bytes, received, server, backup)
            for backup, each in zip(backups, self._announced, strict=True)
        ]
        if self._log is not None:
            every.append(_Attachment(LOG, self._log, self._logs, server))
        self._attachments = {each.name: each for each in every}
        #: The bytes of all.
        self.size = sum(each.size for each in every)

    @property
    def arrived(self) -> int:
        """The number of bytes that have arrived here."""
        return sum(each.arrived for each in self._attachments.values())

    def here(self) -> int:
        """Return how many bytes of all are here."""
        return sum(each.offset for each in self._attachments.values())

    @property
    def backups(self) -> int:
        """The number of backups."""
        return len(self._announced)

    def drop_others(self) -> None:
        """Delete what an earlier move of the server has left and this one does not bring.

        All that is staged is put into place with the server.
        """
        self._received.retain(self._server, [*map(_backup, self._announced)])
        self._logs.retain(self._server, self._log)

    def offset(self, name: str) -> int:
        """Return how many bytes of an attachment are here."""
        return self._attachment(name).offset

    def missing(self) -> list[str]:
        """Return the names of those that are not whole."""
        return [name for name, each in self._attachments.items() if each.whole() is None]

    def require_room(self) -> None:
        """Raise `MoveNoSpace` where what is still to come does not fit on the disk."""
        rest = self.size - self.here()
        if self._reserve and rest > 0:
            directory = next(iter(self._attachments.values())).part().parent
            with storage_errors(directory):
                found = os.statvfs(directory)
            _require_space(found, self._reserve, "the server's backups", rest)

    def append(self, name: str, offset: int, sha256: str, blocks: Iterator[bytes]) -> int:
        """Append a piece that begins at `offset`; return how many bytes are here.

        With `sha256` it is the last one, and the whole is compared. What has arrived of a piece
        that breaks off stays. Raises `AttachmentOffsetWrong`, and what `blocks` raises.
        """
        attachment = self._attachment(name)
        here = attachment.offset
        if offset != here:
            raise AttachmentOffsetWrong(here)
        if attachment.whole() is None:
            here = attachment.write(here, blocks, self._reserve)
        else:
            for _ in blocks:
                raise MoveRequestInvalid(f"{name} is complete, and the piece has more of it")
        if sha256:
            attachment.finish(here, sha256)
        return here

    def _attachment(self, name: str) -> _Attachment:
        try:
            return self._attachments[name]
        except KeyError:
            raise AttachmentMissing from None


def _require_space(found: os.statvfs_result, reserve: int, name: str, size: int) -> None:
    with room_errors():
        require_free_space(found, reserve, name, size)


def _backup(announced: MovedBackup) -> Backup:
    """Return the backup that is announced. Raises `MoveRequestInvalid`."""
    backup = backup_at(announced.path)
    if backup is None or canonical_uuid(announced.uuid) != backup.uuid or announced.bytes < 0:
        raise MoveRequestInvalid(
            f"the backup {announced.uuid[:80]!r} is not one that this node can store"
        )
    return backup
