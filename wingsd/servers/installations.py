"""The installations of this node: begun, resumed after a restart, cancelled, and reported.

The order at an installation's end: its log is completed, its outcome recorded (first where it was
aborted), its container and its script are removed, and then the record is exchanged for the report
to the Panel. A daemon that dies in between does the rest at its next start; to do a step again
does no harm.

A Panel clears the state "installing" of all servers of a node that reports its restart. So the
restart is reported by `when_idle`: after the installations that are under way have ended, and the
Panel has answered their reports. Until then it shows them as installing.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.callbacks import CallbackQueue
from wingsd.config import CALAGOPUS
from wingsd.docker.runtime import InstallerState
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    InstallationFailed,
    ServerBusy,
    StorageError,
    WingsdError,
)
from wingsd.events import INSTALL_COMPLETED, STATUS
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.installation import (
    BACKOFF,
    Installation,
    InstallDetails,
    InstallOptions,
    InstallParts,
)
from wingsd.servers.operations import Hold, Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.statedb import InstallationRecord, Outcome
from wingsd.util.deferreds import when_fired
from wingsd.util.durable import replace_file, storage_errors
from wingsd.util.serialization import unstructure

__all__ = ["INSTALLING", "Installations"]

#: The record of Calagopus' nodes in `system.root_directory`.
NAME = "installing.json"
#: Bytes of it that are read at most; it has whole scripts.
MOST = 64 << 20


class InstallingFile:
    """The record of Calagopus' nodes: by server, whether it is a reinstallation, and the script.

    An entry that stays would make such a node, when it is back, go on with an installation that
    has ended long ago. Blocking. Source: Calagopus, `server/manager.rs`.
    """

    def __init__(self, root: str) -> None:
        self._path = Path(root) / NAME

    def take(self, uuid: str) -> bool | None:
        """Remove a server's entry; return whether it is of a reinstallation, None without one.

        Raises `StorageError`.
        """
        with storage_errors(self._path):
            try:
                with self._path.open("rb") as file:
                    entries = json.loads(file.read(MOST))
                entry = entries.pop(uuid)
                reinstall = entry[0] is True
            except FileNotFoundError:
                return None
            except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
                return None  # Not what these nodes write, or nothing of this server.
            text = json.dumps(entries, separators=(",", ":"))
            replace_file(self._path, text.encode(), mode=0o644)
        return reinstall


INSTALLING = "the server is being installed"
CLEANING = "removing an installer"
#: Seconds to wait for the Panel's answer before the event by which pages load the server again.
ANSWER_PATIENCE = 10.0
#: Seconds that a request to install a server waits for the Panel's answer to the report of the
#: node's restart; a Panel waits for 15 in all.
RESET_PATIENCE = 10.0


class Installations:
    """All installations under way.

    Wings leaves its installers running when it ends, and has no record of them. The Panel shows
    such a server as installing, and gets the report from the daemon that is there at the end.
    """

    _log = Logger()

    def __init__(self, parts: InstallParts, callbacks: CallbackQueue) -> None:
        self._parts = parts
        self._installing = InstallingFile(parts.config.system.root_directory)
        self._callbacks = callbacks
        self._running: dict[str, Installation] = {}
        self._tasks: dict[str, Deferred[None]] = {}
        self._cleaning = BackgroundTasks()
        self._resetting = DeferredLock()

    @property
    def servers(self) -> list[str]:
        """The UUIDs of the servers that are being installed."""
        return [*self._running]

    async def record(
        self,
        uuid: str,
        options: InstallOptions = InstallOptions(),
        *,
        reinstall: bool = False,
        start: bool = False,
    ) -> InstallationRecord:
        """Record that an installation begins, before it does.

        Raises `StorageError`, and `ServerBusy` while the restart of this node is being reported.
        """
        await self._reset_over()
        return await self._parts.database.begin_installation(
            uuid, reinstall=reinstall, start=start, options=json.dumps(unstructure(options))
        )

    async def recorded(self) -> list[InstallationRecord]:
        """Return the installations that an earlier daemon has not ended."""
        return await self._parts.database.installations()

    async def repeat(
        self, server: Server, options: InstallOptions = InstallOptions(), *, reinstall: bool
    ) -> None:
        """Record that a server of this node is installed again, and do so in the background.

        Raises `ServerBusy`, `StorageError`.
        """
        server.place_hold(Operation.INSTALL, INSTALLING)
        try:
            record = await self.record(server.uuid, options, reinstall=reinstall)
        except BaseException:
            server.operations.release(Operation.INSTALL)
            raise
        if not server.operations.runs(Operation.INSTALL):
            await self.give_up(server.uuid, report=False)
            server.operations.check(Operation.INSTALL)  # It was deleted meanwhile.
        self.begin(server, record)

    def begin(self, server: Server, record: InstallationRecord) -> None:
        """Install a recorded server in the background; it is held until that has ended."""
        server.operations.hold = Hold(Operation.INSTALL, INSTALLING)
        installation = Installation(server, record, self._parts)
        self._running[server.uuid] = installation
        task = self._tasks[server.uuid] = Deferred.fromCoroutine(self._do(installation))
        task.addErrback(self._failed, server.uuid)
        task.addCallback(self._ended, installation)

    def abort(self, uuid: str) -> None:
        """Stop an installation, which then has failed. Raises `Conflict` when there is none."""
        installation = self._running.get(uuid)
        if installation is None:
            raise Conflict("server is not installing")
        installation.cancel(InstallationFailed("The installation was aborted."))

    async def discard(self, uuid: str) -> None:
        """End an installation without a report, since the server is deleted."""
        task = self._tasks.get(uuid)
        if task is not None:
            ended = when_fired(task)
            task.cancel()
            await ended
            await self.give_up(uuid, report=False)

    async def give_up(self, uuid: str, *, report: bool) -> None:
        """Remove what is left of an installation that nothing goes on with.

        With `report`, its failure is reported to the Panel.
        """
        await self._clean(uuid)
        if report:
            await self._callbacks.add_installation(uuid, Outcome.FAILURE, reinstall=False)
            return
        try:
            await self._parts.database.delete_installation(uuid)
        except StorageError as error:
            self._log.error("{server}: {error}", server=uuid, error=error)

    async def log(self, uuid: str, *, output: bool) -> str | None:
        """Return the log of a server's last installation, or the `output` in it only.

        None where there is none. Raises `StorageError`.
        """
        log = self._parts.log(uuid)
        return await self._parts.disk.run(log.output if output else log.read)

    async def remove_log(self, uuid: str) -> None:
        """Remove the log of a deleted server: it has secrets. A failure is logged."""
        try:
            await self._parts.disk.run(self._parts.log(uuid).remove)
        except StorageError as error:
            self._log.warn(
                "{server}: its installation log is not deleted: {error}", server=uuid, error=error
            )

    async def settle_unrecorded(self, find: Callable[[str], Server | None]) -> None:
        """Go on with what another daemon was installing, and remove installers left over.

        `find` returns a server of this node. Where the engine does not answer, this is repeated in
        the background.
        """
        try:
            await self._settle_all(find)
        except EnvironmentFailed as error:
            self._log.warn(
                "installers that are left over are not removed yet: {error}", error=error
            )
            self._cleaning.start(CLEANING, self._settle_later(find))

    async def _settle_later(self, find: Callable[[str], Server | None]) -> None:
        for pause in BACKOFF:
            await deferLater(self._parts.reactor, pause)
            with suppress(EnvironmentFailed):
                await self._settle_all(find)
                return

    async def _settle_all(self, find: Callable[[str], Server | None]) -> None:
        for uuid in await self._parts.containers.installers():
            await self._settle(uuid, find(uuid))

    async def _settle(self, uuid: str, server: Server | None) -> None:
        if uuid in self._tasks:
            return
        try:
            record = None if server is None else await self._record_foreign(uuid)
        except StorageError as error:
            self._log.error(
                "{server}: its installer stays as it is: {error}", server=uuid, error=error
            )
            return
        if uuid in self._tasks:
            return  # It is installed again meanwhile, which removes the old installer.
        if server is not None and record is not None:
            self.begin(server, record)
        else:
            await self._clean(uuid)

    async def _record_foreign(self, uuid: str) -> InstallationRecord | None:
        """Return the record of an installation whose script another daemon has running.

        None where there is no such script. The output of one that has ended is in the log then,
        and its installer is to be removed. Raises `EnvironmentFailed`, `StorageError`.
        """
        state = await self._parts.containers.find_installer(uuid)
        if state is None or not state.is_foreign or not state.has_started:
            return None
        reinstall = await self._is_reinstallation(uuid)
        if state.is_running:
            record = await self._parts.database.begin_installation(
                uuid, reinstall=reinstall, start=False, runs=True
            )
            await self._begin_foreign_log(uuid, state)
            self._log.info("{server}: its installation was begun by another daemon", server=uuid)
            return record
        # With the restart, which is reported to the Panel, the server counts as installed.
        self._log.warn(
            "{server}: its installation was begun by another daemon, and ended with exit code "
            "{status} while no daemon ran; see its output in the installation log",
            server=uuid,
            status=state.exit_status,
        )
        await self._begin_foreign_log(uuid, state)
        await self._parts.containers.copy_output(uuid, self._parts.log(uuid).write)
        return None

    async def _is_reinstallation(self, uuid: str) -> bool:
        """Return whether it is a reinstallation: Wings writes the log at the end of each."""
        disk = self._parts.disk
        noted = await disk.run(self._installing.take, uuid)
        return await disk.run(self._parts.log(uuid).exists) if noted is None else noted

    async def _begin_foreign_log(self, uuid: str, state: InstallerState) -> None:
        details = InstallDetails(uuid, state.image, state.entrypoint, state.environment)
        try:
            await self._parts.disk.run(self._parts.log(uuid).begin, details)
        except StorageError as error:
            self._log.warn("{server}: {error}", server=uuid, error=error)

    async def when_idle(self, reset: Callable[[], Awaitable[None]]) -> None:
        """Report the node's restart when the Panel loses no installation by that.

        None is under way then, the Panel has answered the reports of their ends, and none begins
        before it has answered this one.
        """
        while (waiting := next(self._unreported(), None)) is not None:
            await waiting
        await self._resetting.acquire()
        try:
            await reset()
        finally:
            self._resetting.release()

    async def _reset_over(self) -> None:
        """Return when the node does not report its restart. Raises `ServerBusy` after a while."""
        try:
            await self._resetting.acquire().addTimeout(RESET_PATIENCE, self._parts.reactor)
        except DeferredTimeout:
            raise ServerBusy(
                "this node is reporting its restart to the Panel",
                "an installation can begin when the Panel has answered; try again then",
            ) from None
        self._resetting.release()

    def stop(self) -> None:
        """Stop watching all. Their containers run on, and the next daemon resumes them."""
        for task in tuple(self._tasks.values()):
            task.cancel()
        self._cleaning.stop()

    def _unreported(self) -> Iterator[Deferred[None]]:
        yield from map(when_fired, self._tasks.values())
        yield from (when_fired(report.answer) for report in self._callbacks.before_reset())

    # The end

    async def _do(self, installation: Installation) -> None:
        server, record = installation.server, installation.record
        outcome = await installation.run()
        await self._end(installation, outcome)
        if record.start and outcome is Outcome.SUCCESS:
            starting = Deferred.fromCoroutine(server.power(PowerAction.START))
            starting.addErrback(lambda _: None)  # It is shown in the console.

    def _ended(self, _: None, installation: Installation) -> None:
        uuid = installation.server.uuid
        # `_end` has done so already, unless it broke off: then the next daemon continues it.
        installation.server.operations.release(Operation.INSTALL)
        if self._running.get(uuid) is installation:
            del self._running[uuid], self._tasks[uuid]

    async def _end(self, installation: Installation, outcome: Outcome) -> None:
        server, record = installation.server, installation.record
        if record.outcome is None and installation.was_aborted:
            # That was answered, and an engine may keep the log waiting.
            await self._decide(server.uuid, outcome)
            await self._complete_log(installation)
        elif record.outcome is None:
            await self._complete_log(installation)
            await self._decide(server.uuid, outcome)
        await self._clean(server.uuid)
        report = await self._callbacks.add_installation(
            server.uuid, outcome, reinstall=record.reinstall
        )
        server.operations.release(Operation.INSTALL)
        server.files.measure()
        await report.answered_within(ANSWER_PATIENCE, self._parts.reactor)
        if installation.is_shown:
            server.publish(STATUS, PowerState.OFFLINE.value)
            succeeded = "true" if outcome is Outcome.SUCCESS else "false"
            shows_outcome = self._parts.config.family == CALAGOPUS
            server.publish(INSTALL_COMPLETED, succeeded if shows_outcome else "")

    async def _decide(self, uuid: str, outcome: Outcome) -> None:
        try:
            await self._parts.database.decide_installation(uuid, outcome)
        except StorageError as error:
            self._log.error("{server}: {error}", server=uuid, error=error)

    async def _complete_log(self, installation: Installation) -> None:
        """Write the whole output, and what the node has to say, to the log."""
        if not installation.is_shown:
            return
        uuid = installation.server.uuid
        log = self._parts.log(uuid)
        await self._or_logged(uuid, self._parts.containers.copy_output(uuid, log.write))
        for note in installation.notes:
            await self._or_logged(uuid, self._parts.disk.run(log.note, note))

    async def _or_logged(self, uuid: str, writing: Awaitable[None]) -> None:
        try:
            await writing
        except WingsdError as error:
            self._log.error(
                "{server}: its installation log is not complete: {error}", server=uuid, error=error
            )

    async def _clean(self, uuid: str) -> None:
        """Remove container and script, the container later where the engine does not."""
        try:
            await self._parts.containers.remove_installer(uuid)
        except EnvironmentFailed as error:
            self._log.error(
                "{server}: its installer is not removed yet: {error}", server=uuid, error=error
            )
            self._cleaning.start(CLEANING, self._remove_later(uuid))
        try:
            await self._parts.disk.run(self._parts.scripts.remove, uuid)
        except StorageError as error:
            self._log.error("{server}: {error}", server=uuid, error=error)

    async def _remove_later(self, uuid: str) -> None:
        for pause in BACKOFF:
            await deferLater(self._parts.reactor, pause)
            if uuid in self._tasks:
                return  # Another installation removes it itself.
            try:
                await self._parts.containers.remove_installer(uuid)
            except EnvironmentFailed:
                continue
            return

    def _failed(self, failure: Failure, uuid: str) -> None:
        if not failure.check(CancelledError):
            self._log.failure("{server}: its installation broke off", failure, server=uuid)
