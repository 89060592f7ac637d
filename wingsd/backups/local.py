"""Local backups of a server: found on the disk, and as parts of an upload."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import attrs
from twisted.logger import Logger

from wingsd.backups.catalogue import catalogue_name
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import InvalidBackupName, StorageError
from wingsd.filesystem.open_directories import FILE_FLAGS
from wingsd.threadio import Workers
from wingsd.util.durable import sync_directory
from wingsd.util.text import disk_advice, require_uuid

#: The forms in which the families' nodes keep local backups. Pelican's know only the second.
SUFFIXES = ("tar", "tar.gz", "tar.xz", "tar.lz", "tar.bz2", "tar.lz4", "tar.zst", "zip", "7z")
#: What each family calls the part of an installation's log; Pterodactyl's has none.
LOG_PARTS: Mapping[str, str] = MappingProxyType(
    {PELICAN: "install_logs", CALAGOPUS: "install-logs"}
)
#: What Calagopus' nodes call a backup that is one file; of their other kinds none can be sent.
WINGS = "backup/wings"

_FILE = re.compile(rf"([0-9A-Fa-f-]{{36}})\.({'|'.join(map(re.escape, SUFFIXES))})")


@attrs.frozen(repr=False)
class Backup:
    """A local backup: its UUID, the suffix of its file, and the family in whose form it came."""

    uuid: str
    suffix: str
    family: str

    def path(self, server: str) -> str:
        """Return where in `system.backup_directory` its family keeps it."""
        name = f"{self.uuid}.{self.suffix}"
        return f"{server}/{name}" if self.family == PELICAN else name


@attrs.frozen(repr=False)
class BackupChecksum:
    """The SHA-256 of the backup with a UUID."""

    uuid: str


@attrs.frozen(repr=False)
class AttachedLog:
    """The log of the server's last installation."""


Attachment = Backup | AttachedLog


def attachment_of(
    name: str, filename: str = "", content_type: str = ""
) -> Attachment | BackupChecksum | None:
    """Return the attachment in the part `name`; None if it is not an attachment.

    Raises `BadRequest` for a backup that cannot be kept: after a success the source would delete
    the only copy.
    """
    if name in LOG_PARTS.values():
        return AttachedLog()
    if name.startswith("checksum_backup_"):
        return BackupChecksum(_file(name, name.removeprefix("checksum_backup_"))[0])
    if name.startswith("backup_"):
        return Backup(*_file(name, name.removeprefix("backup_")), PELICAN)
    if name.startswith("backup-checksum-"):
        return BackupChecksum(_uuid(name, name.removeprefix("backup-checksum-")))
    if name.startswith("backup-"):
        uuid = _uuid(name, name.removeprefix("backup-"))
        if content_type != WINGS:
            raise _refused(name, f"its content type is {content_type[:80]!r}, not {WINGS}")
        return Backup(uuid, _file(name, filename)[1], CALAGOPUS)
    return None


def backup_at(path: str) -> Backup | None:
    """Return the backup whose `path` in `system.backup_directory` this is."""
    directory, _, name = path.rpartition("/")
    found = _FILE.fullmatch(name)
    if found is None:
        return None
    return Backup(found[1], found[2], PELICAN if directory else CALAGOPUS)


def _file(part: str, name: str) -> tuple[str, str]:
    """Return the UUID and the suffix of a file's name, whatever directories it names."""
    found = _FILE.fullmatch(re.split(r"[/\\]", name)[-1])
    if found is None:
        raise _refused(part, f"its file is not called by a UUID and one of {', '.join(SUFFIXES)}")
    return _uuid(part, found[1]), found[2]


def _uuid(part: str, text: str) -> str:
    return require_uuid(text, _refused(part, "it does not name the UUID of a backup"))


def _refused(part: str, why: str) -> InvalidBackupName:
    return InvalidBackupName(
        "this node cannot store a backup that was sent with the server",
        f"the part {part[:80]!r}: {why}; transfer the server without that backup",
    )


_PIECE = 240 << 10
_NOT_READ = "a backup that is to be sent with the server could not be read"


@attrs.frozen(repr=False)
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
            descriptor = os.open(self.path, FILE_FLAGS)
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
    backup = backup_at(place)
    if backup is None:
        return  # Only backups are ever removed by this function.
    path = os.path.join(directory, place)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
            sync_directory(Path(path).parent)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(os.path.dirname(path), catalogue_name(backup.uuid)))
    except OSError as error:
        raise StorageError(
            f"{path}: {disk_advice(error)}; delete it by hand",
            "a backup that has moved to another node could not be removed here",
        ) from error
    if os.path.dirname(place):
        with suppress(OSError):  # The server may have others in it.
            os.rmdir(os.path.dirname(path))


_log = Logger()


@attrs.frozen(eq=False, repr=False)
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
