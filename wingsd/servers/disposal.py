"""Getting rid of deleted servers' files, in the background and one server at a time."""

from __future__ import annotations

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from wingsd.bridge import Workers
from wingsd.errors import StorageError
from wingsd.servers.directories import Directories
from wingsd.servers.tasks import Tasks

__all__ = ["Disposal"]


class Disposal:
    """Deletes what was set apart. The disk has other things to do: never two at once."""

    _log = Logger()

    def __init__(self, disk: Workers, directories: Directories, tasks: Tasks) -> None:
        self._disk = disk
        self._directories = directories
        self._tasks = tasks
        self._turn = DeferredLock()

    async def dispose(self, uuid: str) -> None:
        """Return when the server's place is free; its files go later. A failure is logged."""
        try:
            apart = await self._disk.run(self._directories.set_apart, uuid)
        except StorageError as error:
            self._log.error("{server}: its files stay: {error}", server=uuid, error=error)
            return
        if apart is not None:
            self._tasks.start("deleting its files", self._dispose(uuid, apart), uuid)

    async def _dispose(self, uuid: str, apart: str) -> None:
        if await self._delete(apart):
            self._log.info("{server}: its files are deleted", server=uuid)

    async def finish(self) -> None:
        """Delete what a node that ended too early left."""
        for apart in await self._disk.run(self._directories.unfinished):
            self._log.info("finishing the deletion of {directory}", directory=apart)
            await self._delete(apart)

    async def _delete(self, apart: str) -> bool:
        try:
            await self._turn.run(self._disk.run, self._directories.delete, apart)
        except StorageError as error:
            self._log.error("deleting files failed: {error}", error=error)
            return False
        return True
