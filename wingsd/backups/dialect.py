"""What Panels and their pages are told of a backup's end, in the dialect of each family."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import attrs

from wingsd.backups.catalogue import Catalogue
from wingsd.config import CALAGOPUS
from wingsd.events import BACKUP_COMPLETED, BACKUP_PROGRESS

__all__ = ["BackupResult", "UploadedPart", "checksum_type_of", "progress_event"]

Message = tuple[str, ...]


def checksum_type_of(family: str) -> str:
    """Return the checksum that a family's Panel is told."""
    return "sha256" if family == CALAGOPUS else "sha1"


@attrs.frozen
class UploadedPart:
    """A part of a backup that a store has, by the ETag that it has answered."""

    etag: str
    part_number: int


@attrs.frozen
class BackupResult:
    """How a backup has ended. `catalogue` is None for a failure, `parts` for a local backup."""

    family: str
    backup: str
    catalogue: Catalogue | None = None
    parts: Sequence[UploadedPart] | None = None

    def report(self) -> dict[str, object]:
        """Return the body of the call to the Panel; each of its keys must be there."""
        made = self.catalogue
        body: dict[str, object] = {
            "checksum": "" if made is None else made.checksum,
            "checksum_type": checksum_type_of(self.family) if made is None else made.checksum_type,
            "size": 0 if made is None else made.bytes,
            "successful": made is not None,
            "parts": None if self.parts is None else [attrs.asdict(each) for each in self.parts],
        }
        if self.family == CALAGOPUS:
            files = 0 if made is None else made.files or 0
            body |= {"files": files, "browsable": False, "streaming": False}
        return body

    def events(self) -> Iterator[Message]:
        """Yield the events of the end: their names and arguments.

        Of the families but Calagopus, pages wait for the name with the backup's UUID, and others
        for the name alone.
        """
        told = self.report()
        if self.family == CALAGOPUS:
            del told["parts"]
            yield BACKUP_COMPLETED, self.backup, json.dumps(told)
            return
        data = json.dumps(
            {
                "uuid": self.backup,
                "is_successful": told["successful"],
                "checksum": told["checksum"],
                "checksum_type": told["checksum_type"],
                "file_size": told["size"],
            }
        )
        yield f"{BACKUP_COMPLETED}:{self.backup}", data
        yield BACKUP_COMPLETED, data


def progress_event(backup: str, done: int, total: int) -> Message:
    """Return Calagopus' event of how many bytes of files are packed."""
    return BACKUP_PROGRESS, backup, json.dumps({"progress": done, "total": max(done, total)})
