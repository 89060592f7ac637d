"""One server of this node: its configuration, its console, its power, and operations on it.

Its program is started, stopped and killed by its power, and started again after a crash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Annotated, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.archive.quota import ArchiveLimits
from wingsd.config import Config, CrashDetectionConfig
from wingsd.docker.runtime import (
    ContainerRuntime,
    ContainerUsage,
    DiskIo,
    LayerProgress,
    NetworkUsage,
    Running,
)
from wingsd.egg_files.rewriters import Rewriters, ServerEggFiles
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
from wingsd.events import (
    CONSOLE_OUTPUT,
    CRASHED,
    DAEMON_MESSAGE,
    EXPLAINED,
    FEATURE_MATCH,
    IMAGE_PULL_COMPLETED,
    IMAGE_PULL_PROGRESS,
    INSTALL_OUTPUT,
    PENDING_RESTART,
    STATS,
    STATUS,
    SUSPENDED,
    Event,
    EventBus,
)
from wingsd.panel.client import Panel
from wingsd.panel.schemas import Build, Configuration, Settings, Stop
from wingsd.servers.console import (
    TEXTS_MAX,
    Console,
    FeatureMatcher,
    Run,
    RunListener,
    StartupDetector,
    Throttle,
    daemon_line,
)
from wingsd.servers.figures import (
    DISK_LIMIT,
    EXIT,
    MEMORY_LIMIT,
    NODE_MEMORY,
    ServerFigures,
    killed_text,
    throttled_text,
    too_large_text,
)
from wingsd.servers.files import Presence, ServerFiles, ServerStorage
from wingsd.servers.operations import Hold, Operation, Operations
from wingsd.servers.power_states import PowerAction, PowerEvent, PowerState, next_state
from wingsd.util.serialization import Amount, Keywords, unstructure
from wingsd.util.text import escaped, readable_size


@attrs.frozen(eq=False, repr=False)
class Utilization:
    """The memory, processor time, disk and traffic that a server uses."""

    memory_bytes: Amount
    memory_limit_bytes: Annotated[Amount, "0 is no limit."]
    cpu_absolute: Annotated[float, Keywords(minimum=0), "Percent of one core."]
    cpu_limit_absolute: Annotated[
        Amount, "The limit of the same; that of all cores where the server has none."
    ]
    network: NetworkUsage
    disk_io: DiskIo
    uptime: Annotated[Amount, "Milliseconds since its start."]
    state: PowerState
    disk_bytes: Annotated[Amount, "What its files use, as last measured; 0 before that was done."]


@attrs.frozen(eq=False, repr=False)
class ServerDetails:
    """A server: what it is and does."""

    state: PowerState
    is_suspended: bool
    utilization: Utilization
    configuration: Annotated[dict[str, Any], "The settings, as the Panel gave them."]


#: The lines of a console that Wings returns at most over its API; the WebSocket's figure is
#: configured.
LEAST_KEPT = 100
PULLING = "Pulling Docker container image, this could take a few minutes to complete..."
PULLED = "Finished pulling Docker container image"
THROTTLING = "Server is outputting console data too quickly -- throttling..."
CHECKING = "checking server disk space usage, this could take a few seconds..."
STOPPING = "Server is exceeding the assigned disk space limit, stopping process now."
#: Seconds that a server may take to stop above its disk limit, and when it is suspended; Wings'
#: figures.
EXCESS_GRACE = 60.0
SUSPENSION_GRACE = 60.0
#: The exit code of a program whose container is gone.
GONE = 1

_OPERATIONS = {
    PowerAction.START: Operation.START,
    PowerAction.STOP: Operation.STOP,
    PowerAction.RESTART: Operation.START,
    PowerAction.KILL: Operation.KILL,
}


def _of_start(settings: Settings) -> tuple[object, ...]:
    """Return what only a start can give to a server."""
    return (
        settings.invocation,
        settings.environment,
        settings.labels,
        settings.container,
        settings.allocations,
        settings.mounts,
        settings.build.oom_kill_disabled,
    )


#: Lines of the console that are published of a crash, and characters of each.
LINES_MAX, LINE_MAX = 50, 256
FAILED = "Server crash was detected but an error occurred while handling it."


@attrs.frozen(repr=False)
class ProgramEnd:
    """The end of a program; with `out_of_memory` its limit was reached, or that `of_node`."""

    exit_code: int
    out_of_memory: bool = False
    of_node: bool = False

    @property
    def reason(self) -> str:
        """The reason by which it is counted."""
        if not self.out_of_memory:
            return EXIT
        return NODE_MEMORY if self.of_node else MEMORY_LIMIT


class CrashDecision(Enum):
    """A decision about a server's restart, with its reason as a text for the log."""

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
        """True if the end counts as a crash."""
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


