"""One installation: an egg's script, run in a server's directory, and its log.

What the node does is in the state database before it is done, so that the next daemon goes on: see
`wingsd.servers.installations`, which also removes what is left, and reports the end.
"""

from __future__ import annotations

import json
import os
import platform
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.config import CALAGOPUS, Config
from wingsd.docker.container import SCRIPT, installer_environment
from wingsd.docker.runtime import ContainerRuntime, InstallerState
from wingsd.errors import EnvironmentFailed, InstallationFailed, StorageError, WingsdError
from wingsd.events import INSTALL_OUTPUT, INSTALL_STARTED
from wingsd.filesystem import remove_tree
from wingsd.panel.client import Panel
from wingsd.panel.schemas import InstallScript
from wingsd.servers.console import Throttle
from wingsd.servers.run import Run, RunListener
from wingsd.servers.server import Server
from wingsd.statedb import InstallationRecord, Outcome, StateDatabase
from wingsd.threadio import Workers
from wingsd.util.retry import Backoff
from wingsd.util.serialization import structure
from wingsd.util.text import disk_advice, escaped, readable_time

__all__ = [
    "BACKOFF",
    "InstallDetails",
    "InstallLog",
    "InstallOptions",
    "InstallParts",
    "Installation",
    "ScriptDirectories",
]

#: The heading in the log above what the script has written; Pelican's Panel shows what follows it.
OUTPUT = "Script Output"
_RULE = "| ------------------------------\n"
#: Bytes of a log that are returned at most.
MOST = 4 << 20


class ScriptDirectories:
    """The directories below `system.tmp_directory` that containers get their scripts from.

    Each is made for one installation. The engine must see it under the same path. It is open to
    others, since an image's user need not be root. Methods raise `StorageError`.
    """

    def __init__(self, top: str) -> None:
        self._top = Path(top)

    def write(self, uuid: str, script: bytes) -> str:
        """Make the directory of a server with this script, in place of an older one."""
        place = self._top / uuid
        try:
            self._top.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._check_top()
            self._remove(place)
            place.mkdir()
            place.chmod(0o755)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(place / SCRIPT, flags, 0o644), "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(script)
        except OSError as error:
            raise StorageError(
                f"the installation script cannot be written to {place}: {disk_advice(error)}; "
                "see system.tmp_directory"
            ) from error
        return str(place)

    def remove(self, uuid: str) -> None:
        """Remove the directory of a server; a missing one is ignored."""
        place = self._top / uuid
        try:
            self._remove(place)
        except OSError as error:
            raise StorageError(
                f"{place} cannot be removed: {disk_advice(error)}; delete it"
            ) from error

    def _remove(self, place: Path) -> None:
        if place.is_symlink():
            place.unlink()
        elif os.path.lexists(place):
            remove_tree(str(place))

    def _check_top(self) -> None:
        # The usual place is in /tmp, where anybody may have made it first.
        status = self._top.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()):
            raise StorageError(
                f"{self._top} is not a directory of this node's: remove it, or name another one "
                "in system.tmp_directory"
            )


@attrs.frozen(eq=False, repr=False)
class InstallDetails:
    """The details at the beginning of an installation's log."""

    uuid: str
    image: str
    entrypoint: str
    environment: Mapping[str, str]


class InstallLog:
    """The log of a server's last installation, `install/UUID.log` of `system.log_directory`.

    It has the form of the family's nodes. It holds secrets of the egg, so only its owner may read
    it. Methods raise `StorageError`.
    """

    def __init__(self, config: Config, uuid: str) -> None:
        self._directory = Path(config.system.log_directory) / "install"
        self._path = self._directory / f"{uuid}.log"
        self._config = config

    def begin(self, details: InstallDetails) -> None:
        """Replace the log by one that has these details, and no output yet."""
        with self._errors():
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(self._path, flags, 0o600), "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                # Texts of the Panel may have halves of surrogate pairs.
                file.write(self._details(details).encode(errors="replace"))

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
        """Return the last `MOST` bytes of the log, None where there is none."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._path, flags)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(error) from error
        with self._errors(), open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            file.seek(max(0, status.st_size - MOST))
            return file.read(MOST).decode("utf-8", "replace")

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

    def _details(self, details: InstallDetails) -> str:
        kernel, heading = "", "Pterodactyl Server Installation Log"
        if self._config.family == CALAGOPUS:
            heading = "Server Installation Log"
        elif self._config.is_pelican:
            kernel = f"  Kernel Version:       {platform.release()}\n"
            heading = "Pelican Server Installation Log"
        variables = "".join(f"  {key}={value}\n" for key, value in details.environment.items())
        return (
            f"{heading}\n\n"
            f"|\n| Details\n{_RULE}"
            f"  Server UUID:          {details.uuid}\n"
            f"  Container Image:      {details.image}\n"
            f"  Container Entrypoint: {details.entrypoint}\n"
            f"{kernel}\n"
            f"|\n| Environment Variables\n{_RULE}"
            f"{variables}\n"
            f"|\n| {OUTPUT}\n{_RULE}"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(
            f"the installation log {self._path} cannot be used: {disk_advice(error)}"
        )


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

    config: Config
    panel: Panel
    containers: ContainerRuntime
    database: StateDatabase
    disk: Workers
    reactor: IReactorTime

    @property
    def scripts(self) -> ScriptDirectories:
        """The directories of scripts."""
        return ScriptDirectories(self.config.system.tmp_directory)

    def log(self, uuid: str) -> InstallLog:
        """Return the log of a server's last installation."""
        return InstallLog(self.config, uuid)


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
        self._cancelled: WingsdError | None = None

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
            if self._cancelled is None:
                self._detach()
                raise
            self._notify(self._cancelled.detail)
        except WingsdError as error:
            self._notify(f"The installation failed: {error.detail or error.message}")
        except Exception:
            self._log.failure("{server}: its installation failed", server=self.server.uuid)
            self._notify("The installation failed unexpectedly; see the node's log.")
        self._detach()
        self.is_shown = True  # Also one that has failed before its beginning was told.
        return Outcome.FAILURE

    @property
    def was_aborted(self) -> bool:
        """True if `cancel` has ended it."""
        return self._cancelled is not None

    def cancel(self, why: WingsdError) -> None:
        """End it as a failure, for the reason `why`."""
        if self._doing is not None and self._cancelled is None:
            self._cancelled = why
            self._doing.cancel()

    def _detach(self) -> None:
        if self._run is not None:
            self._run.detach()

    def on_line(self, line: str) -> None:
        """Publish a line of output; one of them says how many were left out in a flood."""
        self.server.publish(INSTALL_OUTPUT, line)

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool) -> None:
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
            if state.has_started:
                return await self._resume(state, ran)
        # Its script has not run yet: it begins, or begins again.
        return await self._begin()

    async def _find(self) -> InstallerState | None:
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
        details = InstallDetails(
            self.server.uuid, script.container_image, script.entrypoint, variables
        )
        disk = self._parts.disk
        try:
            await disk.run(self._parts.log(self.server.uuid).begin, details)
        except StorageError as error:
            self._log.warn("{server}: {error}", server=self.server.uuid, error=error)
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
        return await disk.run(self._parts.scripts.write, self.server.uuid, text)

    async def _resume(self, state: InstallerState, ran: float) -> Outcome:
        """Go on with an installer that an earlier daemon has started."""
        server, containers = self.server, self._parts.containers
        if state.is_running:
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
