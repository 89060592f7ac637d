"""One server of this node: its configuration, its state, and the operations on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.archive.quota import ArchiveLimits
from wingsd.config import CrashDetectionConfig, SystemConfig
from wingsd.docker.runtime import ContainerUsage, LayerProgress, Running
from wingsd.egg_files.rewriters import ServerEggFiles
from wingsd.errors import (
    NOT_RUNNING,
    BadRequest,
    Conflict,
    ConsoleBlocked,
    DiskLimitExceeded,
    EnvironmentFailed,
    ServerBusy,
    ServerNotRunning,
    StorageError,
    WingsdError,
)
from wingsd.events import CRASHED, SUSPENDED
from wingsd.panel.schemas import Build, Configuration
from wingsd.servers.console import Console
from wingsd.servers.disk_usage import ServerFiles
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import Hold, Operation, Operations
from wingsd.servers.power_states import (
    PowerAction,
    PowerEvent,
    PowerState,
    StopCommand,
    StopSignal,
    stop_method,
)
from wingsd.servers.runtime import ProgramEnd, Run, ServerDetails, ServerRuntime
from wingsd.util.text import readable_size

__all__ = ["ConfigurationSource", "Server"]

#: Lines of the console that are published of a crash, and characters of each.
LINES_MAX, LINE_MAX = 50, 256
FAILED = "Server crash was detected but an error occurred while handling it."


class CrashDecision(Enum):
    """Whether a server is started again, and why not; the values are for the log."""

    RESTART = "it is started again"
    DISABLED = "it stays offline: crash detection is disabled for it"
    CLEAN = (
        "it stays offline: an exit code of 0 is no crash, by "
        "system.crash_detection.detect_clean_exit_as_crash"
    )
    TOO_SOON = (
        "it stays offline: its last restart after a crash is less than "
        "system.crash_detection.timeout ago"
    )

    @property
    def is_crash(self) -> bool:
        """Whether the end counts as a crash."""
        return self in (CrashDecision.RESTART, CrashDecision.TOO_SOON)


def decide(
    rules: CrashDetectionConfig,
    *,
    enabled: bool | None,
    end: ProgramEnd,
    since_restart: float | None,
) -> CrashDecision:
    """Return what follows from the end of a program that was not requested.

    `enabled` is the server's own setting, None where it has none; `since_restart` are the seconds
    since it was last started again after a crash, None if it never was.
    """
    if not (rules.enabled if enabled is None else enabled):
        return CrashDecision.DISABLED
    if end == ProgramEnd(0) and not rules.detect_clean_exit_as_crash:
        return CrashDecision.CLEAN
    if rules.timeout and since_restart is not None and since_restart < rules.timeout:
        return CrashDecision.TOO_SOON
    return CrashDecision.RESTART


def crash_lines(decision: CrashDecision, end: ProgramEnd, timeout: float) -> list[str]:
    """Return what the console shows of a decision; `timeout` in seconds, as configured."""
    if decision is CrashDecision.DISABLED:
        return ["Aborting automatic restart, crash detection is disabled for this instance."]
    lines = []
    if decision.is_crash:
        lines += [
            "---------- Detected server process in a crashed state! ----------",
            f"Exit code: {end.exit_code}",
            f"Out of memory: {str(end.out_of_memory).lower()}",
        ]
    if decision is CrashDecision.TOO_SOON:
        lines.append(
            f"Aborting automatic restart, last crash occurred less than {timeout:g} seconds ago."
        )
    return lines


class CrashDetector:
    """Starts one server again whose program has ended by itself. The rules and lines are Wings'.

    The time of the last such start is kept in memory: for a daemon that is started again the
    next crash is the first one, as for Wings. Each crash is published, with so many
    `activity_lines` of the console.
    """

    _log = Logger()

    def __init__(
        self,
        server: Server,
        rules: CrashDetectionConfig,
        clock: IReactorTime,
        tasks: BackgroundTasks,
        activity_lines: int,
    ) -> None:
        self._server = server
        self._rules = rules
        self._clock = clock
        self._tasks = tasks
        self._activity_lines = activity_lines
        self._last_restart: float | None = None

    def ended(self, end: ProgramEnd) -> None:
        """Start the server again, in the background, if the rules say so after this end."""
        server, now = self._server, self._clock.seconds()
        last = self._last_restart
        decision = decide(
            self._rules,
            enabled=server.configuration.settings.crash_detection_enabled,
            end=end,
            since_restart=None if last is None else now - last,
        )
        if decision.is_crash:
            self._publish(end, restarted=decision is CrashDecision.RESTART)
        for line in crash_lines(decision, end, self._rules.timeout):
            server.daemon_line(line, keep=True)
        self._log.info(
            "{server}: its program ended by itself, exit code {code}{memory}: {decision}",
            server=server.uuid,
            code=end.exit_code,
            memory=", out of memory" if end.out_of_memory else "",
            decision=decision.value,
        )
        if decision is not CrashDecision.RESTART:
            return
        if server.restart_later is not None:
            self._last_restart = now
            server.restart_later()
        elif self._may_start():
            self._last_restart = now
            self._tasks.start("the restart after its crash", self._restart(), server.uuid)

    def _publish(self, end: ProgramEnd, *, restarted: bool) -> None:
        lines = self._server.console.lines(min(self._activity_lines, LINES_MAX))
        crash = {
            "exit_code": end.exit_code,
            "out_of_memory": end.out_of_memory,
            "restarted": restarted,
            "lines": [line[:LINE_MAX] for line in lines],
        }
        self._server.publish(CRASHED, json.dumps(crash))

    def _may_start(self) -> bool:
        """Return whether nothing forbids a start; say what does."""
        try:
            self._server.check_power(PowerAction.START)
        except WingsdError as error:
            self._server.say(f"The server is not started again after its crash: {error}")
            self._server.daemon_line(FAILED, keep=True)
            return False
        return True

    async def _restart(self) -> None:
        try:
            await self._server.power(PowerAction.START)
        except CancelledError:
            raise
        except Exception:  # `power` has logged it.
            # Someone may have been faster; and a stop cancels the start.
            if self._server.state is PowerState.OFFLINE:
                self._server.daemon_line(FAILED, keep=True)


#: Seconds after a kill within which the engine must report the end of the program.
KILL_TIMEOUT = 30.0


class PowerControl:
    """The power actions of one server; `stop_timeout` is in seconds."""

    def __init__(
        self,
        server: Server,
        runtime: ServerRuntime,
        reactor: IReactorTime,
        stop_timeout: float,
    ) -> None:
        self._server = server
        self._runtime = runtime
        self._reactor = reactor
        self._stop_timeout = stop_timeout
        self._lock = DeferredLock()
        self._starting: Deferred[None] | None = None
        self._start_cancelled = False
        #: Whether the engine has answered if a program runs that this node did not start.
        self._adopted = False

    async def do(self, action: PowerAction, wait_seconds: float) -> None:
        """Run one action to its end, after waiting at most `wait_seconds` for the previous one.

        Raises `Conflict` when that is not over in time, or the server runs already, and the errors
        of preparation and of the environment.
        """
        if action is PowerAction.KILL:
            await self._kill()
            return
        if action is PowerAction.STOP:
            self.cancel_start()
        elif action is PowerAction.START:
            self._check_startable(PowerState.OFFLINE, PowerState.STOPPING)
        await self._acquire(wait_seconds)
        try:
            if action is not PowerAction.START:
                await self._stop(self._stop_timeout)
            if action.starts:
                await self._start()
        finally:
            self._lock.release()

    async def stop_within(self, grace: float) -> None:
        """Return when the server is offline: stopped, or killed after `grace` seconds.

        Cancels a start, and waits for another action within the same time.
        """
        deadline = self._reactor.seconds() + grace
        self.cancel_start()
        try:
            await self._acquire(grace)
        except Conflict:
            await self._kill()
            await self._lock.acquire()
        try:
            await self._stop(grace, deadline - self._reactor.seconds())
        finally:
            self._lock.release()

    async def stop_gently(self, within: float) -> bool:
        """Return whether the server is offline within so many seconds, in which it is not killed.

        Cancels a start, and waits for another action within the same time.
        """
        deadline = self._reactor.seconds() + within
        self.cancel_start()
        try:
            await self._acquire(within)
        except Conflict:
            return False
        try:
            return await self._stopped_within(deadline - self._reactor.seconds())
        finally:
            self._lock.release()

    async def adopt(self) -> None:
        """Watch a program that runs already. Raises `EnvironmentFailed`."""
        await self._lock.acquire()
        try:
            await self._adopt()
        finally:
            self._lock.release()

    async def _adopt(self) -> None:
        if not self._adopted:
            await self._runtime.adopt(self._server.configuration)
            self._adopted = True

    def cancel_start(self) -> None:
        """Cancel a start whose program does not run yet, and roll it back."""
        if self._starting is not None and not self._start_cancelled:
            self._start_cancelled = True
            self._starting.cancel()

    async def _acquire(self, seconds: float) -> None:
        try:
            await self._lock.acquire().addTimeout(seconds, self._reactor)
        except DeferredTimeout:
            raise ServerBusy(
                "another power action is under way for this server",
                "wait for it to end, or kill the server",
            ) from None

    # Starting

    def _check_startable(self, *states: PowerState) -> None:
        if self._runtime.state not in states:
            raise Conflict("server is running", "stop it first, or restart it")

    async def _start(self) -> None:
        self._server.check_power(PowerAction.START)
        await self._adopt()
        self._check_startable(PowerState.OFFLINE)
        self._start_cancelled = False
        self._starting = Deferred.fromCoroutine(self._launch())
        try:
            await self._starting
        except CancelledError:
            if not self._start_cancelled:
                raise
            raise Conflict("the start was cancelled", "start the server again") from None
        finally:
            self._starting = None

    async def _launch(self) -> None:
        runtime = self._runtime
        runtime.console.clear()
        runtime.transition(PowerEvent.START)
        try:
            await self._server.prepare()
            # The Panel's settings may be new, and a transfer may have begun.
            self._server.check_power(PowerAction.START)
            await runtime.launch(self._server.configuration)
        except BaseException:
            # The program may run all the same: an engine that fails may have started it.
            self._adopted = False
            runtime.transition(PowerEvent.END)
            raise

    # Stopping

    async def _stop(self, timeout: float, left: float | None = None) -> None:
        """Stop within `timeout` seconds, of which `left` are left; then kill."""
        if not await self._stopped_within(timeout if left is None else left):
            self._runtime.say(f"The server has not stopped within {timeout:g} s and is killed.")
            await self._kill()

    async def _stopped_within(self, seconds: float) -> bool:
        await self._adopt()
        run = self._runtime.run
        if run is None or run.running is None:
            return True
        self._runtime.transition(PowerEvent.STOP)
        run.end_requested = True
        try:
            await self._request_stop(run.running)
        except ConsoleBlocked as error:
            # The timeout is for servers that hang.
            self._runtime.say(str(error))
        except BaseException as error:
            # Cancelled, the request may have been sent: the end is then no crash.
            self._stop_failed(run, end_requested=isinstance(error, CancelledError))
            raise
        return await run.wait(max(seconds, 0))

    async def stop_by_line(self, line: str) -> None:
        """Type the egg's stop command into the console for a user, who waits for the end.

        Raises `EnvironmentFailed`.
        """
        run = self._runtime.run
        if run is None or run.running is None:
            return
        self._runtime.transition(PowerEvent.STOP)
        run.end_requested = True
        try:
            await run.running.command(line)
        except BaseException as error:
            # The line may have been read, or may still be.
            possible = isinstance(error, CancelledError | ConsoleBlocked)
            self._stop_failed(run, end_requested=possible)
            raise

    async def _request_stop(self, running: Running) -> None:
        match stop_method(self._server.configuration.process.stop):
            case StopCommand(line):
                await running.command(line)
            case StopSignal(name):
                await running.signal(name)
            case _:
                await running.stop()

    async def _kill(self) -> None:
        if self._starting is not None:
            self.cancel_start()
            await self._lock.run(lambda: None)
            return
        if not self._adopted:
            await self.adopt()
        run = self._runtime.run
        if run is None or run.running is None:
            return
        end_requested, run.end_requested = run.end_requested, True
        self._runtime.transition(PowerEvent.STOP)
        try:
            await run.running.kill()
        except BaseException:
            self._stop_failed(run, end_requested=end_requested)
            raise
        if not await run.wait(KILL_TIMEOUT):
            raise EnvironmentFailed(
                f"the server was killed, and {KILL_TIMEOUT:g} s later the engine has not "
                f"reported its exit; see the engine's log, and kill the server again"
            )

    def _stop_failed(self, run: Run, *, end_requested: bool) -> None:
        if not run.over:
            run.end_requested = end_requested
            self._runtime.transition(PowerEvent.STOP_FAILED)


#: Seconds that a server may take to stop above its limit; Wings' figure.
EXCESS_GRACE = 60.0
CHECKING = "checking server disk space usage, this could take a few seconds..."
STOPPING = "Server is exceeding the assigned disk space limit, stopping process now."


class DiskLimit:
    """Compares the disk usage of a server with its limit, which its quota gets as well.

    A server is not started above it, and stopped when it grows above it. The limit is
    `build.disk_space` of its settings, and what counts is `ServerFiles.disk_bytes`. The rules and
    the texts of console lines are those of Wings.
    """

    def __init__(
        self,
        server: Server,
        runtime: ServerRuntime,
        files: ServerFiles,
        tasks: BackgroundTasks,
    ) -> None:
        self._server = server
        self._runtime = runtime
        self._files = files
        self._tasks = tasks
        #: The run that is being stopped, or was: once for each run.
        self._stopped: Run | None = None
        runtime.when_measured = self.check
        files.when_present = self.apply
        files.limit = lambda: self.bytes

    @property
    def bytes(self) -> int | None:
        """The limit in bytes, None for no limit."""
        return ArchiveLimits.disk_bytes(self._server.configuration.settings.build.disk_space)

    def apply(self) -> None:
        """Set the limit in the file system, if it has quotas. Call it when the limit is new."""
        if self._files.exists:
            self._files.quota.request(self.bytes)

    async def check_start(self) -> None:
        """Count the files, and return if the server may be started.

        Without a limit nothing is waited for. Raises `DiskLimitExceeded`, and `StorageError` where
        a server with a limit cannot be measured.
        """
        if not self._files.is_counted:
            return
        self._runtime.daemon_line(CHECKING)
        is_known = self._files.as_received
        if self.bytes is None:
            if not is_known:
                self._files.measure()
            return
        try:
            used = self._files.disk_bytes if is_known else await self._files.measured()
            self._require(used or 0)
            # A program that cannot write would damage its files.
            self._require(await self._files.quota.used(), " on the disk")
        except StorageError as error:
            error.add_context("its disk limit cannot be checked")
            raise

    def _require(self, used: int, where: str = "") -> None:
        limit = self.bytes
        if limit is not None and used > limit:
            taken = f"{readable_size(used)}{where}"
            raise DiskLimitExceeded(
                f"the server's files take {taken}, and its disk limit is {readable_size(limit)}; "
                "delete files, or raise its disk limit in the Panel"
            )

    def check(self) -> None:
        """Stop the server in the background if it runs and is above the limit, once for each run.

        Called with each measurement of its usage.
        """
        limit, used, run = self.bytes, self._files.disk_bytes, self._runtime.run
        if limit is None or used is None or used <= limit or run in (None, self._stopped):
            return
        self._stopped = run
        self._runtime.daemon_line(STOPPING)
        self._tasks.start(
            "stopping it, since it is above its disk limit",
            self._server.stop_within(EXCESS_GRACE),
            self._server.uuid,
        )


class RunningLimits:
    """Applies changed limits to a running container. What cannot be applied waits for a start."""

    def __init__(self, server: Server, runtime: ServerRuntime, tasks: BackgroundTasks) -> None:
        self._server = server
        self._runtime = runtime
        self._tasks = tasks

    def changed(self, before: Build) -> None:
        """Apply the present limits in the background, if they differ and the server runs."""
        after = self._server.configuration.settings.build
        if after != before and self._runtime.run is not None:
            applying = self._apply(before, after)
            self._tasks.start("changing its limits", applying, self._server.uuid)

    async def _apply(self, before: Build, after: Build) -> None:
        try:
            warnings = await self._runtime.update(before, after)
        except EnvironmentFailed as error:
            self._runtime.say(
                f"The server's new limits take effect at its next start: {error.detail}"
            )
            return
        for warning in warnings:
            self._runtime.say(f"A limit is not applied to the running server: {warning}")


#: Seconds that a server may take to stop when it is suspended; Wings' figure.
SUSPENSION_GRACE = 60.0

_OPERATIONS = {
    PowerAction.START: Operation.START,
    PowerAction.STOP: Operation.STOP,
    PowerAction.RESTART: Operation.START,
    PowerAction.KILL: Operation.KILL,
}


class ConfigurationSource(Protocol):
    """The Panel, as the source of servers' configurations.

    Methods raise `ServerNotFound`, `PanelRefused` and `PanelUnreachable`.
    """

    async def describe(self, uuid: str) -> Configuration:
        """Return the server's configuration."""

    async def owns(self, uuid: str) -> bool:
        """Return whether the server belongs to this node."""


