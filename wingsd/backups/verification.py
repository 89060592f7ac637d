"""Verifies a backup at rest: all of its archive is read, and nothing is written. Blocking."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import attrs

from wingsd.archive.policy import Kind, link_text, member_kind, member_path
from wingsd.backups.catalogue import COMPLETE, DAMAGED, VERSION, Catalogue
from wingsd.backups.store import StoredBackup
from wingsd.errors import ArchiveError
from wingsd.files.progress import Progress
from wingsd.filesystem import OpenFile
from wingsd.util.text import reading_advice

__all__ = ["UNREAD", "VerifiedBackup", "verified_catalogue", "verify_archive"]

#: The suffixes of formats of which only the checksum is verified here.
UNREAD = ("tar.lz", "zip", "7z")
_BLOCK = 240 << 10


@attrs.frozen
class VerifiedBackup:
    """What an archive is: its bytes, SHA-256 and regular files, and its `fault`.

    `files` is None where the members were not read. An empty `fault` is none: the archive can be
    extracted, and is what its catalogue says, if there is one.
    """

    bytes: int
    sha256: str
    files: int | None
    fault: str = ""


class _Reader:
    """Reads a file from its start to its end, hashed, at most `limit` bytes a second (0: any)."""

    def __init__(self, file: OpenFile, progress: Progress, limit: int) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._file = file
        self._progress = progress
        self._limit = limit
        self._began = time.monotonic()

    def blocks(self) -> Iterator[bytes]:
        while block := self._file.read(_BLOCK):
            self.size += len(block)
            self.sha256.update(block)
            self._progress.bytes_done = self.size
            self._progress.check()
            self._keep_pace()
            yield block

    def _keep_pace(self) -> None:
        if not self._limit:
            return
        due = self._began + self.size / self._limit
        while (left := due - time.monotonic()) > 0:
            self._progress.check()
            time.sleep(min(left, 0.1))


def verify_archive(
    found: StoredBackup, file: OpenFile, progress: Progress, limit: int = 0
) -> VerifiedBackup:
    """Read an open backup to its end; return what it is.

    Raises FileWorkCancelled.
    """
    progress.bytes_total = found.size
    reader = _Reader(file, progress, limit)
    files, fault = None, ""
    try:
        if found.suffix in UNREAD:
            for _ in reader.blocks():
                pass
        else:
            files = _count_files(reader.blocks())
    except ArchiveError as error:
        fault = error.detail
    except OSError as error:
        fault = f"it cannot be read: {reading_advice(error)}"
    return VerifiedBackup(
        reader.size, reader.sha256.hexdigest(), files, _different(found, reader) or fault
    )


def _count_files(blocks: Iterator[bytes]) -> int:
    """Return the number of regular files in an archive. Raises ArchiveError."""
    # Here, since a node at rest verifies nothing.
    from wingsd.archive.decompress import decompressed  # noqa: PLC0415
    from wingsd.archive.pipeline import Blocks  # noqa: PLC0415
    from wingsd.archive.tar_reader import TarReader  # noqa: PLC0415

    reader = TarReader(Blocks(decompressed(blocks)))
    files = 0
    while (member := reader.next_member()) is not None:
        kind = member_kind(member.typeflag, member.name, member.size)
        member_path(member.name)
        if kind is Kind.FILE:
            files += 1
        elif kind is Kind.SYMLINK:
            link_text(member.link, member.name)
        elif kind is Kind.HARD_LINK:
            member_path(member.link)
    reader.drain()
    for _ in blocks:
        pass
    return files


def _different(found: StoredBackup, reader: _Reader) -> str:
    """Return how an archive differs from its catalogue, as far as it was read."""
    made = found.catalogue
    if made is None:
        return ""
    if found.size != made.bytes:
        return f"it has {found.size} bytes, and had {made.bytes} when it was made"
    if reader.size == made.bytes and reader.sha256.hexdigest() != made.sha256:
        return "its checksum is not that of the archive that was made"
    return ""


def verified_catalogue(found: StoredBackup, verified: VerifiedBackup) -> Catalogue | None:
    """Return the catalogue of a backup after it was verified.

    None where nothing tells whose it is, or where it was damaged before it had a catalogue.
    """
    now = time.time()
    if found.catalogue is not None:
        state = DAMAGED if verified.fault else COMPLETE
        return attrs.evolve(found.catalogue, state=state, checked=now, fault=verified.fault[:1000])
    if not found.server or verified.fault:
        return None
    return Catalogue(
        version=VERSION,
        backup=found.uuid,
        server=found.server,
        state=COMPLETE,
        archive=f"{found.uuid}.{found.suffix}",
        bytes=verified.bytes,
        sha256=verified.sha256,
        made=found.modified,
        files=verified.files,
        checked=now,
    )
