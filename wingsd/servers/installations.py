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
import os
import platform
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.callbacks import CallbackQueue
from wingsd.config import CALAGOPUS, Config
from wingsd.docker.container import OWN_LABELS, SCRIPT, installer_environment
from wingsd.docker.runtime import ContainerRuntime, ContainerState
from wingsd.errors import (
    Conflict,
    EnvironmentFailed,
    InstallationFailed,
    ServerBusy,
    StorageError,
    WingsdError,
)
from wingsd.events import INSTALL_COMPLETED, INSTALL_OUTPUT, INSTALL_STARTED, STATUS
from wingsd.filesystem.removal import remove_tree
from wingsd.panel.client import Panel
from wingsd.panel.schemas import InstallScript
from wingsd.servers.console import Run, RunListener, Throttle
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import Hold, Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import Server
from wingsd.statedb import InstallationRecord, Outcome, StateDatabase
from wingsd.threadio import Workers
from wingsd.util.deferreds import failure_logger, when_fired
from wingsd.util.durable import replace_file, storage_errors
from wingsd.util.retry import Backoff
from wingsd.util.serialization import structure, unstructure
from wingsd.util.text import escaped, readable_time

#: The heading in the log above what the script has written; Pelican's Panel shows what follows it.
OUTPUT = "Script Output"
_RULE = "| ------------------------------\n"
#: Bytes of a log that are returned at most.
READ_MOST = 4 << 20


def _write_new(path: Path, mode: int, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def write_script(top: Path, uuid: str, script: bytes) -> str:
    """Make the directory of a server with this script, in place of an older one; return its path.

    It is below `top`, which is `system.tmp_directory`. The engine must see it under the same path.
    It is open to others, since an image's user need not be root. Raises `StorageError`.
    """
    place = top / uuid
    what = f"the installation script cannot be written to {place}"
    with storage_errors(what, "see system.tmp_directory"):
        top.mkdir(mode=0o755, parents=True, exist_ok=True)
        # The usual place is in /tmp, where anybody may have made it first.
        status = top.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()):
            raise StorageError(
                f"{top} is not a directory of this node's: remove it, or name another one "
                "in system.tmp_directory"
            )
        _remove(place)
        place.mkdir()
        place.chmod(0o755)
        _write_new(place / SCRIPT, 0o644, script)
    return str(place)


def remove_script(top: Path, uuid: str) -> None:
    """Remove the directory of a server; a missing one is ignored. Raises `StorageError`."""
    place = top / uuid
    with storage_errors(f"{place} cannot be removed", "delete it"):
        _remove(place)


def _remove(place: Path) -> None:
    if place.is_symlink():
        place.unlink()
    elif os.path.lexists(place):
        remove_tree(str(place))


class InstallLog:
    """The log of a server's last installation, `install/UUID.log` of `system.log_directory`.

    It has the form of the family's nodes. It holds secrets of the egg, so only its owner may read
    it. Methods raise `StorageError`.
    """

    def __init__(self, config: Config, uuid: str) -> None:
        self._directory = Path(config.system.log_directory) / "install"
        self._path = self._directory / f"{uuid}.log"
        self._config = config
        self._uuid = uuid

    def begin(self, image: str, entrypoint: str, environment: Mapping[str, str]) -> None:
        """Replace the log by one that has these details, and no output yet."""
        with self._errors():
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            # Texts of the Panel may have halves of surrogate pairs.
            text = self._details(image, entrypoint, environment)
            _write_new(self._path, 0o600, text.encode(errors="replace"))

    def write(self, output: bytes) -> None:
        """Append output."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._errors():
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            with open(os.open(self._path, flags, 0o600), "ab") as file:
                file.write(output)

    def note(self, text: str) -> None:
        """Append a line of the node."""
        self.write(f"[wingsd] {text}\n".encode(errors="replace"))

    def read(self) -> str | None:
        """Return the last `READ_MOST` bytes of the log, None where there is none."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._errors():
            try:
                descriptor = os.open(self._path, flags)
            except FileNotFoundError:
                return None
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    return None
                file.seek(max(0, status.st_size - READ_MOST))
                return file.read(READ_MOST).decode("utf-8", "replace")

    def exists(self) -> bool:
        """Return whether there is one."""
        return os.path.lexists(self._path)

    def remove(self) -> None:
        """Remove the log, if there is one."""
        with self._errors():
            self._path.unlink(missing_ok=True)

    def output(self) -> str | None:
        """Return what follows the heading "Script Output", None where there is no log."""
        text = self.read()
        if text is None:
            return None
        _, found, output = text.partition(f"| {OUTPUT}\n{_RULE}")
        return output if found else text

    def _details(self, image: str, entrypoint: str, environment: Mapping[str, str]) -> str:
        kernel, heading = "", "Pterodactyl Server Installation Log"
        if self._config.family == CALAGOPUS:
            heading = "Server Installation Log"
        elif self._config.is_pelican:
            kernel = f"  Kernel Version:       {platform.release()}\n"
            heading = "Pelican Server Installation Log"
        variables = "".join(f"  {key}={value}\n" for key, value in environment.items())
        return (
            f"{heading}\n\n"
            f"|\n| Details\n{_RULE}"
            f"  Server UUID:          {self._uuid}\n"
            f"  Container Image:      {image}\n"
            f"  Container Entrypoint: {entrypoint}\n"
            f"{kernel}\n"
            f"|\n| Environment Variables\n{_RULE}"
            f"{variables}\n"
            f"|\n| {OUTPUT}\n{_RULE}"
        )

    def _errors(self) -> AbstractContextManager[None]:
        return storage_errors(f"the installation log {self._path} cannot be used")


