"""Installation logs of servers: sent with their server, and kept for operators to read.

A received log is staged beside the server's files and put into place when the transfer is over,
which does not fail because of it. Blocking: run it in a thread.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.received import write_file
from wingsd.config import SystemConfig
from wingsd.errors import StorageError
from wingsd.transfers.storage.staging import Staging
from wingsd.util.text import disk_advice

__all__ = ["InstallLogs", "OpenLog"]

#: Bytes of a log that are kept, and sent.
LIMIT = 64 << 20
_PIECE = 240 << 10


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
        """Stage the first `LIMIT` bytes of the server's log; take all of `blocks`."""
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
        """Return the path of the server's log and its bytes, at most `LIMIT`; None without one."""
        log = self.open(server)
        if log is None:
            return None
        try:
            return log.path, min(log.size, LIMIT)
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
        """Where it is."""
        return str(self._path)

    @property
    def size(self) -> int:
        """Its bytes."""
        return os.fstat(self._descriptor).st_size

    def blocks(self) -> Iterator[bytes]:
        """Yield its first `LIMIT` bytes. Raises `StorageError`."""
        left = LIMIT
        try:
            while left and (block := os.read(self._descriptor, min(_PIECE, left))):
                left -= len(block)
                yield block
        except OSError as error:
            raise _unread(self._path, error.strerror) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _unread(path: Path, why: object) -> StorageError:
    return StorageError(f"the server is sent without its installation log {path}: {why}")


def _beginning(blocks: Iterable[bytes]) -> Iterator[bytes]:
    left = LIMIT
    for block in blocks:
        yield block[:left]
        left = max(0, left - len(block))
