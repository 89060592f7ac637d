"""All that is sent of a server, written into an upload's body: its files, and what goes along.

Blocking: run it in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing

import attrs

from wingsd.archive import Packed, Part, pack
from wingsd.backups.local import LocalBackup
from wingsd.config import CALAGOPUS
from wingsd.errors import StorageError
from wingsd.transfers.form.install_log import InstallLogs
from wingsd.transfers.form.upload_form import FormFrame
from wingsd.transfers.outgoing.request import UploadFormat

__all__ = ["Payload"]


@attrs.frozen
class Payload:
    """One server's files, those in `source`; its backups; and the log of its installation.

    `source` is a directory, or a part of one; without one the archive is empty, since the
    destination has the files. `links` tells whether the destination keeps symlinks and hard
    links, and `family` whose nodes it is one of.
    """

    server: str
    family: str
    source: str | Part | None
    links: bool
    form: UploadFormat
    backups: tuple[LocalBackup, ...]
    logs: InstallLogs | None

    def of(self, part: Part) -> Payload:
        """Return the same, but of the files those in a part of the directory alone."""
        return attrs.evolve(self, source=part)

    def files_of(self, part: Part) -> Payload:
        """Return the files in a part of the directory, and nothing beside them."""
        return attrs.evolve(self, source=part, backups=(), logs=None)

    def write(
        self,
        frame: FormFrame,
        write: Callable[[bytes], None],
        note: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> Packed | None:
        """Write all but the form's end; return what the archive was, None where it is empty.

        `note` gets a line for each thing that cannot go as it is, `progress` the bytes of files
        and backups read so far. Raises `StorageError`, and whatever `write` raises.
        """
        write(frame.before())
        packed = self._write_files(write, note, progress)
        write(frame.after(packed.sha256 if packed else hashlib.sha256().hexdigest()))
        read = packed.packed_bytes if packed else 0
        # In the order in which the family's own nodes send them.
        if self.family == CALAGOPUS:
            self._write_log(frame, write, note)
        self._write_backups(frame, write, lambda more: progress(read + more))
        if self.family != CALAGOPUS:
            self._write_log(frame, write, note)
        return packed

    def _write_files(
        self,
        write: Callable[[bytes], None],
        note: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> Packed | None:
        if self.source is None:
            return None
        return pack(
            self.source,
            write,
            links=self.links,
            form=self.form.archive,
            compression=self.form.compression,
            warn=note,
            progress=progress,
        )

    def _write_backups(
        self,
        frame: FormFrame,
        write: Callable[[bytes], None],
        progress: Callable[[int], None],
    ) -> None:
        read = 0
        for local in self.backups:
            write(frame.before_backup(local.backup))
            digest = hashlib.sha256()
            with closing(local.blocks()) as blocks:
                for block in blocks:
                    digest.update(block)
                    write(block)
                    read += len(block)
                    progress(read)
            write(frame.after_backup(local.backup, digest.hexdigest()))

    def _write_log(
        self, frame: FormFrame, write: Callable[[bytes], None], note: Callable[[str], None]
    ) -> None:
        """Write the log, as far as it can be read: no transfer fails for it."""
        try:
            log = self.logs.open(self.server) if self.logs is not None else None
            if log is None:
                return
            with closing(log):
                write(frame.before_log(self.family))
                for block in log.blocks():
                    write(block)
        except StorageError as error:
            note(error.detail)
