"""The storage of arriving servers: staged files, backups and logs, put into place and taken back.

`ArrivingServer` and `IncomingStorage` do all work on the disk in a thread. Installation logs of
servers are sent with them, and kept for operators to read; their methods are blocking. A log that
was received is staged beside the server's files and put into place when the transfer is over,
which does not fail because of it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.received import ReceivedBackups, write_file
from wingsd.config import SystemConfig
from wingsd.errors import DaemonRestarted, StorageError, StoragePoolConflict
from wingsd.threadio import Workers
from wingsd.transfers.steps import RollbackList
from wingsd.transfers.storage.partial_copies import PartialCopies
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume, is_same_pool
from wingsd.transfers.storage.staging import Staging
from wingsd.util.text import disk_advice

__all__ = [
    "LOG_LIMIT",
    "WRITE_BACK_EVERY",
    "ArrivingServer",
    "IncomingStorage",
    "InstallLogs",
    "OpenLog",
    "WriteBack",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes of an installation log that are kept, and sent.
LOG_LIMIT = 64 << 20
_LOG_PIECE = 240 << 10
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


class InstallLogs:
    """The logs in `install` of `system.log_directory`, where Go nodes keep them.

    Every method raises `StorageError`.
    """

    def __init__(self, log_directory: str, staging: Staging, *, reserve: int) -> None:
        self._directory = Path(log_directory) / "install"
        self._staging = staging
        self._reserve = reserve

    @classmethod
    def configured(cls, system: SystemConfig, staging: Staging) -> InstallLogs:
        """Return a node's."""
        limits = ArchiveLimits.configured(system.transfers)
        return cls(system.log_directory, staging, reserve=limits.reserve)

    def store(self, server: str, blocks: Iterable[bytes]) -> None:
        """Stage the first `LOG_LIMIT` bytes of the server's log; take all of `blocks`."""
        path = self._staging.log(server)
        write_file(path, _beginning(blocks), reserve=self._reserve, durable=False)

    def open(self, server: str) -> OpenLog | None:
        """Return the log of a server of this node, opened; None where there is none."""
        path = self._place(server)
        # Without O_NONBLOCK, opening a FIFO would block.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unread(path, error.strerror) from error
        log = OpenLog(path, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            log.close()
            raise _unread(path, "it is not a file")
        return log

    def measure(self, server: str) -> tuple[str, int] | None:
        """Return the path and the bytes of the server's log, at most `LOG_LIMIT`; or None."""
        log = self.open(server)
        if log is None:
            return None
        try:
            return log.path, min(log.size, LOG_LIMIT)
        finally:
            log.close()

    def publish(self, server: str) -> str | None:
        """Put the staged log into place, over an older one; return its path, None without any."""
        staged = self._staging.log(server)
        if not staged.exists():
            return None
        place = self._place(server)
        # It may be another filesystem, and a reader must not see half a log.
        growing = self._directory / f".{server}.log.part"
        try:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                growing.unlink()
            shutil.copyfile(staged, growing)
            growing.chmod(0o600)
            growing.replace(place)
            staged.unlink()
        except OSError as error:
            why = disk_advice(error)
            raise StorageError(f"the installation log {place} cannot be written: {why}") from error
        return str(place)

    def _place(self, server: str) -> Path:
        return self._directory / f"{server}.log"


class OpenLog:
    """A log that is being read. Close it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def path(self) -> str:
        """Its path."""
        return str(self._path)

    @property
    def size(self) -> int:
        """Its bytes."""
        return os.fstat(self._descriptor).st_size

    def blocks(self) -> Iterator[bytes]:
        """Yield its first `LOG_LIMIT` bytes. Raises `StorageError`."""
        left = LOG_LIMIT
        try:
            while left and (block := os.read(self._descriptor, min(_LOG_PIECE, left))):
                left -= len(block)
                yield block
        except OSError as error:
            raise _unread(self._path, error.strerror) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@attrs.frozen(eq=False, repr=False)
class IncomingStorage:
    """The places where files, backups and logs of arriving servers are staged and put into use."""

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

    # Receiving

    async def create(self) -> str:
        """Return the path of a new, empty directory for the files.

        What is kept of a move of the server is worth nothing from now on.
        """
        await self._run_long(self._storage.copies.forget)
        self._rollback.add(self.withdraw)
        directory = await self._run_long(self._storage.staging.create)
        await self.discard_backups()
        return directory

    async def withdraw(self) -> None:
        """Take the staged files out of use, until they are deleted."""
        await self._run_long(self._storage.staging.withdraw)

    async def discard_files(self) -> None:
        """Delete the files and the log that are staged and withdrawn."""
        await self._run_long(self._storage.staging.discard)

    async def discard_backups(self) -> None:
        """Delete the backups that are staged."""
        await self._run_long(self._storage.backups.discard)

    async def flush(self, *, pooled: bool) -> None:
        """Return when all that is staged is on stable storage; `pooled` files are not staged."""
        if not pooled:
            await self._run_long(self._storage.staging.flush)
        await self._run_long(self._storage.backups.flush)

    # Into place

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


def _unread(path: Path, why: object) -> StorageError:
    return StorageError(f"the server is sent without its installation log {path}: {why}")


def _beginning(blocks: Iterable[bytes]) -> Iterator[bytes]:
    left = LOG_LIMIT
    for block in blocks:
        yield block[:left]
        left = max(0, left - len(block))