#: Seconds that a running server may take to stop before a reinstallation; Wings' figure.
STOP_GRACE = 10.0
#: Seconds between two requests to an engine that does not answer.
BACKOFF = Backoff(1.0, 60.0)
#: Exit codes of a container whose processes were killed from outside: by SIGKILL, by SIGTERM, or
#: at an end of the engine that it could not record.
_KILLED = (137, 143, 255)
STARTING = "Starting installation process, this could take a few minutes..."
COMPLETED = "Installation process completed."
NOT_INSTALLED = (
    "Nothing was installed: Docker is disabled on this node. Put the server's files into place "
    "before it is started."
)
GONE = (
    "its container is gone, which ran when this node ended, so it is not known how far the script "
    "came; install the server again"
)


@attrs.frozen(repr=False)
class InstallOptions:
    """The options of an installation."""

    #: Report success without running the script.
    skip_script: bool = False
    #: Delete the server's files first.
    truncate: bool = False
    #: This script in place of the egg's.
    script: InstallScript | None = None


@attrs.frozen(eq=False, repr=False)
class InstallParts:
    """The collaborators of installations."""

    _log = Logger()

    config: Config
    panel: Panel
    containers: ContainerRuntime
    database: StateDatabase
    disk: Workers
    reactor: IReactorTime

    @property
    def scripts(self) -> Path:
        """The directory of installation scripts, which has one directory for each server."""
        return Path(self.config.system.tmp_directory)

    def log(self, uuid: str) -> InstallLog:
        """Return the log of a server's last installation."""
        return InstallLog(self.config, uuid)

    async def begin_log(
        self, uuid: str, image: str, entrypoint: str, variables: Mapping[str, str]
    ) -> None:
        """Begin the log of an installation. A failure is logged."""
        try:
            await self.disk.run(self.log(uuid).begin, image, entrypoint, variables)
        except StorageError as error:
            self._log.warn("{server}: {error}", server=uuid, error=error)