class Server:
    """A server. `configuration` is the Panel's as last fetched; `runtime` is what it runs in."""

    _log = Logger()

    def __init__(
        self,
        configuration: Configuration,
        *,
        panel: ConfigurationSource,
        runtime: ServerRuntime,
        files: ServerFiles,
        egg_files: ServerEggFiles,
        tasks: BackgroundTasks,
        reactor: IReactorTime,
        system: SystemConfig,
    ) -> None:
        self.uuid = configuration.settings.uuid
        self.configuration = configuration
        self.files = files
        #: What is being done with it.
        self.operations = Operations()
        #: Whether a direct transfer has moved it here, and the Panel has not yet assigned it to
        #: this node. Until then its settings are those that came with it.
        self.moved_directly = False
        #: How many power actions this node was asked for.
        self.power_actions = 0
        #: Whether it ran when the former daemon ended, or until its backup was restored, and a
        #: transfer that holds it since starts it where it ends: until the next power action.
        self.starts_if_it_stays = False
        #: Called at a crash of its program, where what holds the server starts it in the end.
        self.restart_later: Callable[[], None] | None = None
        self._panel = panel
        self._runtime = runtime
        self._egg_files = egg_files
        self._tasks = tasks
        # The ids of files on the host are unknown when the engine runs without root.
        self._checks_owner = system.check_permissions_on_boot and not system.user.rootless.enabled
        self._power = PowerControl(self, runtime, reactor, system.stop_timeout)
        self.disk_limit = DiskLimit(self, runtime, files, tasks)
        crash_lines = system.crash_detection_activity_lines
        crashes = CrashDetector(self, system.crash_detection, reactor, tasks, crash_lines)
        runtime.when_crashed = crashes.ended
        self._limits = RunningLimits(self, runtime, tasks)
        runtime.cpu_limit = lambda: self.configuration.settings.build.cpu_limit

    # State

    @property
    def state(self) -> PowerState:
        """The state of its program."""
        return self._runtime.state

    @property
    def suspended(self) -> bool:
        """Whether the Panel has suspended it."""
        return self.configuration.settings.suspended

    @property
    def pending_restart(self) -> bool:
        """Whether it runs with other settings than the Panel has now."""
        return self._runtime.pending_restart.pending

    @property
    def console(self) -> Console:
        """The last lines of this run."""
        return self._runtime.console

    @property
    def usage(self) -> ContainerUsage:
        """What its program uses, as last measured; zero when it is offline."""
        return self._runtime.usage

    @property
    def restart_seconds(self) -> float:
        """How long its program took to stop and to start the last time; see `ServerRuntime`."""
        return self._runtime.stop_seconds + self._runtime.start_seconds

    @property
    def directory(self) -> str:
        """The path of its files."""
        return self.files.directory

    @property
    def disk_bytes(self) -> int | None:
        """The size of its files, as last measured; None before the first measurement."""
        return self.files.disk_bytes

    def details(self) -> ServerDetails:
        """Return the answer of `GET /api/servers/{uuid}`; measure its files for the next one."""
        self.files.measure_on_request()
        return ServerDetails(
            state=self.state,
            is_suspended=self.suspended,
            utilization=self._runtime.utilization(),
            configuration=self.configuration.raw,
        )

    def stats(self) -> str:
        """Return the JSON of a `stats` event; measure its files for the next one."""
        self.files.measure_on_request()
        return self._runtime.stats()

    async def logs(self, lines: int) -> list[str]:
        """Return the last lines of the console."""
        return await self._runtime.logs(lines)

    def publish(self, event: str, *args: str) -> None:
        """Publish an event of this server."""
        self._runtime.publish(event, *args)

    def say(self, message: str, *, keep: bool = False) -> None:
        """Show a message of the node in the console, and log it.

        With `keep`, consoles that are opened later show it too, until the next start.
        """
        self._runtime.say(message, keep=keep)

    def daemon_line(self, message: str, *, keep: bool = False) -> None:
        """Show a line of the node in the console, in Wings' form, and log it.

        With `keep`, consoles that are opened later show it too, until the next start.
        """
        self._runtime.daemon_line(message, keep=keep)

    def show_pull(self, news: str | LayerProgress | None) -> None:
        """Show the progress of an image's pull; see `ServerRuntime.show_pull`."""
        self._runtime.show_pull(news)

    # Holds

    @property
    def hold(self) -> str:
        """Why it may not be started now; empty when it may."""
        hold = self.operations.hold
        return hold.why if hold and hold.operation is not Operation.FOLLOW else ""

    @property
    def disowned(self) -> bool:
        """Whether the Panel has assigned it to another node, or may have: this is a remainder."""
        return self.operations.runs(Operation.MOVED)

    def place_hold(self, operation: Operation, why: str) -> None:
        """Prevent its start for the reason `why`. Raises `ServerBusy` when it is busy already."""
        self.operations.place_hold(operation, why)

    def release(self) -> None:
        """Let it be started again."""
        self.operations.hold = None

    def disown(self, why: str) -> None:
        """Hold it until the Panel has it deleted here, or sent here again."""
        self.operations.hold = Hold(Operation.MOVED, why)

    def leave_off(self) -> None:
        """Have it not be started but by a person: not by what waits to start it, either."""
        self.power_actions += 1
        self.starts_if_it_stays = False

    # Operations

    def check_power(self, action: PowerAction) -> None:
        """Raise `BadRequest` or `Conflict` where the action cannot be done in this state."""
        if action.starts and self.suspended:
            raise BadRequest("server is currently in a suspended state")
        runs = self.state is not PowerState.OFFLINE
        self.operations.check(_OPERATIONS[action], program_runs=runs)

    async def power(self, action: PowerAction, wait_seconds: float = 30) -> None:
        """Run one power action to its end, after waiting at most so long for the previous one.

        Raises `BadRequest`, `Conflict`, `EnvironmentFailed` and the errors of fetching settings
        from the Panel; each failure is also shown in the console and logged.
        """
        try:
            self.check_power(action)
            self.power_actions += 1
            self.starts_if_it_stays = False
            with self.operations.during(_OPERATIONS[action]):
                await self._power.do(action, wait_seconds)
        except WingsdError as error:
            self.say(f"The {action.value} failed: {error}")
            raise
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{server}: {action} failed", server=self.uuid, action=action.value)
            self.say(f"The {action.value} failed unexpectedly; see the node's log.")
            raise

    async def stop_within(self, grace: float) -> None:
        """Return when it is offline: stopped as its egg says, or killed after `grace` seconds.

        Raises `EnvironmentFailed`. Cancelled, it requests nothing more; a stop that was requested
        continues.
        """
        await self._power.stop_within(grace)

    async def stop_gently(self, within: float) -> bool:
        """Return whether it is offline within so many seconds: stopped, and not killed.

        Raises `EnvironmentFailed`. Cancelled, it is as `stop_within`.
        """
        return await self._power.stop_gently(within)

    async def command(self, line: str) -> None:
        """Type a line into the console. Raises `ServerNotRunning`, `EnvironmentFailed`.

        The egg's stop command makes the state `stopping`, so that the end is no crash.
        """
        run = self._runtime.run
        if run is None or run.running is None:
            raise ServerNotRunning(NOT_RUNNING)
        stop = self.configuration.process.stop
        if stop.type == "command" and line.strip() == stop.value.strip():
            await self._power.stop_by_line(line)
        else:
            await run.running.command(line)

    async def sync(self, given: Configuration | None = None) -> None:
        """Fetch the settings again, or take over those that the Panel has `given`.

        In the background, the server is stopped if it is suspended, and changed limits are applied
        to its container. Raises `ServerNotFound`, `PanelRefused`, `PanelUnreachable`.
        """
        before = self.configuration.settings.build
        if self.moved_directly:
            self.moved_directly = not await self._panel.owns(self.uuid)
        if given is None or self.moved_directly:
            await self.fetch()
        else:
            self._configure(given)
        self.stop_if_suspended()
        self._limits.changed(before)

    def stop_if_suspended(self) -> None:
        """Stop it in the background if it runs and is suspended."""
        if self.suspended and self.state is not PowerState.OFFLINE:
            self.say("The server is suspended and is stopped.")
            self._tasks.start(
                "stopping it, since it is suspended",
                self._power.stop_within(SUSPENSION_GRACE),
                self.uuid,
            )

    async def fetch(self) -> None:
        """Fetch the settings again. Raises the errors of `sync`."""
        if not self.moved_directly:
            self._configure(await self._panel.describe(self.uuid))

    def _configure(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.disk_limit.apply()
        self._runtime.pending_restart.compare(configuration.settings)
        if self.suspended:
            self.publish(SUSPENDED)

    async def prepare(self) -> None:
        """Do what comes before every start, from fetching its settings to its files' owner.

        Raises the errors of `sync`, `DiskLimitExceeded`, and `StorageError` where its directory
        cannot be made or, with a disk limit, not be measured.
        """
        await self.fetch()
        self.check_power(PowerAction.START)
        if not self.files.exists:
            await self.files.make()
        await self.disk_limit.check_start()
        self.daemon_line("Updating process configuration files...")
        for line in await self._egg_files.rewrite(self.configuration):
            self.say(line)
        if self._checks_owner and not self.files.as_received:
            await self._give_files_to_user()
        self.files.as_received = False

    async def _give_files_to_user(self) -> None:
        self.daemon_line(
            "Ensuring file permissions are set correctly, this could take a few seconds..."
        )
        try:
            given = await self.files.give_to_user()
        except StorageError as error:
            self.say(f"Not all of its files could be given to the servers' user: {error}")
            return
        if given.kept:
            self.say(
                f"{given.kept} of its files could not be given to the servers' user, "
                f"{given.example} for example: {given.why}"
            )

    # For the registry, and for transfers

    async def adopt(self) -> None:
        """Watch its program if it runs already. Raises `EnvironmentFailed`."""
        await self._power.adopt()
        self.stop_if_suspended()

    async def remove_environment(self) -> None:
        """Remove its environment, which kills it. Raises `EnvironmentFailed`."""
        self._power.cancel_start()
        # Its files are deleted next: they are not measured after this end.
        self.files.measurable = False
        try:
            await self._runtime.remove()
        except BaseException:
            self.files.measurable = True
            raise

    async def restore_environment(self) -> None:
        """Make its environment again after a removal that is rolled back."""
        await self._runtime.restore(self.configuration.settings)

    def detach(self) -> None:
        """Stop listening to its program, which continues to run."""
        self._runtime.detach()

    def close(self) -> None:
        """Let go of a server that has left this node."""
        self.files.close()
        self.detach()
