"""The project quota of one server, set in the background."""

from __future__ import annotations

from twisted.internet.defer import DeferredLock

from wingsd.servers.files import BackgroundTasks, ServerDirectories
from wingsd.threadio import Workers

__all__ = ["ServerQuota"]


class ServerQuota:
    """The quota of one server. It is set in the background, one server at a time by the `lock`."""

    def __init__(
        self,
        uuid: str,
        directories: ServerDirectories,
        disk: Workers,
        tasks: BackgroundTasks,
        lock: DeferredLock,
    ) -> None:
        self._uuid = uuid
        self._directory = directories.path(uuid)
        self._quotas = directories.quotas
        self._disk = disk
        self._tasks = tasks
        self._lock = lock
        self._limit: int | None = None
        self._waiting = False

    def request(self, limit: int | None) -> None:
        """Have the directory limited to `limit` bytes, None for no limit."""
        self._limit = limit
        if self._quotas.active and not self._waiting:
            self._waiting = True
            self._tasks.start("setting its project quota", self._apply(), self._uuid)

    async def used(self) -> int:
        """Return the bytes that its blocks take, 0 without quotas. Raises `StorageError`."""
        if not self._quotas.active:
            return 0
        return await self._disk.run(self._quotas.used, self._directory)

    async def _apply(self) -> None:
        try:
            await self._lock.acquire()
        finally:
            self._waiting = False
        try:
            await self._disk.run(self._quotas.apply, self._uuid, self._directory, self._limit)
        finally:
            self._lock.release()