class Installation(RunListener):
    """The installation of `server`, as recorded; `run` does it. Its output is published."""

    _log = Logger()

    def __init__(
        self,
        server: Server,
        record: InstallationRecord,
        parts: InstallParts,
    ) -> None:
        self.server = server
        self.record = record
        #: Whether browsers have got the event of its beginning, or are to get that of its end.
        self.is_shown = False
        #: What the log is to end with.
        self.notes: list[str] = []
        self._parts = parts
        #: Seconds, 0 for no limit.
        self._limit = parts.config.docker.installer_limits.timeout
        self._run: Run | None = None
        #: Fires at the script's end, with the exit code, and whether memory ran out.
        self._ended: Deferred[tuple[int | None, bool]] = Deferred()
        self._doing: Deferred[Outcome] | None = None
        #: Why it was aborted, if it was.
        self.cancelled: WingsdError | None = None

    @property
    def options(self) -> InstallOptions:
        """The options that were requested with it."""
        return structure(json.loads(self.record.options or "{}"), InstallOptions)

    async def run(self) -> Outcome:
        """Return how it has ended. Raises `CancelledError` when the caller is cancelled."""
        if self.record.outcome is not None:
            return self.record.outcome
        self._doing = Deferred.fromCoroutine(self._attempt())
        try:
            return await self._doing
        except CancelledError:
            if self.cancelled is None:
                self._detach()
                raise
            self._notify(self.cancelled.detail)
        except WingsdError as error:
            self._notify(f"The installation failed: {error.detail or error.message}")
        except Exception:
            self._log.failure("{server}: its installation failed", server=self.server.uuid)
            self._notify("The installation failed unexpectedly; see the node's log.")
        self._detach()
        self.is_shown = True  # Also one that has failed before its beginning was shown.
        return Outcome.FAILURE

    def cancel(self, why: WingsdError) -> None:
        """End it as a failure, for the reason `why`."""
        if self._doing is not None and self.cancelled is None:
            self.cancelled = why
            self._doing.cancel()

    def _detach(self) -> None:
        if self._run is not None:
            self._run.detach()

    def on_line(self, line: str) -> None:
        """Publish a line of output; one of them says how many were left out in a flood."""
        self.server.publish(INSTALL_OUTPUT, line)

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool, of_node: bool) -> None:
        """Note the end of the script."""
        self._ended.callback((status, out_of_memory))

    # The steps

    async def _attempt(self) -> Outcome:
        ran = self.record.ran
        if ran is not None:
            self.is_shown = True
            state = await self._find()
            if state is None:
                raise InstallationFailed(GONE)
            if state.started is not None:
                return await self._resume(state, ran)
        # Its script has not run yet: it begins, or begins again.
        return await self._begin()

    async def _find(self) -> ContainerState | None:
        """Return the state of the installer as soon as the engine answers.

        An engine that is started, or upgraded, at the same time as this node may have the script
        running all the while.
        """
        pauses = iter(BACKOFF)
        while True:
            try:
                return await self._parts.containers.find_installer(self.server.uuid)
            except EnvironmentFailed as error:
                pause = next(pauses)
                self._log.warn(
                    "{server}: not known yet how far its installation is: {error}; asking again "
                    "in {pause:g} s",
                    server=self.server.uuid,
                    error=error,
                    pause=pause,
                )
            await deferLater(self._parts.reactor, pause)

    async def _begin(self) -> Outcome:
        server = self.server
        if self.record.reinstall:
            await server.stop_within(STOP_GRACE)
            await server.fetch()
        await server.files.make()
        options = self.options
        if options.skip_script or server.configuration.settings.skip_egg_scripts:
            return Outcome.SUCCESS
        if not self._parts.containers.enabled:
            server.say(NOT_INSTALLED, keep=True)
            return Outcome.SUCCESS
        self.is_shown = True
        server.publish(INSTALL_STARTED, "")
        script = options.script or await self._parts.panel.install_script(server.uuid)
        if options.truncate:
            await server.files.empty()
        directory = await self._write(script)
        settings = server.configuration.settings
        await self._parts.containers.create_installer(
            settings, script, directory, server.show_pull
        )
        await self._parts.database.run_installation(server.uuid)
        run = self._watch()
        server.say(STARTING)
        run.running = await self._parts.containers.start_installer(server.uuid, run)
        return await self._await_end(run, self._limit)

    async def _write(self, script: InstallScript) -> str:
        """Write the script and the beginning of the log; return the script's directory."""
        settings = self.server.configuration.settings
        variables = installer_environment(self._parts.config, settings, script)
        parts, uuid = self._parts, self.server.uuid
        await parts.begin_log(uuid, script.container_image, script.entrypoint, variables)
        if "\0" in script.script:
            raise InstallationFailed(
                "the egg's installation script has a NUL character; correct it on the Panel"
            )
        try:
            text = script.script.replace("\r\n", "\n").encode()
        except UnicodeEncodeError as error:
            raise InstallationFailed(
                "the egg's installation script has half of a surrogate pair, which is no "
                "character; correct it on the Panel"
            ) from error
        return await self._parts.disk.run(
            write_script, self._parts.scripts, self.server.uuid, text
        )

    async def _resume(self, state: ContainerState, ran: float) -> Outcome:
        """Go on with an installer that an earlier daemon has started."""
        server, containers = self.server, self._parts.containers
        if state.running:
            self._log.info("{server}: its installation goes on", server=server.uuid)
            run = self._watch()
            run.running = await containers.adopt_installer(server.uuid, run)
            if run.running is not None:
                age = max(self._parts.database.seconds_since(ran), 0.0)
                limit = self._limit and max(self._limit - age, 1.0)
                return await self._await_end(run, limit)
            found = await containers.find_installer(server.uuid)
            if found is None:
                raise InstallationFailed(GONE)
            state = found
        return self._conclude(state.exit_status, out_of_memory=state.out_of_memory, unseen=True)

    def _watch(self) -> Run:
        throttle = Throttle(self._parts.config.throttles)
        run = self._run = Run(self, self._parts.reactor, throttle)
        return run

    async def _await_end(self, run: Run, limit: float) -> Outcome:
        if limit:
            self._ended.addTimeout(limit, self._parts.reactor)
        try:
            status, out_of_memory = await self._ended
        except DeferredTimeout:
            raise InstallationFailed(
                f"the script has not ended within {readable_time(self._limit)} and was "
                "stopped; see docker.installer_limits.timeout"
            ) from None
        unseen = run.running is not None and run.running.was_lost
        return self._conclude(status, out_of_memory=out_of_memory, unseen=unseen)

    def _conclude(self, status: int | None, *, out_of_memory: bool, unseen: bool) -> Outcome:
        """Decide by the exit code. `unseen`: the engine, or this node, was away in between."""
        if status is None:
            raise InstallationFailed("its container was removed while the script ran")
        if unseen and status in _KILLED:
            raise InstallationFailed(
                f"the script was killed, exit code {status}: the engine or the machine was "
                "stopped while it ran; install the server again"
            )
        if status:
            memory = ", since memory ran out" if out_of_memory else ""
            # Eggs rely on it: a script's last command may be a test that fails.
            self._notify(
                f"The installation script ended with exit code {status}{memory}. The server is "
                "installed nevertheless; see its output if something is missing."
            )
        self.server.say(COMPLETED)
        return Outcome.SUCCESS

    # What users see

    def _notify(self, text: str) -> None:
        """Show a text to users, and write it to the log."""
        self.notes.append(text)
        self.server.publish(INSTALL_OUTPUT, escaped(text))
        self.server.say(text, keep=True)


