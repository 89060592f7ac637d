"""The servers whose programs run, kept across restarts of the daemon and of the machine.

A server that ran when the node ended, and does not run any more when it starts, is started, as
Wings does it: containers do not start by themselves after a restart of the machine. The record is
the one of Wings, so each goes on where the other ended.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from math import ceil
from pathlib import Path

from twisted.internet.defer import DeferredLock, DeferredSemaphore, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import (
    EnvironmentFailed,
    PanelUnreachable,
    ServerNotFound,
    StorageError,
    WingsdError,
)
from wingsd.events import DELETED, STATUS, STAYS_OFF, Event, EventBus
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.registry import BACKOFF, Servers
from wingsd.servers.server import Server
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers
from wingsd.util.durable import replace_file, storage_errors

#: Its name in `system.root_directory`.
STATES_FILE = "states.json"
#: Bytes of a file that are read at most: those of 100,000 servers.
STATES_MOST = 8 << 20


def parse_states(data: bytes) -> dict[str, str]:
    """Return the states in the content of a file; Wings makes an empty one before its first.

    Raises `ValueError`.
    """
    if not data.strip():
        return {}
    states = json.loads(data)
    if not isinstance(states, dict) or not all(isinstance(one, str) for one in states.values()):
        raise ValueError("expected an object with texts")
    return states


class StatesFile:
    """The states of this node's servers on the disk: `states.json`, which Wings keeps as well.

    It says which servers ran, for a start after the machine's. The daemons of all families read it
    at their start and write it while they run, Wings once a minute, so it tells whichever daemon
    is started next. Its content is one JSON object: a state by server, in the words of
    `PowerState`. It is in the directory `root`, and `disk` are the threads that read and write it.

    Changes are written one after another, those that come meanwhile together. A file that is
    right already is not touched.

    Source: Wings, `server/manager.go`; Calagopus, `server/manager.rs`, which takes no keys but
    UUIDs.
    """

    _log = Logger()

    def __init__(self, root: str, disk: Workers) -> None:
        self._path = Path(root) / STATES_FILE
        self._disk = disk
        self._states: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._writing = DeferredLock()

    async def load(self) -> Mapping[str, str]:
        """Return the states in the file, by server. One that cannot be read is logged."""
        try:
            data = await self._disk.run(self._read)
            self._states = parse_states(data)
        except (StorageError, ValueError, RecursionError) as error:
            self._log.warn(
                "{path} cannot be used, so no server counts as running before: {error}",
                path=str(self._path),
                error=error.detail if isinstance(error, StorageError) else error,
            )
        self._written = dict(self._states)
        return dict(self._states)

    def record(self, server: str, state: str | None) -> None:
        """Write the state of a server, None for one that is gone, in the background."""
        if state is None:
            self._states.pop(server, None)
        else:
            self._states[server] = state
        if not self._writing.locked and self._states != self._written:
            writing = self._writing.run(self._write_all)
            writing.addErrback(lambda failure: self._log.failure("states not written", failure))

    async def flush(self) -> None:
        """Return when all changes are written, or could not be."""
        await self._writing.run(lambda: None)

    async def _write_all(self) -> None:
        try:
            while self._states != self._written:
                states = dict(self._states)
                await self._disk.run(self._write, states)
                self._written = states
        except StorageError as error:
            self._log.error(
                "not recorded which servers run, for a restart of the machine: {error}",
                error=error.detail,
            )

    def _read(self) -> bytes:
        with storage_errors(self._path):
            try:
                with self._path.open("rb") as file:
                    return file.read(STATES_MOST)
            except FileNotFoundError:
                return b""

    def _write(self, states: Mapping[str, str]) -> None:
        # As Go writes it.
        text = json.dumps(states, sort_keys=True, separators=(",", ":"))
        with storage_errors(self._path):
            replace_file(self._path, text.encode(), mode=0o644)


_log = Logger()

#: The end of an automatic start that has failed.
_STAYS_OFF = (
    "The server stays offline, and is not started by itself any more. See why the start failed: "
    "free its port or give it another one in the Panel, or correct its image; then start it."
)


async def adopt_when_possible(
    server: Server, clock: IReactorTime, *, only_silent: bool = False
) -> None:
    """Watch a server's program if it runs already; ask an engine again that fails.

    With `only_silent`, only one that does not answer: raises `EnvironmentFailed` where the answer
    is that this cannot be done.
    """
    for pause in BACKOFF:
        try:
            await server.adopt()
        except EnvironmentFailed as error:
            if only_silent and not error.is_silent:
                raise
            await deferLater(clock, pause)
        else:
            return


async def finish_stop(
    server: Server,
    stop: Callable[[], Awaitable[object]],
    clock: IReactorTime,
    actions: int = 0,
) -> None:
    """Stop a server by `stop` that was requested to end before; a failure is logged.

    Not one that somebody has started or stopped since, when it had that many `power_actions`.
    """
    for pause in BACKOFF:
        await adopt_when_possible(server, clock)
        if server.state is PowerState.OFFLINE or server.power_actions != actions:
            return
        try:
            await stop()
        except EnvironmentFailed as error:
            if not error.is_silent:
                _log.warn(
                    "{server}: its stop was not finished: {error}", server=server.uuid, error=error
                )
                return
            await deferLater(clock, pause)
        else:
            return


def _is_repeated(server: Server, repeat_for: float, left: float) -> bool:
    """Return whether a start that has failed is tried again, and say so."""
    if not repeat_for:
        return False
    if left <= 0:
        server.say(_STAYS_OFF)
        return False
    server.say(f"The start is tried again, for up to {ceil(left / 60)} min.")
    return True


async def start_when_possible(
    server: Server,
    clock: IReactorTime,
    repeat_for: float = 0.0,
    slots: DeferredSemaphore | None = None,
) -> None:
    """Start a server; wait for an engine, or a Panel, that does not answer.

    What else fails is tried again for `repeat_for` seconds, unless it fails for good, and said in
    the console with what a person can do. Each attempt holds one of the `slots`.

    Raises as `Server.power`. Returns without a start when somebody starts or stops it meanwhile,
    or it was started although the engine has not answered.
    """
    run = maybeDeferred if slots is None else slots.run
    began, actions = clock.seconds(), server.power_actions
    server.starts_if_it_stays = slots is not None  # where a transfer takes it before its turn

    async def start() -> None:
        if server.power_actions == actions:
            await server.power(PowerAction.START)

    for pause in BACKOFF:
        try:
            await run(start)
        except (EnvironmentFailed, PanelUnreachable) as error:
            is_silent = isinstance(error, PanelUnreachable) or error.is_silent
            left = 0.0 if error.is_final else began + repeat_for - clock.seconds()
            if not is_silent and not _is_repeated(server, repeat_for, left):
                raise
            actions = server.power_actions
            server.starts_if_it_stays = True  # where a transfer takes it meanwhile
            await deferLater(clock, pause)
            await adopt_when_possible(server, clock)
            if server.power_actions != actions or server.state is not PowerState.OFFLINE:
                server.starts_if_it_stays = False
                return
        else:
            return


#: What a server is held for that another node may get.
SENT = (Operation.TRANSFER_OUT, Operation.FOLLOW)
_RUNS = (PowerState.STARTING.value, PowerState.RUNNING.value)
#: Servers that are started at a time.
CONCURRENT_STARTS = 4
#: Seconds that a server may take to stop requested before the daemon's restart, for a restore.
STOP_WITHIN = 120.0
#: When servers ran that are started here, for their consoles.
_ENDED, _RESTORED = "when this node ended", "before its backup was restored"


class RunningServers:
    """Records, from the events on `bus`, which servers run.

    `due` has those that this node has stopped, to start them again.
    """

    _log = Logger()

    def __init__(
        self, records: StatesFile, due: StateDatabase, bus: EventBus, reactor: IReactorTime
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
        self, uuids: Collection[str], servers: Servers, stopped: Collection[str] = ()
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
                    self._tasks.start(
                        "removing the record of its start", self._end_start(uuid), uuid
                    )
                continue
            if server.operations.runs(*SENT):
                leaving = self.leave_to_transfer(server)
                self._tasks.start("recording that its transfer may start it", leaving, uuid)
                continue
            ran = _RESTORED if uuid in self._restored else _ENDED
            stop = None
            if uuid in stopped:
                stop = partial(server.stop_within, STOP_WITHIN, kills=False)
            starting = self.start_in_turn(server, ran, stop)
            self._tasks.start("starting it as it was running before", starting, uuid)

    async def leave_to_transfer(self, server: Server) -> None:
        """Leave the start of a server to the transfer that holds it, where that ends.

        It is recorded as one that ran, for the next start of the daemon: until it is seen to run
        or to be stopped, or is gone from this node.
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
                "{server}: its start could not be recorded, and is repeated after a restart of "
                "wingsd: {error}",
                server=uuid,
                error=error,
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
