"""Local backups: found to be sent with their server, and removed when they have moved with it.

They are found where each family keeps them. Which are to be removed is in the state database
before the server is sent, and the transfer is not over there before they are removed. So a daemon
that dies in between removes them at its next start.

Blocking: run it in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
from twisted.logger import Logger

from wingsd.backups.attachments import SUFFIXES, Backup, backup_at
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import StorageError
from wingsd.threadio import Workers
from wingsd.util.durable import sync_directory
from wingsd.util.text import disk_advice

__all__ = ["LocalBackup", "Removal", "find_backups", "remove_backup"]

_PIECE = 240 << 10
_NOT_READ = "a backup that is to be sent with the server could not be read"


@attrs.frozen
class LocalBackup:
    """A file of `size` bytes, and the backup that it is sent as.

    `place` is its path in the directory of all backups.
    """

    backup: Backup
    path: str
    size: int
    place: str

    def blocks(self) -> Generator[bytes, None, None]:
        """Yield its bytes. Raises `StorageError`, also where the size has changed."""
        left = self.size
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}", _NOT_READ) from error
        if left:
            raise StorageError(f"{self.path} was changed while it was sent", _NOT_READ)


def find_backups(
    directory: str, server: str, uuids: Iterable[str], family: str
) -> tuple[LocalBackup, ...]:
    """Find the backups `uuids` of a server below `directory`, in the form for nodes of `family`.

    Raises `StorageError` that names all that are not there, or that such a node cannot keep.
    """
    found, missing = [], []
    for uuid in uuids:
        backup = _find(directory, server, uuid, family)
        found.append(backup) if backup is not None else missing.append(uuid)
    if missing:
        raise StorageError(
            f"{directory} does not have {', '.join(missing)}; delete it in the Panel, or leave "
            f"it out of the transfer",
            "a backup that is to be sent with the server is not on this node",
        )
    for each in found:
        if family == PELICAN and each.backup.suffix != "tar.gz":
            raise StorageError(
                f"{each.path}: the nodes of Pelican keep only backups that are a tar.gz",
                "a backup cannot be sent to the destination's node",
            )
    return tuple(found)


def _find(directory: str, server: str, uuid: str, family: str) -> LocalBackup | None:
    for place in (PELICAN, CALAGOPUS):
        for suffix in SUFFIXES:
            name = Backup(uuid, suffix, place).path(server)
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                return LocalBackup(Backup(uuid, suffix, family), path, status.st_size, name)
    return None


def remove_backup(directory: str, place: str) -> None:
    """Remove the backup at `place` in `directory`, if it is there; raises `StorageError`."""
    if backup_at(place) is None:
        return  # Only backups are ever removed by this function.
    path = os.path.join(directory, place)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
            sync_directory(Path(path).parent)
    except OSError as error:
        raise StorageError(
            f"{path}: {disk_advice(error)}; delete it by hand",
            "a backup that has moved to another node could not be removed here",
        ) from error
    if os.path.dirname(place):
        with suppress(OSError):  # The server may have others in it.
            os.rmdir(os.path.dirname(path))


_log = Logger()


@attrs.frozen
class Removal:
    """Removes backups below `directory`, which is `system.backup_directory`."""

    directory: str
    disk: Workers

    async def remove(self, server: str, paths: Sequence[str]) -> None:
        """Remove the backups at `paths` in the directory. What cannot be is logged."""
        for path in paths:
            try:
                await self.disk.run(remove_backup, self.directory, path)
            except StorageError as error:
                _log.error("{server}: backup not removed: {error}", server=server, error=error)
            else:
                _log.info(
                    "{server}: backup {path} removed, it has moved",
                    server=server,
                    path=path,
                )
