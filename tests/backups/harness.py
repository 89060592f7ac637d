"""The backups of one server: its files, the store and the database are real, the Panel is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredSemaphore

from tests.callbacks.queue_harness import ScriptedPanel
from tests.support import SynchronousWorkers
from tests.support.game_server import FakeGameServer
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID as SERVER
from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.backups.creation import (
    ArchiveTerms,
    Backups,
    checksum_type_of,
)
from wingsd.backups.store import BackupStore
from wingsd.callbacks import CallbackQueue
from wingsd.config import PTERODACTYL
from wingsd.events import Event, EventBus
from wingsd.statedb import StateDatabase, Store
from wingsd.threadio import Workers

__all__ = ["BACKUP", "OTHER", "SERVER", "BackupNode"]

BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
OTHER = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12"


class BackupNode:
    """A node of a family. `home` is the directory of its server, `backups` that of backups."""

    def __init__(
        self, directory: Path, family: str = PTERODACTYL, concurrent: int = 2, **terms: Any
    ) -> None:
        self.home, self.backups = directory / "server", directory / "backups"
        self.server = FakeGameServer(self.home)
        self.family = family
        self.panel = ScriptedPanel()
        self.workers = Workers(reactor, "backup", 4)
        self.workers.start()
        self.store = BackupStore(str(self.backups), family)
        self.database_store = Store(str(directory))
        self.database_store.open()
        synchronous: Any = SynchronousWorkers()
        self.database = StateDatabase(self.database_store, synchronous, reactor.seconds)
        panel: Any = self.panel
        self.callbacks = CallbackQueue(panel, self.database, reactor)
        self.bus = EventBus()
        self.published: list[Event] = []
        self.bus.subscribe_to_all(self.published.append)
        usual: dict[str, Any] = {
            "form": ArchiveFormat.TAR_GZ,
            "compression": Compression.BEST_SPEED,
            "checksum_type": checksum_type_of(family),
            "write_limit": 0,
            "reserve": 0,
        }
        self.terms = ArchiveTerms(**usual | terms)
        self.concurrent = concurrent
        self.made = self._backups()

    def _backups(self) -> Backups:
        return Backups(
            family=self.family,
            store=self.store,
            terms=self.terms,
            database=self.database,
            callbacks=self.callbacks,
            bus=self.bus,
            workers=self.workers,
            disk=self.workers,
            long=self.workers,
            reactor=reactor,
            adapters={"wings": None},
            slots=DeferredSemaphore(self.concurrent),
        )

    async def restart(self) -> None:
        """Be the next daemon."""
        self.made = self._backups()
        await self.made.settle()

    def close(self) -> None:
        self.made.stop()
        self.callbacks.stop()
        self.workers.stop()
        self.database_store.close()

    async def begin(self, backup: str = BACKUP, ignore: str = "", adapter: str = "wings") -> None:
        server: Any = self.server
        await self.made.begin(server, backup, adapter, ignore)

    async def over(self) -> None:
        await until(lambda: not self.made.making)

    async def make(self, backup: str = BACKUP, ignore: str = "") -> Mapping[str, Any]:
        """Make a backup; return what the Panel is told."""
        await self.begin(backup, ignore)
        await self.over()
        told: Any = self.panel.bodies[-1]
        return dict(told)

    def left(self) -> list[str]:
        """Return the names below the directory of backups."""
        found = self.backups.rglob("*") if self.backups.exists() else ()
        return sorted(str(path.relative_to(self.backups)) for path in found)

    def records(self) -> list[str]:
        """Return the backups that the database has as being made."""
        return [record.backup for record in self.database_store.backups()]