#: The record of Calagopus' nodes in `system.root_directory`.
NAME = "installing.json"
#: Bytes of it that are read at most; it has whole scripts.
MOST = 64 << 20


def take_installing(root: str, uuid: str) -> bool | None:
    """Take a server's entry out of the record of a Calagopus node's installations.

    Return whether it is a reinstallation, None without an entry. An entry that stays would make
    such a node, if it is used again, go on with an installation that has ended long ago. Blocking.
    Raises `StorageError`.

    Source: Calagopus, `server/manager.rs`: by server, that and the script.
    """
    path = Path(root) / NAME
    with storage_errors(path):
        try:
            with path.open("rb") as file:
                entries = json.loads(file.read(MOST))
            entry = entries.pop(uuid)
            reinstall = entry[0] is True
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
            return None  # Not what these nodes write, or nothing of this server.
        text = json.dumps(entries, separators=(",", ":"))
        replace_file(path, text.encode(), mode=0o644)
    return reinstall


INSTALLING = "the server is being installed"
CLEANING = "removing an installer"
_INCOMPLETE = "{server}: its installation log is not complete: {error}"
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
        # While the node reports its restart, none begins.
        try:
            await self._resetting.acquire().addTimeout(RESET_PATIENCE, self._parts.reactor)
        except DeferredTimeout:
            raise ServerBusy(
                "this node is reporting its restart to the Panel",
                "an installation can begin when the Panel has answered; try again then",
            ) from None
        self._resetting.release()
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
        broken_off = "{server}: its installation broke off"
        task.addErrback(failure_logger(self._log, broken_off, server=server.uuid))
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
        await self._or_logged(uuid, self._parts.database.delete_installation(uuid))

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
            self._clean_later(partial(self._settle_all, find))

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
                "{server}: its installation was not resumed: {error}", server=uuid, error=error
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
        if state is None or OWN_LABELS.items() <= state.labels.items() or state.started is None:
            return None
        disk, log = self._parts.disk, self._parts.log(uuid)
        reinstall = await disk.run(take_installing, self._parts.config.system.root_directory, uuid)
        if reinstall is None:  # Wings writes the log at the end of each.
            reinstall = await disk.run(log.exists)
        if state.running:
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
        await self._parts.containers.copy_output(uuid, log.write)
        return None

    async def _begin_foreign_log(self, uuid: str, state: ContainerState) -> None:
        variables = dict(each.partition("=")[::2] for each in state.environment)
        entrypoint = next(iter(state.command), "")
        await self._parts.begin_log(uuid, state.image, entrypoint, variables)

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

    def stop(self) -> None:
        """Stop watching all. Their containers run on, and the next start resumes them."""
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
            starting.addErrback(self._not_started, server)

    def _not_started(self, _: Failure, server: Server) -> None:
        # It is shown in the console.
        if not server.operations.runs(Operation.TRANSFER_OUT, Operation.FOLLOW):
            server.starts_if_it_stays = False

    def _ended(self, _: None, installation: Installation) -> None:
        uuid = installation.server.uuid
        # `_end` has done so already, unless it broke off: then the next start continues it.
        installation.server.operations.release(Operation.INSTALL)
        if self._running.get(uuid) is installation:
            del self._running[uuid], self._tasks[uuid]

    async def _end(self, installation: Installation, outcome: Outcome) -> None:
        server, record = installation.server, installation.record
        if record.outcome is None and installation.cancelled is not None:
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
        if record.start and outcome is Outcome.SUCCESS:
            # A transfer may take it before it is started here, and starts it where it ends.
            server.starts_if_it_stays = True
        server.operations.release(Operation.INSTALL)
        server.files.measure()
        await report.answered_within(ANSWER_PATIENCE, self._parts.reactor)
        if installation.is_shown:
            server.publish(STATUS, PowerState.OFFLINE.value)
            succeeded = "true" if outcome is Outcome.SUCCESS else "false"
            shows_outcome = self._parts.config.family == CALAGOPUS
            server.publish(INSTALL_COMPLETED, succeeded if shows_outcome else "")

    async def _decide(self, uuid: str, outcome: Outcome) -> None:
        await self._or_logged(uuid, self._parts.database.decide_installation(uuid, outcome))

    async def _complete_log(self, installation: Installation) -> None:
        """Write the whole output, and what the node has to say, to the log."""
        if not installation.is_shown:
            return
        uuid = installation.server.uuid
        log = self._parts.log(uuid)
        copying = self._parts.containers.copy_output(uuid, log.write)
        await self._or_logged(uuid, copying, _INCOMPLETE)
        for note in installation.notes:
            await self._or_logged(uuid, self._parts.disk.run(log.note, note), _INCOMPLETE)

    async def _or_logged(
        self, uuid: str, work: Awaitable[object], trouble: str = "{server}: {error}"
    ) -> None:
        try:
            await work
        except WingsdError as error:
            self._log.error(trouble, server=uuid, error=error)

    async def _clean(self, uuid: str) -> None:
        """Remove container and script, the container later where the engine does not."""
        try:
            await self._parts.containers.remove_installer(uuid)
        except EnvironmentFailed as error:
            self._log.error(
                "{server}: its installer is not removed yet: {error}", server=uuid, error=error
            )
            self._clean_later(partial(self._remove_installer, uuid))
        await self._or_logged(uuid, self._parts.disk.run(remove_script, self._parts.scripts, uuid))

    async def _remove_installer(self, uuid: str) -> None:
        if uuid not in self._tasks:  # Another installation removes it itself.
            await self._parts.containers.remove_installer(uuid)

    def _clean_later(self, work: Callable[[], Awaitable[None]]) -> None:
        self._cleaning.start(CLEANING, self._repeat(work))

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        for pause in BACKOFF:
            await deferLater(self._parts.reactor, pause)
            with suppress(EnvironmentFailed):
                await work()
                return
