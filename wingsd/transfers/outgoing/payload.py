"""The payload of an upload: a server's files, backups and installation log, and its pool.

`Payload.write` is blocking: run it in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import closing
from itertools import chain, repeat
from typing import TYPE_CHECKING

import attrs

from wingsd.archive import Part
from wingsd.archive.policy import ArchiveError
from wingsd.backups.local import LocalBackup
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import StorageError
from wingsd.transfers.outgoing.request import TransferRequest, UploadFormat
from wingsd.transfers.outgoing.source import SourceStorage
from wingsd.transfers.storage.install_log import InstallLogs
from wingsd.transfers.storage.shared_volume import (
    BACKUPS_MARK,
    SHARED_BACKUPS,
    Sharing,
    pool_headers,
    sharing_of,
)
from wingsd.transfers.upload_form import FormFrame

if TYPE_CHECKING:
    from wingsd.archive.pack import Packed

__all__ = ["Payload", "SourcePool"]


@attrs.frozen(eq=False, repr=False)
class Payload:
    """What one upload of a server holds.

    `source` is the server's directory, or a part of one; without one the archive is empty, since
    the destination has the files. `links` tells whether the destination keeps symlinks and hard
    links, `attributes` whether it keeps extended attributes and ACLs, and `family` the kind of its
    nodes.
    """

    server: str
    family: str
    source: str | Part | None
    links: bool
    attributes: bool
    format: UploadFormat
    backups: tuple[LocalBackup, ...]
    logs: InstallLogs | None

    def with_part(self, part: Part) -> Payload:
        """Return the same with only those files that are in a part of the directory."""
        return attrs.evolve(self, source=part)

    def only_part(self, part: Part) -> Payload:
        """Return the files in a part of the directory, without backups and log."""
        return attrs.evolve(self, source=part, backups=(), logs=None)

    def write(
        self,
        frame: FormFrame,
        write: Callable[[bytes], None],
        warn: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> Packed | None:
        """Write all but the form's end; return what the archive was, None where it is empty.

        `warn` gets a line for each thing that cannot be sent as it is, `progress` the bytes of
        files and backups read so far, and the number of files. Raises `StorageError`, and whatever
        `write` raises.
        """
        write(frame.before())
        packed = self._write_files(write, warn, progress)
        write(frame.after(packed.sha256 if packed else hashlib.sha256().hexdigest()))
        read, files = (packed.packed_bytes, packed.file_count) if packed else (0, 0)
        # In the order in which the family's own nodes send them.
        if self.family == CALAGOPUS:
            self._write_log(frame, write, warn)
        self._write_backups(frame, write, warn, lambda more: progress(read + more, files))
        if self.family != CALAGOPUS:
            self._write_log(frame, write, warn)
        return packed

    def _write_files(
        self,
        write: Callable[[bytes], None],
        warn: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> Packed | None:
        if self.source is None:
            return None
        from wingsd.archive.pack import pack  # noqa: PLC0415 (see wingsd.archive)

        part = self.source if isinstance(self.source, Part) else Part(self.source)
        return pack(
            attrs.evolve(part, attributes=self.attributes),
            write,
            links=self.links,
            form=self.format.archive,
            compression=self.format.compression,
            warn=warn,
            progress=progress,
        )

    def _write_backups(
        self,
        frame: FormFrame,
        write: Callable[[bytes], None],
        warn: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        before = 0

        def note(read: int) -> None:
            progress(before + read)

        for local in self.backups:
            write(frame.before_backup(local.backup))
            digest = hashlib.sha256()
            with closing(self._backup_blocks(local, warn, note)) as blocks:
                for block in blocks:
                    digest.update(block)
                    write(block)
            before += local.size
            write(frame.after_backup(local.backup, digest.hexdigest()))

    def _backup_blocks(
        self, local: LocalBackup, warn: Callable[[str], None], note: Callable[[int], None]
    ) -> Generator[bytes, None, None]:
        """Yield the archive of a backup as the destination restores it.

        Nodes in Go get regular files alone. `note` gets the bytes read so far.
        """
        if self.family != PELICAN or self.links or _goes_as_it_is(local, warn):
            yield from _noted(local, note)
            return
        from wingsd.archive.regular_files import RegularFiles  # noqa: PLC0415

        # Only the first reading is progress.
        readings = chain((_noted(local, note),), (local.blocks() for _ in repeat(None)))
        limit = self.source.limit if isinstance(self.source, Part) else None
        files = RegularFiles(lambda: next(readings), limit)
        try:
            with files.packed(self.format.compression) as blocks:
                yield from blocks
        except ArchiveError as error:
            raise StorageError(
                f"{local.path}: {error.detail}; delete the backup in the Panel, or leave it out "
                "of the transfer",
                "a backup that is to be sent with the server is damaged",
            ) from error
        if told := str(files.not_kept):
            warn(
                f"the backup {local.backup.uuid} is sent as the destination's node can restore "
                f"it: {told}"
            )

    def _write_log(
        self, frame: FormFrame, write: Callable[[bytes], None], warn: Callable[[str], None]
    ) -> None:
        """Write the log as far as it can be read: no transfer fails because of it."""
        try:
            log = self.logs.open(self.server) if self.logs is not None else None
            if log is None:
                return
            with closing(log):
                write(frame.before_log(self.family))
                for block in log.blocks():
                    write(block)
        except StorageError as error:
            warn(error.detail)


def _goes_as_it_is(local: LocalBackup, warn: Callable[[str], None]) -> bool:
    """Return whether a node in Go restores a backup as it is, or it has no other form."""
    from wingsd.archive.regular_files import has_only_files  # noqa: PLC0415 (see wingsd.archive)

    try:
        with closing(local.blocks()) as blocks:
            return has_only_files(blocks)
    except ArchiveError as error:
        warn(f"the backup {local.backup.uuid} cannot be read and is sent as it is: {error.detail}")
        return True


def _noted(local: LocalBackup, note: Callable[[int], None]) -> Generator[bytes, None, None]:
    """Yield the archive of a backup as it is."""
    read = 0
    with closing(local.blocks()) as blocks:
        for block in blocks:
            read += len(block)
            note(read)
            yield block


class SourcePool:
    """The storage pool of the source, as it is used in the transfer of one `server`.

    The state database has it before anything is sent. From then on the server's files are not
    deleted with the server, whichever node dies.
    """

    def __init__(
        self, server: str, request: TransferRequest, storage: SourceStorage, *, is_direct: bool
    ) -> None:
        self.sharing = Sharing.COPIED
        #: Whether both nodes have the same directory of backups, so that none may be removed.
        self.shares_backups = False
        self._server = server
        self._disk = storage.disk
        self._volume = storage.volume
        self._mark = ""
        # The header is Pelican's, and so are all nodes that read it. In a direct transfer no
        # Panel would decide whose the files are.
        is_pelican = request.family == PELICAN
        self._is_used = storage.volume.pool != "" and is_pelican and not is_direct
        self._removes_backups = request.delete_backups and bool(request.backups)

    async def query(
        self, features: Callable[[Sequence[tuple[str, str]]], Awaitable[frozenset[str]]]
    ) -> frozenset[str]:
        """Query the destination's `features`, and learn from them how the files are shared.

        Raises what that raises, `StorageError`, and `Conflict` where a transfer would do harm.
        """
        headers: list[tuple[str, str]] = []
        if self._is_used:
            self._mark = await self._disk.run(self._volume.mark, self._server)
            headers += pool_headers(self._volume.pool, self._mark)
        if self._removes_backups:
            mark = await self._disk.run(self._volume.mark_backups, self._server)
            headers.append((BACKUPS_MARK, mark))
        found = await features(headers)
        if self._is_used:
            self.sharing = sharing_of(found, self._volume.pool)
        self.shares_backups = SHARED_BACKUPS in found
        return found

    @property
    def name(self) -> str:
        """The pool in which the destination may have the files; empty where it gets a copy."""
        return "" if self.sharing is Sharing.COPIED else self._volume.pool

    @property
    def has_files(self) -> bool:
        """Whether the destination is known to have the files, so that none are sent."""
        return self.sharing is Sharing.POOLED

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of an upload."""
        return pool_headers(self.name, self._mark if self.has_files else "")

    async def remove_marks(self) -> None:
        """Remove the marks of this transfer from the volume."""
        if self._mark:
            await self._disk.run(self._volume.unmark, self._server, self._mark)
        if self._removes_backups:
            await self._disk.run(self._volume.unmark_backups, self._server)
