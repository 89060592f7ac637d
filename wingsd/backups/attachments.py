"""Attachments of an upload, by the names of their parts: backups and an installation log.

A part is handled by its name, whichever family the node belongs to. Of what a sender writes only
a UUID and a suffix from a list are ever part of a path. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import BadRequest
from wingsd.util.text import canonical_uuid

__all__ = [
    "LOG_PARTS",
    "SUFFIXES",
    "WINGS",
    "Attachment",
    "Backup",
    "BackupChecksum",
    "InstallLog",
    "attachment_of",
    "backup_at",
]

#: The forms in which the families' nodes keep local backups. Pelican's know only the second.
SUFFIXES = ("tar", "tar.gz", "tar.xz", "tar.lz", "tar.bz2", "tar.lz4", "tar.zst", "zip", "7z")
#: What each family calls the part of an installation's log; Pterodactyl's has none.
LOG_PARTS: Mapping[str, str] = MappingProxyType(
    {PELICAN: "install_logs", CALAGOPUS: "install-logs"}
)
#: What Calagopus' nodes call a backup that is one file; of their other kinds none can be sent.
WINGS = "backup/wings"

_FILE = re.compile(rf"([0-9A-Fa-f-]{{36}})\.({'|'.join(map(re.escape, SUFFIXES))})")


class InvalidBackupName(BadRequest):
    """A part of the upload is not named as a backup is (400)."""

    code = "backup-name-invalid"


@attrs.frozen
class Backup:
    """A local backup: its UUID, the suffix of its file, and the family in whose form it came."""

    uuid: str
    suffix: str
    family: str

    def path(self, server: str) -> str:
        """Return where in `system.backup_directory` its family keeps it."""
        name = f"{self.uuid}.{self.suffix}"
        return f"{server}/{name}" if self.family == PELICAN else name


@attrs.frozen
class BackupChecksum:
    """The SHA-256 of the backup with a UUID."""

    uuid: str


@attrs.frozen
class InstallLog:
    """What the server's installation has printed."""


Attachment = Backup | InstallLog


def attachment_of(
    name: str, filename: str = "", content_type: str = ""
) -> Attachment | BackupChecksum | None:
    """Return the attachment in the part `name`; None if it is not an attachment.

    Raises `BadRequest` for a backup that cannot be kept: after a success the source would delete
    the only copy.
    """
    if name in LOG_PARTS.values():
        return InstallLog()
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
    uuid = canonical_uuid(text)
    if uuid is None:
        raise _refused(part, "it does not name the UUID of a backup")
    return uuid


def _refused(part: str, why: str) -> InvalidBackupName:
    return InvalidBackupName(
        "this node cannot store a backup that was sent with the server",
        f"the part {part[:80]!r}: {why}; transfer the server without that backup",
    )
