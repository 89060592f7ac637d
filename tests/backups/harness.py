"""The backups of one server: its files, the store and the database are real, the Panel is not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.callbacks.queue_harness import AnsweringPanel
from tests.support import FakeContainers
from tests.support.game_server import FakeGameServer
from tests.support.harness import Harness, node_config
from tests.support.present import present
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID as SERVER
from wingsd.backups.catalogue import Catalogue
from wingsd.backups.store import StoredBackup
from wingsd.config import PTERODACTYL, BackupsConfig
from wingsd.events import Event
from wingsd.threadio import Workers

__all__ = ["BACKUP", "OTHER", "SERVER", "BackupNode", "inode", "record_flushes"]

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
        self.panel = AnsweringPanel()
        self.workers = Workers(reactor, "backup", 4)
        self.workers.start()
        backups = BackupsConfig(concurrent=concurrent)
        config = node_config(directory, family=family, backups=backups)
        self.daemon = Harness(config, self.workers, self.panel, FakeContainers())
        self.store, self.database = self.daemon.backup_store, self.daemon.database
        self.database_store, self.callbacks = self.daemon.store, self.daemon.callbacks
        self.published: list[Event] = []
        self.daemon.bus.subscribe_to_all(self.published.append)
        self.made = self.daemon.backups
        self.terms = self.made.terms = attrs.evolve(self.made.terms, **terms)

    async def restart(self) -> None:
        """Be the next daemon."""
        self.made = attrs.evolve(self.made)
        await self.made.settle()

    def close(self) -> None:
        self.made.stop()
        self.callbacks.stop()
        self.workers.stop()
        self.database_store.close()

    async def begin(self, backup: str = BACKUP, ignore: str = "", adapter: str = "wings") -> None:
        server: Any = self.server
        await self.made.begin(server, backup, adapter, ignore)

    async def begin_slowly(self) -> None:
        """Begin a backup that does not end by itself."""
        self.terms = self.made.terms = attrs.evolve(self.terms, write_limit=1)
        (self.home / "a").write_bytes(os.urandom(100_000))
        await self.begin()

    async def over(self) -> None:
        await until(lambda: not self.made.making)

    async def make(self, backup: str = BACKUP, ignore: str = "") -> Mapping[str, Any]:
        """Make a backup; return what the Panel is told."""
        await self.begin(backup, ignore)
        await self.over()
        told: Any = self.panel.bodies[-1]
        return dict(told)

    def stored(self, backup: str = BACKUP) -> StoredBackup:
        return present(self.store.find("", backup))

    def catalogue(self, backup: str = BACKUP) -> Catalogue:
        return present(self.stored(backup).catalogue)

    def left(self) -> list[str]:
        """Return the names below the directory of backups."""
        found = self.backups.rglob("*") if self.backups.exists() else ()
        return sorted(str(path.relative_to(self.backups)) for path in found)

    def records(self) -> list[str]:
        """Return the backups that the database has as being made."""
        return [record.backup for record in self.database_store.backups()]


def inode(path: Path) -> int:
    """Return the number of a file, which it keeps when it is renamed."""
    return path.stat().st_ino


def record_flushes(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Return the inodes of what is flushed from now on."""
    flushed: set[int] = set()
    monkeypatch.setattr("os.fsync", lambda fd: flushed.add(os.fstat(fd).st_ino))
    return flushed