#: Names and shorthands in eggs; for any other, Wings sends SIGKILL.
_SIGNALS = {
    "C": "SIGINT",
    "^C": "SIGINT",
    "SIGINT": "SIGINT",
    "SIGTERM": "SIGTERM",
    "SIGABRT": "SIGABRT",
}


async def request_stop(running: Running, stop: Stop) -> None:
    """Ask a program to end, as its egg says. The command `^C` means SIGINT, as at a terminal.

    Without a way that is known, the engine sends the signal that the image names.
    """
    value = stop.value.strip()
    match stop.type:
        case "command" if value == "^C":
            await running.signal("SIGINT")
        case "command" if value:
            await running.command(stop.value)
        case "signal":
            await running.signal(_SIGNALS.get(value.upper(), "SIGKILL"))
        case _:
            await running.stop()


#: Seconds after a kill within which the engine must report the end of the program.
KILL_TIMEOUT = 30.0


@attrs.frozen(eq=False, repr=False)
class ServerParts:
    """The collaborators that the servers of a node share.

    `rewriters` are threads of their own, as parsing egg files takes as long as the servers' users
    make it take, within bounds.
    """

    config: Config
    panel: Panel
    containers: ContainerRuntime
    bus: EventBus
    storage: ServerStorage
    rewriters: Rewriters
    reactor: IReactorTime


