"""The attachments of a move, backups and the installation log, which arrive in pieces.

A piece is appended to a file beside the staged ones, which gets its name when the whole has the
SHA-256 that was sent. Blocking, for one thread at a time each.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import attrs

from wingsd.archive.quota import require_free_space
from wingsd.backups.local import Backup, backup_at
from wingsd.backups.received import ReceivedBackups
from wingsd.transfers.incoming.moves.errors import (
    AttachmentMissing,
    AttachmentOffsetWrong,
    MoveRequestInvalid,
    room_errors,
)
from wingsd.transfers.storage.incoming import LOG_LIMIT
from wingsd.util.durable import storage_errors
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

__all__ = ["LOG", "Attachments", "MovedBackup", "check_announced"]

#: The name of the installation log.
LOG = "install.log"
#: Attachments of one move.
_MOST = 4096
_PIECE = 1 << 20


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


class _Place(Protocol):
    """Where one attachment is staged."""

    def part(self) -> Path: ...
    def whole(self) -> Path | None: ...
    def complete(self, sha256: str) -> None: ...
    def drop(self) -> None: ...


@attrs.frozen(eq=False, repr=False)
class _BackupPlace:
    server: str
    backup: Backup
    backups: ReceivedBackups

    def part(self) -> Path:
        return self.backups.part(self.server, self.backup)

    def whole(self) -> Path | None:
        return self.backups.whole(self.server, self.backup)

    def complete(self, sha256: str) -> None:
        self.backups.complete(self.server, self.backup, sha256)

    def drop(self) -> None:
        self.backups.drop(self.server, self.backup)


@attrs.frozen(eq=False, repr=False)
class _LogPlace:
    growing: Path
    staged: Path

    def part(self) -> Path:
        return self.growing

    def whole(self) -> Path | None:
        return self.staged if self.staged.exists() else None

    def complete(self, sha256: str) -> None:
        with storage_errors(f"{self.staged} cannot be written"):
            self.growing.rename(self.staged)

    def drop(self) -> None:
        with storage_errors(f"{self.staged} cannot be removed"):
            for path in (self.growing, self.staged):
                path.unlink(missing_ok=True)


class Attachments:
    """The attachments of the move of `server`, as they were announced.

    Every method raises `StorageError`, `MoveNoSpace`, and `AttachmentMissing` for another name.
    """

    def __init__(
        self,
        server: str,
        announced: Sequence[MovedBackup],
        log: int | None,
        backups: ReceivedBackups,
        log_paths: tuple[Path, Path],
        reserve: int,
    ) -> None:
        """`log_paths` are where the log grows and where it is staged.

        Raises `MoveRequestInvalid`; see `check_announced`.
        """
        check_announced(announced, log)
        self._server, self._backups, self._log_paths = server, backups, log_paths
        self._announced = tuple(map(_backup, announced))
        self._reserve = reserve
        self._sizes: dict[str, int] = {}
        self._places: dict[str, _Place] = {}
        for each, backup in zip(announced, self._announced, strict=True):
            self._sizes[backup.uuid] = each.bytes
            self._places[backup.uuid] = _BackupPlace(server, backup, backups)
        if log is not None:
            self._sizes[LOG] = log
            self._places[LOG] = _LogPlace(*log_paths)
        #: How many bytes of each have arrived here, which other threads only look at.
        self._arrived = dict.fromkeys(self._places, 0)
        #: The SHA-256 of those that are whole.
        self._whole: dict[str, str] = {}
        #: The hash of what has arrived so far of each, where all of it has arrived in order here.
        self._hashes: dict[str, tuple[int, hashlib._Hash]] = {}

    @property
    def size(self) -> int:
        """The bytes of all."""
        return sum(self._sizes.values())

    @property
    def arrived(self) -> int:
        """How many bytes have arrived here."""
        return sum(self._arrived.values())

    @property
    def names(self) -> list[str]:
        """Their names."""
        return list(self._places)

    @property
    def backups(self) -> int:
        """How many backups there are."""
        return len(self._announced)

    def drop_others(self) -> None:
        """Delete what an earlier move of the server has left and this one does not bring.

        All that is staged is put into place with the server.
        """
        self._backups.retain(self._server, self._announced)
        most = self._sizes.get(LOG, -1)
        for path in self._log_paths:
            with storage_errors(f"{path} cannot be removed"):
                if path.exists() and path.stat().st_size > most:
                    path.unlink()

    def offset(self, name: str) -> int:
        """Return how many bytes of an attachment are here."""
        place = self._place(name)
        if place.whole() is not None:
            return self._sizes[name]
        try:
            return place.part().stat().st_size
        except FileNotFoundError:
            return 0

    def missing(self) -> list[str]:
        """Return the names of those that are not whole."""
        return [name for name, place in self._places.items() if place.whole() is None]

    @property
    def to_come(self) -> int:
        """The bytes of all that are not here yet."""
        return sum(self._sizes[name] - self.offset(name) for name in self._places)

    def require_room(self) -> None:
        """Raise `MoveNoSpace` where what is still to come does not fit on the disk."""
        rest = self.to_come
        if self._reserve and rest > 0:
            directory = next(iter(self._places.values())).part().parent
            with storage_errors(directory):
                found = os.statvfs(directory)
            _require_space(found, self._reserve, "the server's backups", rest)

    def append(self, name: str, offset: int, sha256: str, blocks: Iterator[bytes]) -> int:
        """Append a piece that begins at `offset`; return how many bytes are here.

        With `sha256` it is the last one, and the whole is compared. What has arrived of a piece
        that breaks off stays. Raises `AttachmentOffsetWrong`, and what `blocks` raises.
        """
        place = self._place(name)
        here = self.offset(name)
        if offset != here:
            raise AttachmentOffsetWrong(here)
        if place.whole() is None:
            here = self._write(name, place.part(), here, blocks)
        else:
            for _ in blocks:
                raise MoveRequestInvalid(f"{name} is complete, and the piece has more of it")
        if sha256:
            self._complete(name, place, here, sha256)
        return here

    def _write(self, name: str, path: Path, at: int, blocks: Iterator[bytes]) -> int:
        hasher = self._hasher(name, at)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with storage_errors(f"{path} cannot be written"):
            fd = os.open(path, flags, 0o600)
        try:
            for block in blocks:
                if at + len(block) > self._sizes[name]:
                    raise MoveRequestInvalid(
                        f"{name} was announced with {self._sizes[name]} bytes, and has more"
                    )
                if self._reserve:
                    _require_space(os.fstatvfs(fd), self._reserve, name, len(block))
                with storage_errors(f"{path} cannot be written"):
                    _write_all(fd, block)
                at += len(block)
                self._arrived[name] += len(block)
                if hasher is not None:
                    hasher.update(block)
                    self._hashes[name] = (at, hasher)
        finally:
            os.close(fd)
        return at

    def _complete(self, name: str, place: _Place, here: int, sha256: str) -> None:
        if here != self._sizes[name]:
            raise MoveRequestInvalid(
                f"{name} was announced with {self._sizes[name]} bytes, and ends at {here}"
            )
        whole = place.whole()
        found = self._whole.get(name) or self._read(name, whole or place.part())
        if found != sha256:
            place.drop()
            self._whole.pop(name, None)
            raise AttachmentOffsetWrong(0, f"{name} does not fit its SHA-256; send it again")
        if whole is None:
            with storage_errors(f"{place.part()} cannot be written"):
                _flush(place.part())
            place.complete(sha256)
        self._whole[name] = sha256

    def _read(self, name: str, path: Path) -> str:
        """Return the SHA-256 of all that has arrived."""
        known = self._hashes.pop(name, None)
        with storage_errors(f"{path} cannot be read"):
            size = path.stat().st_size
            if known is not None and known[0] == size:
                return known[1].hexdigest()
            return _sha256(path)

    def _hasher(self, name: str, at: int) -> hashlib._Hash | None:
        if not at:
            return hashlib.sha256()
        known = self._hashes.get(name)
        return known[1] if known is not None and known[0] == at else None

    def _place(self, name: str) -> _Place:
        try:
            return self._places[name]
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


def _write_all(fd: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
