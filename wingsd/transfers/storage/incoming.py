"""The storage of arriving servers, and their installation logs.

The logs are sent with servers, and kept for operators to read; the methods for them block. A log
that was received is staged beside the server's files and put into place when the transfer is over,
which does not fail because of it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wingsd.backups.received import ReceivedBackups, write_file
from wingsd.errors import StorageError
from wingsd.threadio import Workers
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import PartialCopies, Staging
from wingsd.util.durable import storage_errors

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

    def store(self, server: str, blocks: Iterable[bytes]) -> None:
        """Stage the first `LOG_LIMIT` bytes of the server's log; take all of `blocks`."""
        path = self._staging.log(server)
        write_file(path, _beginning(blocks), reserve=self._reserve, durable=False)

    # One that arrives in pieces

    def part(self, server: str) -> Path:
        """Return where a log is written until it is whole."""
        return self._staging.log_part(server)

    def whole(self, server: str) -> Path | None:
        """Return the file of a log that is staged whole, None where it is not."""
        staged = self._staging.log(server)
        return staged if staged.exists() else None

    def complete(self, server: str, *, sha256: str) -> None:
        """Stage the part of a log, which is whole and has that SHA-256."""
        staged = self._staging.log(server)
        with storage_errors(f"{staged} cannot be written"):
            self.part(server).rename(staged)

    def drop(self, server: str) -> None:
        """Delete what is staged."""
        staged = self._staging.log(server)
        with storage_errors(f"{staged} cannot be removed"):
            for path in (self.part(server), staged):
                path.unlink(missing_ok=True)

    def retain(self, server: str, size: int | None) -> None:
        """Delete what is staged if it has more than `size` bytes; with None in any case."""
        for path in (self.part(server), self._staging.log(server)):
            with storage_errors(f"{path} cannot be removed"):
                if path.exists() and (size is None or path.stat().st_size > size):
                    path.unlink()

    # Those of servers of this node

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
        log = OpenLog(str(path), descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            log.close()
            raise _unread(path, "it is not a file")
        return log

    def measure(self, server: str) -> tuple[str, int] | None:
        """Return the path and the bytes of the server's log, at most `LOG_LIMIT`; or None."""
        log = self.open(server)
        if log is None:
            return None
        with closing(log):
            return log.path, min(log.size, LOG_LIMIT)

    def publish(self, server: str) -> str | None:
        """Put the staged log into place, over an older one; return its path, None without any."""
        staged = self._staging.log(server)
        if not staged.exists():
            return None
        place = self._place(server)
        # It may be another filesystem, and a reader must not see half a log.
        growing = self._directory / f".{server}.log.part"
        with storage_errors(f"the installation log {place} cannot be written"):
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            growing.unlink(missing_ok=True)
            shutil.copyfile(staged, growing)
            growing.chmod(0o600)
            growing.replace(place)
            staged.unlink()
        return str(place)

    def _place(self, server: str) -> Path:
        return self._directory / f"{server}.log"


@attrs.frozen(eq=False, repr=False)
class OpenLog:
    """A log that is being read. Close it."""

    path: str
    _descriptor: int

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
            raise _unread(self.path, error.strerror) from error

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
    write_back: WriteBack


def _unread(path: Path | str, why: object) -> StorageError:
    return StorageError(f"the server is sent without its installation log {path}: {why}")


def _beginning(blocks: Iterable[bytes]) -> Iterator[bytes]:
    left = LOG_LIMIT
    for block in blocks:
        yield block[:left]
        left = max(0, left - len(block))
