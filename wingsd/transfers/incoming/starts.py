"""Starts servers that were running when they were moved here, once the Panel has heard of it.

That one is to be started is in the state database before its success is reported, and until the
start was tried: the next daemon starts it where this one ends before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from wingsd.errors import ServerNotFound
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.running import ServerLookup
from wingsd.servers.server import Server
from wingsd.statedb import MoveRecord, StateDatabase

__all__ = ["ArrivedServers", "Starter"]

#: Where it was running, for the console.
THERE = "at its former node"
#: Seconds for which a start that fails is tried again: a port may be in use by what ends soon, and
#: the engine be busy with other servers that arrive.
REPEAT_FOR = 300.0


class Starter(Protocol):
    """What starts servers: `RunningServers`."""

    async def start_in_turn(
        self,
        server: Server,
        ran: str,
        stop: Callable[[], Awaitable[object]] | None = None,
        repeat_for: float = 0.0,
    ) -> None:
        """Start a server that was running `ran`, after a `stop` if it may be asked to end."""


class ArrivedServers:
    """The servers that have arrived and are to be started."""

    def __init__(self, database: StateDatabase, starter: Starter, servers: ServerLookup) -> None:
        self._database = database
        self._starter = starter
        self._servers = servers
        self._tasks = BackgroundTasks()
        self._left: Sequence[MoveRecord] = ()
        self._stopped = False

    async def load(self) -> None:
        """Load which ones an earlier daemon has left. Raises `StorageError`."""
        self._left = await self._database.arrived_to_start()

    def start_left(self) -> None:
        """Start these, in the background, when the servers are loaded."""
        left, self._left = self._left, ()
        for record in left:
            self._begin(record.transfer, record.server)

    def arrived(self, transfer: int, server: str) -> None:
        """Start a server in the background, if that is recorded: its transfer has succeeded."""
        self._begin(transfer, server)

    def stop(self) -> None:
        """Leave what is not started to the next daemon."""
        self._stopped = True
        self._tasks.stop()

    def _begin(self, transfer: int, server: str) -> None:
        if not self._stopped:
            self._tasks.start("starting it after its move", self._start(transfer, server), server)

    async def _start(self, transfer: int, uuid: str) -> None:
        if not await self._database.starts(transfer):
            return
        try:
            server = self._servers.get(uuid)
        except ServerNotFound:
            pass  # it was deleted meanwhile
        else:
            await self._starter.start_in_turn(server, THERE, repeat_for=REPEAT_FOR)
        await self._database.set_start(transfer, starts=False)
