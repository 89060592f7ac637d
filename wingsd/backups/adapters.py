"""Where backups are kept: on this node, or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from wingsd.backups.dialect import UploadedPart
from wingsd.backups.making import MadeArchive
from wingsd.backups.store import BackupStore
from wingsd.errors import BadRequest
from wingsd.threadio import Workers

__all__ = ["Adapter", "AdapterUnknown", "LocalAdapter", "adapter_of"]


class AdapterUnknown(BadRequest):
    """Backups of the kind that the Panel asks for cannot be made on this node (400)."""

    code = "backup-adapter-unknown"

    def __init__(self, name: str, known: Mapping[str, Adapter]) -> None:
        super().__init__(
            f"This node cannot make backups of the kind {name[:40]!r}.",
            f"choose another kind in the Panel's settings; this node has {', '.join(known)}",
        )


class Adapter(Protocol):
    """Takes over archives that are made."""

    async def keep(self, server: str, made: MadeArchive) -> Sequence[UploadedPart] | None:
        """Keep an archive; return its parts where a store has it, None for a local one.

        When this returns, or raises, the part of the archive is not there any more: it is in its
        place, or was removed. Raises `WingsdError`.
        """


@attrs.frozen(eq=False, repr=False)
class LocalAdapter:
    """Keeps archives in `system.backup_directory`; the kind `wings`."""

    store: BackupStore
    disk: Workers

    async def keep(self, server: str, made: MadeArchive) -> None:
        """Put an archive into its place."""
        try:
            await self.disk.run(self.store.put_into_place, made.place, made.catalogue)
        except BaseException:
            backup = made.catalogue.backup
            await self.disk.run(self.store.remove_leftovers, made.place, backup, archive=True)
            raise


def adapter_of(name: str, adapters: Mapping[str, Adapter]) -> Adapter:
    """Return the adapter of a kind of backups. Raises AdapterUnknown."""
    found = adapters.get(name)
    if found is None:
        raise AdapterUnknown(name, adapters)
    return found
