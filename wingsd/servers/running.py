"""The servers whose programs run, kept across restarts of the daemon and of the machine.

A server that ran when the node ended, and does not run any more when it starts, is started, as
Wings does it: containers do not start by themselves after a restart of the machine. The record is
the one of Wings, so each goes on where the other ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wingsd.errors import EnvironmentFailed, ServerNotFound, WingsdError
from wingsd.events import DELETED, STATUS, Event, EventBus
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.util.retry import Backoff

__all__ = ["RunRecords", "RunningServers", "ServerLookup"]

_RUNS = (PowerState.STARTING.value, PowerState.RUNNING.value)
#: Servers that are started at a time.
CONCURRENT_STARTS = 4
#: Seconds between two questions to an engine that does not answer.
BACKOFF = Backoff(1.0, 60.0, jitter=True)


class RunRecords(Protocol):
    """Where it is recorded which servers run: `wingsd.servers.states_file.StatesFile`."""

    async def load(self) -> Mapping[str, str]:
        """Return the recorded states, by server."""

    def record(self, server: str, state: str | None) -> None:
        """Record the state of a server, None for one that is gone."""

    async def flush(self) -> None:
        """Return when that is done."""


class ServerLookup(Protocol):
    """The servers of this node."""

    def get(self, uuid: str) -> Server:
        """Return a server. Raises `ServerNotFound`."""


class RunningServers:
    """Records by the events on `bus` which servers run."""

    def __init__(self, records: RunRecords, bus: EventBus, reactor: IReactorTime) -> None:
        self._records = records
        self._reactor = reactor
        self._tasks = BackgroundTasks()
        self._slots = DeferredSemaphore(CONCURRENT_STARTS)
        self._stopped = False
        bus.subscribe_to_all(self._note)

    async def load(self) -> Collection[str]:
        """Return which servers ran when the node ended. To be called before any server starts."""
        states = await self._records.load()
        return tuple(server for server, state in states.items() if state in _RUNS)

    def start(self, uuids: Collection[str], servers: ServerLookup) -> None:
        """Start those of `uuids` that do not run, in the background."""
        for uuid in sorted(uuids):
            try:
                server = servers.get(uuid)
            except ServerNotFound:
                self._record(uuid, None)
                continue
            starting = self._start_in_turn(server)
            self._tasks.start("starting it as it was running before", starting, uuid)

    async def stop(self) -> None:
        """Record nothing more: the node ends, and its servers run on."""
        self._stopped = True
        self._tasks.stop()
        await self._records.flush()

    async def _start_in_turn(self, server: Server) -> None:
        await self._slots.run(self._start, server)

    async def _start(self, server: Server) -> None:
        for pause in BACKOFF:
            try:
                await server.adopt()
                break
            except EnvironmentFailed:
                await deferLater(self._reactor, pause)
        if server.state is not PowerState.OFFLINE:
            return
        try:
            server.check_power(PowerAction.START)
        except WingsdError as error:
            server.say(f"The server was running before, and is not started: {error}")
            self._record(server.uuid, PowerState.OFFLINE.value)
            return
        server.say("The server was running when this node ended, and is started again.")
        try:
            await server.power(PowerAction.START)
        except WingsdError:
            return  # It is shown in the console, and logged.

    def _note(self, event: Event) -> None:
        if event.name == STATUS:
            self._record(event.server, event.args[0])
        elif event.name == DELETED:
            self._record(event.server, None)

    def _record(self, uuid: str, state: str | None) -> None:
        if not self._stopped:
            self._records.record(uuid, state)