class Server(RunListener):
    """A server of this node. Each change of its state is published on the event bus.

    `configuration` is the Panel's as last fetched. Its `files` are measured after each run, and
    while its program runs. It is not started above its disk limit, and stopped when it grows above
    it; these rules and the texts of console lines are those of Wings.
    """

    _log = Logger()

    def __init__(self, configuration: Configuration, parts: ServerParts) -> None:
        self.uuid = configuration.settings.uuid
        self.files = ServerFiles(
            self.uuid,
            parts.storage,
            parts.reactor,
            parts.config.system.disk_check_interval,
            self._disk_usage_changed,
        )
        self.configuration = configuration
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
        self.state = PowerState.OFFLINE
        self.figures = ServerFigures()
        #: The last lines of this run.
        self.console = Console(max(parts.config.system.websocket_log_count, LEAST_KEPT))
        #: The current run of its program, from before its start to its end.
        self.run: Run | None = None
        #: Whether it runs with other settings than the Panel has now.
        self.pending_restart = False
        #: The settings of the current run.
        self._launched: Settings | None = None
        #: Whether the run was found running, so that the console lacks its beginning.
        self._joined_late = False
        #: Seconds from the last stop's request to the end, and from the last launch of the program
        #: until it was ready; 0 where this daemon has seen none.
        self._stop_seconds = self._start_seconds = 0.0
        #: When what of these is under way has begun.
        self._since: float | None = None
        #: The run that is being stopped as it is above the disk limit, or was: once for each run.
        self._stopped: Run | None = None
        self._features = FeatureMatcher()
        self._config = parts.config
        self._panel = parts.panel
        self._containers = parts.containers
        self._bus = parts.bus
        self._tasks = parts.storage.tasks
        self._reactor = parts.reactor
        self._last_restart: float | None = None
        self._lock = DeferredLock()
        self._starting: Deferred[None] | None = None
        self._start_cancelled = False
        #: Whether the engine has answered if a program runs that this node did not start.
        self._adopted = False
        root = partial(parts.storage.directories.root, self.uuid)
        self._egg_files = ServerEggFiles(parts.rewriters, root, parts.config, self.files.add)

    # State

    @property
    def configuration(self) -> Configuration:
        """The settings, as last fetched from the Panel."""
        return self._configuration

    @configuration.setter
    def configuration(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self.files.limit = ArchiveLimits.disk_bytes(configuration.settings.build.disk_space)

    @property
    def suspended(self) -> bool:
        """True if the Panel has suspended it."""
        return self.configuration.settings.suspended

    @property
    def restart_seconds(self) -> float:
        """The seconds that its last stop and start took, as far as this daemon has seen them."""
        return self._stop_seconds + self._start_seconds

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
            utilization=self._utilization(),
            configuration=self.configuration.raw,
        )

    def stats(self) -> str:
        """Return the JSON of a `stats` event; measure its files for the next one."""
        self.files.measure_on_request()
        return self._stats()

    def _stats(self) -> str:
        return json.dumps(unstructure(self._utilization()), separators=(",", ":"))

    def _utilization(self) -> Utilization:
        """Return its usage, in the Panel's form."""
        usage, cpu_limit = self.figures.usage, self.configuration.settings.build.cpu_limit
        return Utilization(
            memory_bytes=usage.memory_bytes,
            memory_limit_bytes=usage.memory_limit_bytes,
            cpu_absolute=usage.cpu_absolute,
            cpu_limit_absolute=max(cpu_limit, 0) or 100 * (os.cpu_count() or 1),
            network=usage.network or NetworkUsage(0, 0, 0, 0),
            disk_io=usage.disk_io or DiskIo(0, 0),
            uptime=usage.uptime,
            state=self.state,
            disk_bytes=self.disk_bytes or 0,  # Panels read a number
        )

    async def logs(self, lines: int) -> list[str]:
        """Return the last lines of the console.

        The engine is asked for those that this node has not seen; its failure is logged.
        """
        seen = self.console.lines(lines)
        if seen and (len(seen) >= lines or not self._joined_late):
            return seen
        try:
            return await self._containers.logs(self.uuid, lines) or seen
        except EnvironmentFailed as error:
            self._log.warn(
                "{server}: its old console lines cannot be read: {error}",
                server=self.uuid,
                error=error,
            )
            return seen

    def transition(self, event: PowerEvent) -> None:
        """Enter the next state. Raises `ValueError` for an impossible event."""
        previous, self.state = self.state, next_state(self.state, event)
        if self.state is previous:
            return
        self._time(previous)
        self._log.info("{server}: {state}", server=self.uuid, state=self.state.value)
        self.publish(STATUS, self.state.value)
        if self.state is PowerState.OFFLINE:
            self._compare_settings(None)
            self.figures.end()
            self.publish(STATS, self._stats())
            self.files.measure()

    def _time(self, previous: PowerState) -> None:
        """Measure how long its starts and stops take, at each change of the state."""
        now, since, self._since = self._reactor.seconds(), self._since, None
        match previous, self.state:
            case PowerState.RUNNING, PowerState.STOPPING:
                self._since = now
            case PowerState.STARTING, PowerState.RUNNING if since is not None:
                self._start_seconds = now - since
            case PowerState.STOPPING, PowerState.OFFLINE if since is not None:
                self._stop_seconds = now - since

    def _compare_settings(self, launched: Settings | None) -> None:
        """Publish whether a restart would change settings of its run, when that has changed.

        `launched` are those with which the run has begun, None without a run: the next start has
        the settings of then. Limits are applied to the running container, and do not count.
        """
        self._launched, now = launched, self.configuration.settings
        pending = launched is not None and _of_start(launched) != _of_start(now)
        if pending is not self.pending_restart:
            self.pending_restart = pending
            self.publish(PENDING_RESTART, "true" if pending else "false")

    # What users see

    def publish(self, event: str, *args: str) -> None:
        """Publish an event of this server."""
        self._bus.publish(Event(self.uuid, event, args))

    def say(self, message: str, *, keep: bool = False) -> None:
        """Show a message of the node in the console, and log it.

        With `keep`, consoles that are opened later show it too, until the next start.
        """
        self._log.info("{server}: {message}", server=self.uuid, message=message)
        # It may quote the engine, a registry or another node, and ends up in a terminal.
        shown = escaped(message)
        if keep:
            self.console.add(f"[wingsd] {shown}")
        self.publish(DAEMON_MESSAGE, shown)

    def daemon_line(self, message: str, *, keep: bool = False) -> None:
        """Show a line of the node in the console, in Wings' form, and log it.

        With `keep`, consoles that are opened later show it too, until the next start.
        """
        self._log.info("{server}: {message}", server=self.uuid, message=message)
        line = daemon_line(self._config.app_name, message)
        if keep:
            self.console.add(line)
        self.publish(CONSOLE_OUTPUT, line)

    def show_pull(self, news: str | LayerProgress | None) -> None:
        """Show a pull: its lines, "" at the beginning, None at the end, and its layers' progress.

        The lines are the event of Wings for them, also where nothing is being installed.
        """
        if news is None:
            self.daemon_line(PULLED)
        elif isinstance(news, str):
            if news:
                self.publish(INSTALL_OUTPUT, escaped(news))
            else:
                self.daemon_line(PULLING)
        elif news.status:
            # Calagopus' events: with the names of 2026's nodes, and of those before.
            progress = {
                "status": news.status,
                "bytes_processed": news.done,
                "bytes_total": news.total,
                "progress": news.done,
                "total": news.total,
            }
            self.publish(IMAGE_PULL_PROGRESS, news.layer, json.dumps(progress))
        else:
            self.publish(IMAGE_PULL_COMPLETED, news.layer)

    def _disk_usage_changed(self) -> None:
        # A server that runs publishes its usage every second.
        if self.state is PowerState.OFFLINE:
            self.publish(STATS, self._stats())

    # Events of its run

    def on_line(self, line: str) -> None:
        """Keep and publish a console line, and what the egg has a dialogue for."""
        self.figures.lines += 1
        self.console.add(line)
        self.publish(CONSOLE_OUTPUT, line)
        found = self._features.match(line)
        if found is not None:
            self.publish(FEATURE_MATCH, json.dumps(attrs.asdict(found), ensure_ascii=False))

    def on_flood(self) -> None:
        """Say that lines are left out."""
        self.daemon_line(THROTTLING, keep=True)

    def on_ready(self) -> None:
        """Enter the state `running`, unless the engine has not yet confirmed the start."""
        if self.run is not None and self.run.running is not None:
            self.transition(PowerEvent.READY)

    def on_usage(self, usage: ContainerUsage) -> None:
        """Publish its program's usage; stop it, once for each run, above its disk limit."""
        throttled = self.figures.take(usage, self._reactor.seconds())
        if throttled:
            cpu_limit = self.configuration.settings.build.cpu_limit
            self.explain("cpu.throttled", throttled_text(throttled, cpu_limit))
        self.files.measure_if_stale()
        self.publish(STATS, self._stats())
        limit, used = self.files.limit, self.disk_bytes
        if limit is None or used is None or used <= limit or self.run in (None, self._stopped):
            return
        self._stopped = self.run
        self.figures.crashes[DISK_LIMIT] += 1
        self.daemon_line(STOPPING)
        self.explain("disk.exceeded", too_large_text(used, limit))
        self._tasks.start(
            "stopping it, since it is above its disk limit",
            self.stop_within(EXCESS_GRACE),
            self.uuid,
        )

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool, of_node: bool) -> None:
        """Enter the state `offline`; an end that was not requested may be a crash."""
        if run is not self.run:
            return
        self.run = None
        crashed = self.state is not PowerState.STOPPING and not run.end_requested
        last = self.figures.usage
        if out_of_memory:
            self.figures.killed()
        self.transition(PowerEvent.END)
        if crashed:
            end = ProgramEnd(GONE if status is None else status, out_of_memory, of_node)
            self._crashed(end, last)

    def explain(self, entry: str, text: str) -> None:
        """Say in the console, and in an entry of the activity log, what it lacks."""
        self.say(text, keep=True)
        self.publish(EXPLAINED, entry, text)

    # Holds

    @property
    def hold(self) -> str:
        """The reason why it may not be started now; empty when it may."""
        hold = self.operations.hold
        return hold.why if hold and hold.operation is not Operation.FOLLOW else ""

    @property
    def disowned(self) -> bool:
        """True if the Panel has assigned it to another node, or may have: it is a remainder."""
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
        """Cancel any automatic start. Only a user may start the server now."""
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
                await self._do(action, wait_seconds)
        except WingsdError as error:
            self.say(f"The {action.value} failed: {error}")
            raise
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{server}: {action} failed", server=self.uuid, action=action.value)
            self.say(f"The {action.value} failed unexpectedly; see the node's log.")
            raise

    async def stop_within(self, grace: float, *, kills: bool = True) -> bool:
        """Stop it as its egg says, within `grace` seconds; return whether it is offline.

        With `kills` it is killed after that time, so that it always is. Cancels a start, and waits
        for another action within the same time.
        Raises `EnvironmentFailed`. Cancelled, it requests nothing more; a stop that was requested
        continues.
        """
        deadline = self._reactor.seconds() + grace
        self._cancel_start()
        try:
            await self._acquire(grace)
        except Conflict:
            if not kills:
                return False
            await self._kill()
            await self._lock.acquire()
        left = deadline - self._reactor.seconds()
        try:
            if not kills:
                return await self._stopped_within(left)
            await self._stop(grace, left)
        finally:
            self._lock.release()
        return True

    async def command(self, line: str) -> None:
        """Type a line into the console. Raises `ServerNotRunning`, `EnvironmentFailed`.

        The egg's stop command makes the state `stopping`, so that the end is no crash.
        """
        run = self.run
        if run is None or run.running is None:
            raise ServerNotRunning(NOT_RUNNING)
        stop = self.configuration.process.stop
        if stop.type != "command" or line.strip() != stop.value.strip():
            await run.running.command(line)
            return
        # The line may have been read, or may still be.
        with self._requesting_end(run, (CancelledError, ConsoleBlocked)):
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
        after = self.configuration.settings.build
        if after != before and self.run is not None:
            self._tasks.start("changing its limits", self._change_limits(before, after), self.uuid)

    async def _change_limits(self, before: Build, after: Build) -> None:
        """Apply changed limits to its running container; the others wait for a start."""
        try:
            warnings = await self._containers.update(self.uuid, before, after)
        except EnvironmentFailed as error:
            self.say(f"The server's new limits take effect at its next start: {error.detail}")
            return
        for warning in warnings:
            self.say(f"A limit is not applied to the running server: {warning}")

    def stop_if_suspended(self) -> None:
        """Stop it in the background if it runs and is suspended."""
        if self.suspended and self.state is not PowerState.OFFLINE:
            self.say("The server is suspended and is stopped.")
            self._tasks.start(
                "stopping it, since it is suspended", self.stop_within(SUSPENSION_GRACE), self.uuid
            )

    async def fetch(self) -> None:
        """Fetch the settings again. Raises the errors of `sync`."""
        if not self.moved_directly:
            self._configure(await self._panel.describe(self.uuid))

    def _configure(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.files.apply_limit()
        self._compare_settings(self._launched)
        if self.suspended:
            self.publish(SUSPENDED)

    # Its start

    async def prepare(self) -> None:
        """Do what comes before every start, from fetching its settings to its files' owner.

        Raises the errors of `sync`, `DiskLimitExceeded`, and `StorageError` where its directory
        cannot be made or, with a disk limit, not be measured.
        """
        await self.fetch()
        self.check_power(PowerAction.START)
        files, user = self.files, self._config.system.user
        if not files.exists:
            await files.make()
        await self._check_disk()
        self.daemon_line("Updating process configuration files...")
        for line in await self._egg_files.rewrite(self.configuration):
            self.say(line)
        # The ids of files on the host are unknown when the engine runs without root.
        checks_owner = self._config.system.check_permissions_on_boot and not user.rootless.enabled
        if files.presence is Presence.RECEIVED:
            files.presence = Presence.PRESENT
        elif checks_owner:
            await self._give_files_to_user()

    async def _check_disk(self) -> None:
        """Count the files, and return if the server may be started.

        Without a limit nothing is waited for. Raises `DiskLimitExceeded`, and `StorageError` where
        a server with a limit cannot be measured.
        """
        files = self.files
        if not files.is_counted:
            return
        self.daemon_line(CHECKING)
        is_known = files.presence is Presence.RECEIVED
        if files.limit is None:
            if not is_known:
                files.measure()
            return
        try:
            used = files.disk_bytes if is_known else await files.measured()
            self._require(used or 0)
            # A program that cannot write would damage its files.
            self._require(await files.quota.used(), " on the disk")
        except StorageError as error:
            error.add_context("its disk limit cannot be checked")
            raise

    def _require(self, used: int, where: str = "") -> None:
        limit = self.files.limit
        if limit is not None and used > limit:
            taken = f"{readable_size(used)}{where}"
            raise DiskLimitExceeded(
                f"the server's files take {taken}, and its disk limit is {readable_size(limit)}; "
                "delete files, or raise its disk limit in the Panel"
            )

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

    async def launch(self) -> None:
        """Make the environment from the present settings, and start the program.

        Raises `EnvironmentFailed`; then nothing runs.
        """
        configuration = self.configuration
        self._compare_settings(configuration.settings)
        try:
            left_out = await self._containers.recreate(configuration.settings, self.show_pull)
            await self._run_program(configuration, left_out)
        except BaseException:
            # As with Wings: `stopping` before `offline` says that this is no crash.
            if self.state is PowerState.STARTING:
                self.transition(PowerEvent.STOP)
            raise

    async def _run_program(self, configuration: Configuration, left_out: Iterable[str]) -> None:
        detector = StartupDetector(configuration.process.startup)
        for error in detector.errors:
            self.say(error)
        self._features = FeatureMatcher.of(configuration)
        if self._features.ignored:
            self.say(
                f"The egg has {TEXTS_MAX + self._features.ignored} texts that the page has "
                f"dialogues for; only the first {TEXTS_MAX} are looked for."
            )
        self._since = self._reactor.seconds()
        self.figures.begin()
        run = self.run = self._new_run(detector or None)
        self._joined_late = False
        for line in left_out:
            self.say(line, keep=True)
        try:
            run.running = await self._containers.start(self.uuid, run)
        except BaseException:
            run.end_requested = True
            # It may run all the same: the engine may have started it before it failed to answer.
            try:
                await self._containers.remove(self.uuid)
            except EnvironmentFailed as error:
                self._log.error(
                    "{server}: the container of a failed start was not removed: {error}",
                    server=self.uuid,
                    error=error,
                )
            run.detach()
            self.run = None
            raise
        if run.ready and not run.over:
            self.transition(PowerEvent.READY)

    def _new_run(self, startup: StartupDetector | None = None) -> Run:
        return Run(self, self._reactor, Throttle(self._config.throttles), startup)

    async def _adopt(self) -> None:
        """Watch its program from now on if it runs already. Raises `EnvironmentFailed`."""
        if self._adopted:
            return
        configuration = self.configuration
        self._features = FeatureMatcher.of(configuration)
        run = self._new_run()
        running = await self._containers.adopt(self.uuid, run)
        if running is not None and not run.over:
            run.running, self.run = running, run
            self._joined_late = True
            self._compare_settings(configuration.settings)
            self.transition(PowerEvent.ADOPTED)
        self._adopted = True

    # For the registry, and for transfers

    async def adopt(self) -> None:
        """Watch its program if it runs already. Raises `EnvironmentFailed`."""
        await self._lock.run(self._adopt)
        self.stop_if_suspended()

    async def remove_environment(self) -> None:
        """Remove its environment, which kills it. Raises `EnvironmentFailed`."""
        self._cancel_start()
        # Its files are deleted next: they are not measured after this end.
        before, self.files.presence = self.files.presence, Presence.LEAVING
        if self.run is not None:
            self.run.end_requested = True
        try:
            await self._containers.remove(self.uuid)
        except BaseException:
            self.files.presence = before
            raise

    async def restore_environment(self) -> None:
        """Make its environment again after a removal that is rolled back.

        A failure is only logged: the next start makes the environment in any case.
        """
        self.files.presence = Presence.PRESENT
        try:
            await self._containers.create(self.configuration.settings)
        except EnvironmentFailed as error:
            self._log.warn(
                "{server}: its container was not created again, the next start does it: {error}",
                server=self.uuid,
                error=error,
            )

    def detach(self) -> None:
        """Stop listening to its program, which continues to run."""
        if self.run is not None:
            self.run.detach()

    def close(self) -> None:
        """Let go of a server that has left this node."""
        self.files.close()
        self.detach()

    # Power actions

    async def _do(self, action: PowerAction, wait_seconds: float) -> None:
        """Run one action to its end, after waiting at most `wait_seconds` for the previous one.

        Raises `Conflict` when that is not over in time, or the server runs already, and the errors
        of preparation and of the environment.
        """
        if action is PowerAction.KILL:
            await self._kill()
            return
        if action is PowerAction.STOP:
            self._cancel_start()
        elif action is PowerAction.START:
            self._check_startable(PowerState.OFFLINE, PowerState.STOPPING)
        await self._acquire(wait_seconds)
        try:
            if action is not PowerAction.START:
                await self._stop(self._config.system.stop_timeout)
            if action.starts:
                await self._start()
        finally:
            self._lock.release()

    def _cancel_start(self) -> None:
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
        if self.state not in states:
            raise Conflict("server is running", "stop it first, or restart it")

    async def _start(self) -> None:
        self.check_power(PowerAction.START)
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
        self.console.clear()
        self.transition(PowerEvent.START)
        try:
            await self.prepare()
            # The Panel's settings may be new, and a transfer may have begun.
            self.check_power(PowerAction.START)
            await self.launch()
        except BaseException:
            # The program may run all the same: an engine that fails may have started it.
            self._adopted = False
            self.transition(PowerEvent.END)
            raise

    # Stopping

    async def _stop(self, timeout: float, left: float | None = None) -> None:
        """Stop within `timeout` seconds, of which `left` are left; then kill."""
        if not await self._stopped_within(timeout if left is None else left):
            self.say(f"The server has not stopped within {timeout:g} s and is killed.")
            await self._kill()

    async def _stopped_within(self, seconds: float) -> bool:
        await self._adopt()
        run = self.run
        if run is None or run.running is None:
            return True
        # Cancelled, the request may have been sent: the end is then no crash.
        with self._requesting_end(run, CancelledError):
            try:
                await request_stop(run.running, self.configuration.process.stop)
            except ConsoleBlocked as error:
                # The timeout is for servers that hang.
                self.say(str(error))
        return await run.wait(max(seconds, 0))

    async def _kill(self) -> None:
        if self._starting is not None:
            self._cancel_start()
            await self._lock.run(lambda: None)
            return
        if not self._adopted:
            await self._lock.run(self._adopt)
        run = self.run
        if run is None or run.running is None:
            return
        with self._requesting_end(run, BaseException if run.end_requested else ()):
            await run.running.kill()
        if not await run.wait(KILL_TIMEOUT):
            raise EnvironmentFailed(
                f"the server was killed, and {KILL_TIMEOUT:g} s later the engine has not "
                f"reported its exit; see the engine's log, and kill the server again"
            )

    @contextmanager
    def _requesting_end(
        self, run: Run, possible: type[BaseException] | tuple[type[BaseException], ...]
    ) -> Iterator[None]:
        """Request the end of a run; it counts as requested after an error that is `possible`."""
        self.transition(PowerEvent.STOP)
        run.end_requested = True
        try:
            yield
        except BaseException as error:
            if not run.over:
                run.end_requested = isinstance(error, possible)
                self.transition(PowerEvent.STOP_FAILED)
            raise

    # After a crash

    def _crashed(self, end: ProgramEnd, last: ContainerUsage) -> None:
        """Start the server again, in the background, if the rules say so after this end.

        The rules and lines are Wings', but for the sentence about a kill, with the figures of the
        `last` reading. The time of the last such start is kept in memory: after the daemon's
        restart the next crash is the first one, as for Wings. Each crash is published, with some
        lines of the console.
        """
        now = self._reactor.seconds()
        rules, restart = self._config.system.crash_detection, self._last_restart
        decision = decide(
            rules,
            enabled=self.configuration.settings.crash_detection_enabled,
            end=end,
            since_restart=None if restart is None else now - restart,
        )
        if decision.is_crash or end.exit_code or end.out_of_memory:
            self.figures.crashes[end.reason] += 1
        reason = killed_text(last, of_node=end.of_node) if end.out_of_memory else ""
        if decision.is_crash:
            count = min(self._config.system.crash_detection_activity_lines, LINES_MAX)
            crash = {
                "exit_code": end.exit_code,
                "out_of_memory": end.out_of_memory,
                "reason": reason,
                "restarted": decision is CrashDecision.RESTART,
                "lines": [line[:LINE_MAX] for line in self.console.lines(count)],
            }
            self.publish(CRASHED, json.dumps(crash))
        if reason:
            self.say(reason, keep=True)
        for line in crash_lines(decision, end, rules.timeout):
            self.daemon_line(line, keep=True)
        self._log.info(
            "{server}: its program {how}, exit code {code}: {decision}",
            server=self.uuid,
            how="was killed, out of memory" if end.out_of_memory else "ended by itself",
            code=end.exit_code,
            decision=decision.value,
        )
        if decision is not CrashDecision.RESTART:
            return
        if self.restart_later is not None:
            self._last_restart = now
            self.restart_later()
            return
        try:
            self.check_power(PowerAction.START)
        except WingsdError as error:
            self.say(f"The server is not started again after its crash: {error}")
            self.daemon_line(FAILED, keep=True)
        else:
            self._last_restart = now
            self._tasks.start("the restart after its crash", self._restart(), self.uuid)

    async def _restart(self) -> None:
        try:
            await self.power(PowerAction.START)
        except CancelledError:
            raise
        except Exception:  # `power` has logged it.
            # Someone may have been faster; and a stop cancels the start.
            if self.state is PowerState.OFFLINE:
                self.daemon_line(FAILED, keep=True)
