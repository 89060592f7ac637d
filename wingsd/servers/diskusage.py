"""How much disk the servers use, measured in the background: one server at a time on the node."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import DeferredLock

from wingsd.archive import measure
from wingsd.bridge import Workers
from wingsd.servers.tasks import Tasks

__all__ = ["DiskUsage"]


class DiskUsage:
    """Measures directories. Who asks again before it is his turn is measured once."""

    def __init__(
        self, disk: Workers, tasks: Tasks, measurer: Callable[[str], int] = measure
    ) -> None:
        self._disk = disk
        self._tasks = tasks
        self._measure = measurer
        self._turn = DeferredLock()
        self._waiting: set[str] = set()

    def ask(self, uuid: str, directory: str, tell: Callable[[int], None]) -> None:
        """Have the server's directory measured, and `tell` called with its bytes."""
        if uuid not in self._waiting:
            self._waiting.add(uuid)
            self._tasks.start("measuring its disk usage", self._run(uuid, directory, tell), uuid)

    def forget(self, uuid: str) -> None:
        """Do not measure a server whose turn has not come yet."""
        self._waiting.discard(uuid)

    async def _run(self, uuid: str, directory: str, tell: Callable[[int], None]) -> None:
        try:
            await self._turn.acquire()
            try:
                if uuid in self._waiting:
                    tell(await self._disk.run(self._measure, directory))
            finally:
                self._turn.release()
        finally:
            self._waiting.discard(uuid)
