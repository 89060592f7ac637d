"""The project quota of one server, set in the background."""

from __future__ import annotations

from twisted.internet.defer import DeferredLock

from wingsd.servers.files import BackgroundTasks, ServerDirectories
from wingsd.threadio import Workers

__all__ = ["ServerQuota"]


class ServerQuota:
    """The quota of one server.

    The files of one server at a time get a project, by the lock `assigning`. Limits of servers
    that have one do not wait for that.
    """

    def __init__(
        self,
        uuid: str,
        directories: ServerDirectories,
        disk: Workers,
        tasks: BackgroundTasks,
        assigning: DeferredLock,
    ) -> None:
        self._uuid = uuid
        self._directory = directories.path(uuid)
        self._quotas = directories.quotas
        self._disk = disk
        self._tasks = tasks
        self._assigning = assigning
        self._limit: int | None = None
        self._running = False
        self._renewed = False

    def request(self, limit: int | None) -> None:
        """Have the directory limited to `limit` bytes, None for no limit."""
        self._limit, self._renewed = limit, True
        if self._quotas.active and not self._running:
            self._tasks.start("setting its project quota", self._run(), self._uuid)

    async def used(self) -> int:
        """Return the bytes that its blocks take, 0 without quotas. Raises `StorageError`."""
        if not self._quotas.active:
            return 0
        return await self._disk.run(self._quotas.used, self._directory)

    async def _run(self) -> None:
        self._running = True
        try:
            while self._renewed:
                self._renewed = False
                if not await self._apply():
                    await self._assigning.run(
                        self._disk.run, self._quotas.assign, self._uuid, self._directory
                    )
                    await self._apply()
        finally:
            self._running = False

    async def _apply(self) -> bool:
        return await self._disk.run(self._quotas.apply, self._uuid, self._directory, self._limit)
