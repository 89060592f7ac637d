"""One installation: an egg's script is run in a server's directory, with a success or a failure.

What the node does is in the state database before it is done, so that the next daemon goes on: see
`wingsd.servers.installations`, which also removes what is left, and reports the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.config import ThrottlesConfig
from wingsd.docker.runtime import Containers, ContainerUsage, InstallerState
from wingsd.errors import EnvironmentFailed, InstallationFailed, StorageError, WingsdError
from wingsd.events import INSTALL_OUTPUT, INSTALL_STARTED
from wingsd.panel.client import Panel
from wingsd.panel.schemas import InstallScript, Settings
from wingsd.servers.console import Throttle
from wingsd.servers.install_files import InstallDetails, InstallLog, ScriptDirectories
from wingsd.servers.run import Run
from wingsd.servers.server import Server
from wingsd.statedb import InstallationRecord, Outcome, StateDatabase
from wingsd.threadio import Workers
from wingsd.util.retry import Backoff
from wingsd.util.serialization import structure
from wingsd.util.text import escaped, readable_time

__all__ = ["BACKOFF", "InstallOptions", "InstallParts", "Installation"]

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
    """What is asked for with an installation."""

    #: Report success without running the script.
    skip_script: bool = False
    #: Delete the server's files first.
    truncate: bool = False
    #: This script in place of the egg's.
    script: InstallScript | None = None


@attrs.frozen(eq=False, repr=False)
class InstallParts:
    """The collaborators of installations. `limit` is in seconds, 0 for none."""

    panel: Panel
    containers: Containers
    scripts: ScriptDirectories
    log: Callable[[str], InstallLog]
    #: The variables of a server's installer.
    variables: Callable[[Settings, InstallScript], dict[str, str]]
    database: StateDatabase
    disk: Workers
    reactor: IReactorTime
    throttles: ThrottlesConfig
    limit: float


class _Watched:
    """The run of an installer; its output is published, and `ended` fires at its end."""

    def __init__(self, server: Server, reactor: IReactorTime, throttle: Throttle) -> None:
        self.run = Run(self, reactor, throttle)
        #: With the exit code, and whether memory ran out.
        self.ended: Deferred[tuple[int | None, bool]] = Deferred()
        self._server = server

    def on_line(self, line: str) -> None:
        self._server.publish(INSTALL_OUTPUT, line)

    def on_flood(self) -> None:
        """Nothing: a line among the output says how many were left out."""

    def on_ready(self) -> None:
        """Nothing: an installer has no startup."""

    def on_usage(self, usage: ContainerUsage) -> None:
        """Nothing: an installer's usage is not shown."""

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool) -> None:
        self.ended.callback((status, out_of_memory))


class Installation:
    """The installation of `server`, as recorded; `run` does it."""

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
        self._watched: _Watched | None = None
        self._doing: Deferred[Outcome] | None = None
        self._cancelled: WingsdError | None = None

    @property
    def options(self) -> InstallOptions:
        """What was asked for with it."""
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
        """Whether `cancel` has ended it."""
        return self._cancelled is not None

    def cancel(self, why: WingsdError) -> None:
        """Have it end as a failure, for the reason `why`."""
        if self._doing is not None and self._cancelled is None:
            self._cancelled = why
            self._doing.cancel()

    def _detach(self) -> None:
        if self._watched is not None:
            self._watched.run.detach()

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
        watched = self._watch()
        server.say(STARTING)
        watched.run.running = await self._parts.containers.start_installer(
            server.uuid, watched.run
        )
        return await self._await_end(watched, self._parts.limit)

    async def _write(self, script: InstallScript) -> str:
        """Write the script and the beginning of the log; return the script's directory."""
        variables = self._parts.variables(self.server.configuration.settings, script)
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
            watched = self._watch()
            watched.run.running = await containers.adopt_installer(server.uuid, watched.run)
            if watched.run.running is not None:
                age = max(self._parts.database.seconds_since(ran), 0.0)
                limit = self._parts.limit and max(self._parts.limit - age, 1.0)
                return await self._await_end(watched, limit)
            found = await containers.find_installer(server.uuid)
            if found is None:
                raise InstallationFailed(GONE)
            state = found
        return self._conclude(state.exit_status, out_of_memory=state.out_of_memory, unseen=True)

    def _watch(self) -> _Watched:
        throttle = Throttle(self._parts.throttles)
        watched = self._watched = _Watched(self.server, self._parts.reactor, throttle)
        return watched

    async def _await_end(self, watched: _Watched, limit: float) -> Outcome:
        if limit:
            watched.ended.addTimeout(limit, self._parts.reactor)
        try:
            status, out_of_memory = await watched.ended
        except DeferredTimeout:
            raise InstallationFailed(
                f"the script has not ended within {readable_time(self._parts.limit)} and was "
                "stopped; see docker.installer_limits.timeout"
            ) from None
        unseen = watched.run.running is not None and watched.run.running.was_lost
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
