"""The storage of arriving servers: staged files, backups and logs, put into place and taken back.

All work on the disk is done in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.backups.local import Backup
from wingsd.backups.received import ReceivedBackups
from wingsd.errors import StorageError
from wingsd.threadio import Workers
from wingsd.transfers.errors import DaemonRestarted, StoragePoolConflict
from wingsd.transfers.steps import RollbackList
from wingsd.transfers.storage.install_log import InstallLogs
from wingsd.transfers.storage.partial_copies import PartialCopies
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume, is_same_pool
from wingsd.transfers.storage.staging import Staging

__all__ = ["WRITE_BACK_EVERY", "ArrivingServer", "IncomingStorage", "WriteBack"]

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds from the end of one write-back to the next.
WRITE_BACK_EVERY = 0.5


class WriteBack:
    """Calls `write_back` again and again while servers arrive. It must not fail.

    Without this the kernel waits for half a minute, or for gigabytes, and `Staging.flush` takes as
    much longer. Measured on an ext4 by the seconds until all is durable, with writing back every
    64 MiB and without: 4.4 against 6.2 for 2 GiB in 16 files, 3.0 against 3.3 for 50,000 small
    files; by syncfs(2), which also covers small files and directories, and slows the writing less
    than posix_fadvise(2) or sync_file_range(2) for each file.
    """

    def __init__(self, write_back: Callable[[], Deferred[None]], reactor: IReactorTime) -> None:
        self._write_back = write_back
        self._reactor = reactor
        self._arriving = 0
        self._running = False

    @contextmanager
    def during(self) -> Iterator[None]:
        """Write back in this context, which may be entered by several at a time."""
        self._arriving += 1
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run())
        try:
            yield
        finally:
            self._arriving -= 1

    async def _run(self) -> None:
        while await deferLater(self._reactor, WRITE_BACK_EVERY, lambda: self._arriving):
            await self._write_back()
        self._running = False


@attrs.frozen(eq=False, repr=False)
class IncomingStorage:
    """Where the files, backups and logs of arriving servers are staged and put into place."""

    staging: Staging
    backups: ReceivedBackups
    logs: InstallLogs
    volume: Volume
    quarantine: Quarantine
    copies: PartialCopies
    #: Threads for short and for long work on the disk. All that is done with `copies` is long:
    #: they are locked while one of them is removed.
    disk: Workers
    long: Workers
    reactor: IReactorTime
    write_back: WriteBack = attrs.field(init=False)

    @write_back.default
    def _make_write_back(self) -> WriteBack:
        return WriteBack(lambda: self.long.run(self.staging.write_back), self.reactor)

    def pool_features(
        self, server: str, pool: str, mark: str, backups_mark: str
    ) -> Deferred[list[str]]:
        """Return what the sender of a server is answered about its storage pool and its marks."""
        return self.disk.run(self.volume.features, server, pool, mark, backups_mark)


class ArrivingServer:
    """One server that arrives. How each change is undone is added to `rollback`.

    Every method raises `StorageError`.
    """

    _log = Logger()

    def __init__(self, server: str, storage: IncomingStorage, rollback: RollbackList) -> None:
        self._server = server
        self._storage = storage
        self._rollback = rollback
        #: The path of what was in the server's place before, which is renamed meanwhile.
        self._aside: str | None = None

    async def _run(
        self, work: Callable[Concatenate[str, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._storage.disk.run(work, self._server, *args, **kwargs)

    async def _run_long(self, work: Callable[[str], T]) -> T:
        return await self._storage.long.run(work, self._server)

    # Before anything is received

    async def is_in_pool(self, pool: str, mark: str) -> bool:
        """Return whether the files are here already, in a storage pool that the sender has too.

        `pool` is the sender's, and `mark` what it has left there; empty without. Raises
        `StorageError` where the files are not sound, `Conflict` where a copy would meet them.
        """
        volume = self._storage.volume
        if is_same_pool(volume.pool, pool):
            await self.check_pool(mark)
            return True
        if mark:
            raise StoragePoolConflict(
                "this node no longer has the storage pool of the other node",
                "it has sent no files; transfer the server again",
            )
        if pool:
            self._log.warn(
                "{server}: the sender has the storage pool {theirs}, this node {ours}: its files "
                "are copied; if both have the same volume, set system.transfers.storage_pool on "
                "both to the same pool_name",
                server=self._server,
                theirs=ascii(pool[:100]),
                ours=ascii(volume.pool) if volume.pool else "none",
            )
        if pool or volume.pool:
            await self._run(volume.require_free)
        return False

    async def check_pool(self, mark: str) -> None:
        """Raise `StorageError` unless the files in the storage pool are there and sound."""
        await self._run(self._storage.volume.check, mark)

    @property
    def pool(self) -> str:
        """The storage pool of this node; empty without."""
        return self._storage.volume.pool

    async def pool_size(self) -> int:
        """Return how many bytes the storage pool has in all."""
        return await self._storage.disk.run(self._storage.volume.size)

    # Receiving

    async def create(self) -> str:
        """Return the path of a new, empty directory for the files.

        What is kept of a move of the server is worth nothing from now on.
        """
        await self._run_long(self._storage.copies.forget)
        self._rollback.add(lambda: self._run_long(self._storage.staging.withdraw))
        directory = await self._run_long(self._storage.staging.create)
        await self.discard_backups()
        return directory

    async def discard_files(self) -> None:
        """Delete the files and the log that are staged and withdrawn."""
        await self._run_long(self._storage.staging.discard)

    async def discard_backups(self) -> None:
        """Delete the backups that are staged."""
        await self._run_long(self._storage.backups.discard)

    def writing_back(self) -> AbstractContextManager[None]:
        """Return the context in which the server is received."""
        return self._storage.write_back.during()

    def store_backup(self, backup: Backup, blocks: Iterable[bytes]) -> str:
        """Stage a backup; return its SHA-256. Blocking: call it in a thread."""
        return self._storage.backups.store(self._server, backup, blocks)

    def store_log(self, blocks: Iterable[bytes]) -> None:
        """Stage the installation log. Blocking: call it in a thread."""
        self._storage.logs.store(self._server, blocks)

    async def flush(self, *, pooled: bool) -> None:
        """Return when all that is staged is on stable storage; `pooled` files are not staged."""
        if not pooled:
            await self._run_long(self._storage.staging.flush)
        await self._run_long(self._storage.backups.flush)

    # Into place

    async def inode(self) -> int:
        """Return that of the staged directory, which it keeps in the server's place."""
        return await self._run(self._storage.staging.inode)

    async def swap(self, inode: int | None) -> None:
        """Put the files into place; an earlier daemon may have done so, with that `inode`.

        Raises `DaemonRestarted` where they are neither staged nor in place: an earlier daemon has
        rolled back the transfer, and ended before it could record that. Raises `Conflict` where
        another node's may be in their place.
        """
        staging = self._storage.staging
        if await self._run(staging.holds):
            await self._free_place()
            await self._run(staging.swap)
        elif not await self._run(staging.is_in_place, inode):
            raise DaemonRestarted
        self._rollback.add(lambda: self._run(staging.undo_swap))

    async def _free_place(self) -> None:
        storage = self._storage
        if storage.volume.pool:
            # It may be another node's by now, and in use.
            await self._run(storage.volume.require_free)
            return
        self._aside = await self._run(storage.staging.set_aside)
        if self._aside is None:
            return
        self._rollback.add(self.restore)
        self._log.warn(
            "{server}: the directory in its place was not a server of this node; it is now "
            "{aside}",
            server=self._server,
            aside=self._aside,
        )

    async def restore(self) -> None:
        """Put back what was in the server's place before."""
        if self._aside is not None:
            await self._run(self._storage.staging.restore, self._aside)

    async def place_backups(self) -> list[Backup]:
        """Put the backups into place. Raises `Conflict` where others are in their places."""
        return await self._run(self._storage.backups.place)

    def finish(self) -> None:
        """Note that the files stay in place."""
        self._storage.staging.finish(self._server)

    async def publish(self) -> None:
        """Finish with the attachments: backups stay in place, the installation log gets there.

        What belongs to the partial copy of a move is removed. The server is here in any case, so
        what fails is only logged.
        """
        storage = self._storage
        for work in (storage.backups.publish, storage.logs.publish, storage.copies.finish):
            try:
                await self._run_long(work)
            except StorageError as error:
                self._log.error(
                    "{server}: attachments not stored: {error}", server=self._server, error=error
                )
            except Exception:
                self._log.failure("{server}: storing its attachments failed", server=self._server)

    # Out of place

    def roll_back_files(self) -> None:
        """On failure, withdraw the files that an earlier daemon has staged."""
        self._rollback.add(lambda: self._run_long(self._storage.staging.withdraw))

    def roll_back_backups(self) -> None:
        """On failure, take back the backups that this daemon or an earlier one puts into place."""
        self._rollback.add(lambda: self._run(self._storage.backups.take_back))

    async def store_away(self, *, pooled: bool, inode: int | None) -> None:
        """Put what is in place into quarantine: whole, and not wanted by the Panel."""
        await self._storage.quarantine.store_away(self._server, pooled=pooled, inode=inode)

    async def vacate(self, *, pooled: bool, inode: int | None) -> None:
        """Put into quarantine what an earlier daemon has put into place.

        It may have been reported to the Panel, and the source have deleted its own.
        """
        if await self._run(self._storage.staging.holds):
            return
        if await self._run(self._storage.staging.is_in_place, inode):
            await self.store_away(pooled=pooled, inode=inode)
