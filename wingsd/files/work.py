"""Work on the files of servers in threads: how much of it runs at a time, and for whom.

Short work, such as a listing, and long work, such as a search, have threads of their own, so that
neither waits for the other, nor for transfers. One server has a part of them at most: its users
wait for each other, and not those of other servers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred

from wingsd.errors import FilesBusy
from wingsd.files.denylist import Denylist, Denylists
from wingsd.filesystem import ServerRoot
from wingsd.servers.server import Server
from wingsd.threadio import Workers

__all__ = ["FileWork", "Lane"]

T = TypeVar("T")


class Lane:
    """Threads for one kind of work. At most `each` works of a server run at a time.

    At most `waiting` others wait, of one server a quarter of that.
    """

    def __init__(self, workers: Workers, *, each: int, waiting: int) -> None:
        self.workers = workers
        self._each = each
        self._waiting = waiting
        self._running: Counter[str] = Counter()
        self._queue: list[tuple[str, Deferred[None]]] = []

    @asynccontextmanager
    async def turn(self, server: str) -> AsyncIterator[None]:
        """Wait for a turn of a server. Raises `FilesBusy`."""
        if self._running[server] >= self._each:
            await self._wait(server)
        else:
            self._running[server] += 1
        try:
            yield
        finally:
            self._release(server)

    async def _wait(self, server: str) -> None:
        own = sum(1 for name, _ in self._queue if name == server)
        if own >= self._waiting // 4 or len(self._queue) >= self._waiting:
            raise FilesBusy
        entry = (server, Deferred[None]())
        self._queue.append(entry)
        try:
            await entry[1]
        except CancelledError:
            if entry in self._queue:
                self._queue.remove(entry)
            raise

    def _release(self, server: str) -> None:
        for entry in self._queue:
            if entry[0] == server:
                # It takes over the turn.
                self._queue.remove(entry)
                entry[1].callback(None)
                return
        self._running[server] -= 1
        if not self._running[server]:
            del self._running[server]


class FileWork:
    """Runs work on the files of servers, `short` and `long`; `reads` reads blocks of downloads.

    `large` is for listings of directories that take much memory.
    """

    def __init__(self, short: Lane, long: Lane, large: Lane, reads: Workers) -> None:
        self.short = short
        self.long = long
        self.large = large
        self.reads = reads
        self._denylists = Denylists()

    def denylist(self, server: Server) -> Denylist:
        """Return the denylist of a server's egg."""
        egg = server.configuration.settings.egg
        return self._denylists.get(server, egg.file_denylist)

    async def run(
        self,
        lane: Lane,
        server: Server,
        work: Callable[[ServerRoot], T],
        *,
        writes: bool = False,
    ) -> T:
        """Call `work` with the open directory of a server in a thread; return its result.

        Raises what `work` raises, `FilesBusy`, and StorageError.
        """
        async with lane.turn(server.uuid):
            return await server.files.run(work, writes=writes, workers=lane.workers)
