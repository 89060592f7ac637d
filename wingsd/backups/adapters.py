"""Where backups are kept: on this node, or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

from wingsd.archive import ArchiveFormat
from wingsd.backups.dialect import UploadedPart
from wingsd.backups.making import MadeArchive
from wingsd.backups.store import BackupStore
from wingsd.errors import AdapterUnknown
from wingsd.statedb import BackupRecord
from wingsd.threadio import Workers

if TYPE_CHECKING:
    from wingsd.backups.s3.growing import GrowingArchive

__all__ = ["Adapter", "LocalAdapter", "adapter_of"]


class Adapter(Protocol):
    """Takes over archives that are made."""

    @property
    def form(self) -> ArchiveFormat | None:
        """The format of its archives; None for that of the node."""

    def begin(self, server: str, backup: str, path: str) -> GrowingArchive | None:
        """Begin with an archive that will be made at `path`; return what is told how it grows.

        None where it is not taken before it is complete.
        """

    def abandon(self, backup: str) -> None:
        """End what was begun of an archive that could not be made."""

    async def keep(self, server: str, made: MadeArchive) -> Sequence[UploadedPart] | None:
        """Keep an archive; return its parts where a store has it, None for a local one.

        After an error the part of the archive is not there any more; else it is in its place, or
        stays for `discard`, and after the CancelledError of `interrupt` for `left_by`. Raises
        `WingsdError`.
        """

    def interrupt(self, backup: str) -> None:
        """Have `keep` of a backup end soon, with CancelledError, where it takes long."""

    async def left_by(self, record: BackupRecord) -> MadeArchive | None:
        """Return the archive that an earlier daemon has made, and which is to be kept yet."""

    async def discard(self, place: str, backup: str) -> None:
        """Remove what stayed of an archive that a store has."""


@attrs.frozen(eq=False, repr=False)
class LocalAdapter:
    """Keeps archives in `system.backup_directory`; the kind `wings`."""

    store: BackupStore
    disk: Workers
    form: ArchiveFormat | None = None

    def begin(self, server: str, backup: str, path: str) -> None:
        """Nothing: an archive gets its place when it is complete."""

    def abandon(self, backup: str) -> None:
        """Nothing was begun."""

    async def keep(self, server: str, made: MadeArchive) -> None:
        """Put an archive into its place."""
        try:
            await self.disk.run(self.store.put_into_place, made.place, made.catalogue)
        except BaseException:
            backup = made.catalogue.backup
            await self.disk.run(self.store.remove_leftovers, made.place, backup, archive=True)
            raise

    def interrupt(self, backup: str) -> None:
        """Nothing: it is soon in its place."""

    async def left_by(self, record: BackupRecord) -> None:
        """None: an archive is in its place when it is made."""

    async def discard(self, place: str, backup: str) -> None:
        """Nothing: it stays in its place."""


def adapter_of(name: str, adapters: Mapping[str, Adapter]) -> Adapter:
    """Return the adapter of a kind of backups. Raises AdapterUnknown."""
    found = adapters.get(name)
    if found is None:
        raise AdapterUnknown(name, adapters)
    return found
