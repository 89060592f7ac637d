"""The servers whose programs run, kept across restarts of the daemon and of the machine.

A server that ran when the node ended, and does not run any more when it starts, is started, as
Wings does it: containers do not start by themselves after a restart of the machine. The record is
the one of Wings, so each goes on where the other ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.errors import ServerNotFound, StorageError, WingsdError
from wingsd.events import DELETED, STATUS, STAYS_OFF, Event, EventBus
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.servers.starting import adopt_when_possible, finish_stop, start_when_possible

__all__ = ["SENT", "RunRecords", "RunningServers", "ServerLookup", "StartRecords"]

#: What a server is held for that another node may get.
SENT = (Operation.TRANSFER_OUT, Operation.FOLLOW)
_RUNS = (PowerState.STARTING.value, PowerState.RUNNING.value)
#: Servers that are started at a time.
CONCURRENT_STARTS = 4
#: Seconds that a server may take to stop which was asked to by an earlier daemon, for a restore.
STOP_WITHIN = 120.0
#: When servers ran that are started here, for their consoles.
_ENDED, _RESTORED = "when this node ended", "before its backup was restored"


class RunRecords(Protocol):
    """Where it is recorded which servers run: `wingsd.servers.states_file.StatesFile`."""

    async def load(self) -> Mapping[str, str]:
        """Return the recorded states, by server."""

    def record(self, server: str, state: str | None) -> None:
        """Record the state of a server, None for one that is gone."""

    async def flush(self) -> None:
        """Return when that is done."""


class StartRecords(Protocol):
    """Where it is recorded which servers this node has stopped, to start them again.

    Methods raise `StorageError`.
    """

    def due_starts(self) -> Awaitable[Collection[str]]:
        """Return those that were not started since."""

    def end_start(self, server: str) -> Awaitable[None]:
        """Record that this was tried."""


class ServerLookup(Protocol):
    """The servers of this node."""

    def get(self, uuid: str) -> Server:
        """Return a server. Raises `ServerNotFound`."""


class RunningServers:
    """Records by the events on `bus` which servers run. `due` are those that are to be started."""

    _log = Logger()

    def __init__(
        self, records: RunRecords, due: StartRecords, bus: EventBus, reactor: IReactorTime
    ) -> None:
        self._records = records
        self._due = due
        self._restored: set[str] = set()
        #: Those that are not to be started, as was found since `load`.
        self._off: set[str] = set()
        self._reactor = reactor
        self._tasks = BackgroundTasks()
        self._slots = DeferredSemaphore(CONCURRENT_STARTS)
        self._stopped = False
        bus.subscribe_to_all(self._note)

    async def load(self) -> Collection[str]:
        """Return which servers ran when the node ended, or were about to be started again.

        To be called before any server starts. Raises `StorageError`.
        """
        states = await self._records.load()
        self._restored = {*await self._due.due_starts()}
        return (*self._restored, *(each for each, state in states.items() if state in _RUNS))

    def start(
        self, uuids: Collection[str], servers: ServerLookup, stopped: Collection[str] = ()
    ) -> None:
        """Start those of `uuids` that do not run, in the background.

        Those of them that were `stopped` for a restore may be stopping still. One that an
        unfinished transfer holds is started if it stays.
        """
        self._restored.update(stopped)
        for uuid in sorted({*uuids} - self._off):
            try:
                server = servers.get(uuid)
            except ServerNotFound:
                self._record(uuid, None)
                if uuid in self._restored:
                    self._tasks.start("forgetting its start", self._end_start(uuid), uuid)
                continue
            if server.operations.runs(*SENT):
                leaving = self.leave_to_transfer(server)
                self._tasks.start("recording that its transfer may start it", leaving, uuid)
                continue
            ran = _RESTORED if uuid in self._restored else _ENDED
            stop = partial(server.stop_gently, STOP_WITHIN) if uuid in stopped else None
            starting = self.start_in_turn(server, ran, stop)
            self._tasks.start("starting it as it was running before", starting, uuid)

    async def leave_to_transfer(self, server: Server) -> None:
        """Have a server be started where the transfer ends that holds it.

        It is recorded as one that ran, for the next daemon: until it is seen to run or to be
        stopped, or is gone from this node.
        """
        server.starts_if_it_stays = True
        self._record(server.uuid, PowerState.RUNNING.value)
        await self._records.flush()
        await self._end_start(server.uuid)

    async def stop(self) -> None:
        """Record nothing more: the node ends, and its servers run on."""
        self._stopped = True
        self._tasks.stop()
        await self._records.flush()

    async def start_in_turn(
        self,
        server: Server,
        ran: str,
        stop: Callable[[], Awaitable[object]] | None = None,
        repeat_for: float = 0.0,
    ) -> None:
        """Start a server that does not run and was running `ran`, a time or a place.

        A start that fails is tried again for `repeat_for` seconds.
        Not one that anybody has started or stopped since this node has it. With `stop` an earlier
        daemon may have asked it to end: it is stopped by that if it runs, and started then.
        Returns also when the start has failed; that is shown in the console, and logged.
        """
        if await self._slots.run(self._prepare_start, server, ran, stop):
            # Shown in the console, and logged.
            with suppress(WingsdError):
                await start_when_possible(server, self._reactor, repeat_for, self._slots)
        if server.uuid in self._restored:
            await self._end_start(server.uuid)

    async def _end_start(self, uuid: str) -> None:
        try:
            await self._due.end_start(uuid)
        except StorageError as error:
            self._log.error(
                "{server}: a later daemon would start it again: {error}", server=uuid, error=error
            )

    async def _prepare_start(
        self, server: Server, ran: str, stop: Callable[[], Awaitable[object]] | None
    ) -> bool:
        """Return whether a server is to be started, after what was to end before."""
        if stop is None:
            await adopt_when_possible(server, self._reactor)
        else:
            await finish_stop(server, stop, self._reactor)
        if server.state is not PowerState.OFFLINE or server.power_actions:
            return False
        if server.operations.runs(*SENT):  # since it waits for its turn, or for the engine
            await self.leave_to_transfer(server)
            return False
        try:
            server.check_power(PowerAction.START)
        except WingsdError as error:
            server.say(f"The server was running {ran}, and is not started: {error}")
            self._record(server.uuid, PowerState.OFFLINE.value)
            return False
        server.say(f"The server was running {ran}, and is started again.")
        return True

    def _note(self, event: Event) -> None:
        if event.name == STATUS:
            self._record(event.server, event.args[0])
        elif event.name == STAYS_OFF:
            self._off.add(event.server)
            self._record(event.server, PowerState.OFFLINE.value)
        elif event.name == DELETED:
            self._record(event.server, None)

    def _record(self, uuid: str, state: str | None) -> None:
        if not self._stopped:
            self._records.record(uuid, state)
