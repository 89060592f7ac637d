"""The quarantine: files and backups that this node no longer uses, kept for some days.

They are what the Panel does not want on this node, what a restored backup has replaced, and what
is left of some servers that have moved. What was kept of failed moves is deleted here
when its time is over.

What is found in a server's place and is not a server of this node, is neither merged into nor
deleted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from twisted.logger import Logger

from wingsd.backups.received import ReceivedBackups
from wingsd.config import SystemConfig
from wingsd.errors import StorageError, WingsdError
from wingsd.filesystem.removal import remove_tree
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers
from wingsd.transfers.storage.staging import KEPT, PARTIAL, PartialCopies, Staging
from wingsd.util.durable import move, storage_errors, time_stamp

_DAY = 24 * 3600
#: What the names have of those files that a restored backup has replaced.
_REPLACED = ".replaced."
#: And of those of a server that has moved; the name of its node follows.
_MOVED = ".moved."


@attrs.define(eq=False, repr=False, slots=False)
class Quarantine:
    """The quarantine directories of `staging` and `backups`, and kept `copies`.

    The age of an entry is counted in the state database, not taken from its time stamp: otherwise
    a clock that is set forward, or was behind before, would have everything deleted.
    """

    _log = Logger()

    _staging: Staging
    _backups: ReceivedBackups
    _copies: PartialCopies
    _disk: Workers
    _database: StateDatabase
    _system: SystemConfig

    async def clear(self) -> None:
        """Delete what has been kept long enough. To be called daily."""
        try:
            names = await self._disk.run(self._names)
            ages = await self._database.ages(sorted(names))
            old = [name for name, age in ages.items() if age > self._days_of(name) * _DAY]
            deleted = await self._disk.run(self._delete, old)
        except WingsdError as error:
            self._log.error("quarantine: {error}", error=error)
            return
        for name in sorted(deleted):
            if name.endswith(PARTIAL):
                self._log.info("{name}: deleted, no transfer has gone on with it", name=name)
            else:
                self._log.warn("{name}: deleted, it was in quarantine long enough", name=name)

    async def store_away(
        self, server: str, *, pooled: bool = False, inode: int | None = None
    ) -> None:
        """Move the server's files out of its place, and the backups that have just come with it.

        With an `inode` only the directory that has it: in a storage pool another node's may be in
        its place meanwhile. With `pooled` only the backups: another node has the same files.
        """
        files = () if pooled else (partial(self._take, f"{server}.", server, inode),)
        for take in (*files, partial(self._take_backups, server)):
            place = await self._taken(server, take)
            if place is not None:
                self._log.warn(
                    "{server}: the Panel does not have it on this node; its files are kept for "
                    "{days} days in {place}",
                    server=server,
                    days=self._system.transfers.quarantine_days,
                    place=place,
                )

    @property
    def keeps_moved(self) -> bool:
        """True if the files of some servers are kept that have moved."""
        return self._system.transfers.live.keep_source_days > 0

    async def keep_moved(self, server: str, inode: int | None, url: str) -> None:
        """Move the files of a server out of its place that has moved to `url`.

        With an `inode` only the directory that has it. Where that fails they stay.
        """
        prefix = _moved_to(server, urlsplit(url).hostname or "")
        place = await self._taken(server, partial(self._take, prefix, server, inode))
        if place is not None:
            self._log.info(
                "{server}: has moved to another node; its files are kept here for {days} days in "
                "{place}",
                server=server,
                days=self._system.transfers.live.keep_source_days,
                place=place,
            )

    def moved(self, server: str, host: str) -> Path | None:
        """Return the newest files that are kept of a server since it has moved to a node.

        Blocking. Raises `StorageError`.
        """
        prefix = _moved_to(server, host)
        stamps = [
            name.removeprefix(prefix)
            for name in _names_in(self._staging.quarantine)
            if name.startswith(prefix)
        ]
        found = [each for each in stamps if each.count(".") == 1]  # of no longer name of a host
        return self._staging.quarantine / f"{prefix}{max(found)}" if found else None

    async def _taken(self, server: str, take: Callable[[], Path | None]) -> Path | None:
        """Return where something is kept; log why not."""
        try:
            return await self._disk.run(take)
        except StorageError as error:
            self._log.error(
                "{server}: not moved to quarantine: {error}", server=server, error=error
            )
            return None

    def _days_of(self, name: str) -> int:
        transfers = self._system.transfers
        if name.endswith(PARTIAL):
            return transfers.moves.keep_days
        if _MOVED in name:
            return transfers.live.keep_source_days
        replaced = _REPLACED in name
        return self._system.backups.quarantine_days if replaced else transfers.quarantine_days

    # In a thread

    @property
    def _directories(self) -> tuple[Path, ...]:
        kept = Path(self._staging.path) / KEPT
        return self._staging.quarantine, self._backups.quarantine, kept

    def _names(self) -> set[str]:
        return {name for directory in self._directories for name in _names_in(directory)}

    def _delete(self, names: Collection[str]) -> set[str]:
        """Delete the entries with these names, as far as possible; return the names deleted."""
        deleted = set()
        for directory in self._directories:
            for name in {*_names_in(directory)}.intersection(names):
                with suppress(OSError, StorageError):  # It is tried again the next day.
                    if not name.endswith(PARTIAL):
                        remove_tree(str(directory / name))
                    elif not self._copies.delete(name):
                        continue
                    deleted.add(name)
        # The staged backups of the deleted copies are deleted as well.
        servers = {name.partition(".")[0] for name in deleted if name.endswith(PARTIAL)}
        for server in servers - self._staging.kept_servers():
            if not self._staging.holds(server):
                self._backups.discard(server)
        return deleted

    def _take(self, prefix: str, server: str, inode: int | None) -> Path | None:
        source = self._staging.in_place(server, inode)
        return None if source is None else _keep(prefix, source, self._staging.quarantine)

    def _take_backups(self, server: str) -> Path | None:
        source = self._backups.retract(server)
        return None if source is None else _keep(f"{server}.", source, self._backups.quarantine)


def keep_replaced(server: str, source: Path, directory: Path) -> Path:
    """Move the files that a restored backup has replaced into a quarantine directory.

    Return where they are. Blocking; raises `StorageError`.
    """
    return _keep(f"{server}{_REPLACED}", source, directory)


def _keep(prefix: str, source: Path, directory: Path) -> Path:
    with storage_errors(f"{directory} cannot be made"):
        directory.mkdir(mode=0o700, exist_ok=True)
    target = directory / f"{prefix}{time_stamp()}"
    move(source, target, durable=True)
    return target


def _moved_to(server: str, host: str) -> str:
    return f"{server}{_MOVED}{host}."


def _names_in(directory: Path) -> list[str]:
    # A directory that this process may not read has nothing of it.
    with storage_errors(directory), suppress(FileNotFoundError, PermissionError):
        return os.listdir(directory)
    return []
