"""The runtime of a server: its environment, its process, its state, console and usage.

Every change is published on the event bus.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from wingsd.docker.runtime import ContainerUsage, Environment, LayerProgress, Running
from wingsd.errors import EnvironmentFailed
from wingsd.events import (
    CONSOLE_OUTPUT,
    DAEMON_MESSAGE,
    FEATURE_MATCH,
    IMAGE_PULL_COMPLETED,
    IMAGE_PULL_PROGRESS,
    INSTALL_OUTPUT,
    PENDING_RESTART,
    STATS,
    STATUS,
    Event,
    EventBus,
)
from wingsd.panel.schemas import Build, Configuration, Settings
from wingsd.servers.console import (
    LONGEST_MATCHED_LINE,
    WINDOW,
    Console,
    ConsoleSettings,
    LineSplitter,
    StartupDetector,
    Throttle,
    daemon_line,
    text,
    without_ansi,
)
from wingsd.servers.disk_usage import ServerFiles
from wingsd.servers.power_states import PowerEvent, PowerState, next_state
from wingsd.util.serialization import Keywords, unstructure
from wingsd.util.text import escaped

__all__ = [
    "DiskIo",
    "NetworkUsage",
    "ProgramEnd",
    "Run",
    "ServerDetails",
    "ServerRuntime",
    "Utilization",
]


#: The exit code of a program whose container is gone.
GONE = 1


@attrs.frozen(repr=False)
class ProgramEnd:
    """The end of a program."""

    exit_code: int
    out_of_memory: bool = False

    @classmethod
    def of(cls, status: int | None, *, out_of_memory: bool) -> ProgramEnd:
        """Return the end with an exit status, None where the engine does not know it."""
        return cls(GONE if status is None else status, out_of_memory)


class RunListener(Protocol):
    """The receiver of a run's events."""

    def on_line(self, line: str) -> None:
        """Take a line of the console."""

    def on_flood(self) -> None:
        """Take note that lines are being left out."""

    def on_ready(self) -> None:
        """Take note that the startup is finished."""

    def on_usage(self, usage: ContainerUsage) -> None:
        """Take a measurement of the program's usage."""

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool) -> None:
        """Take the end of the run, its last event."""


class Run:
    """One run of a server's program: a `wingsd.docker.Watcher`.

    `running` is None until the program has been started. `end_requested` says whether a user or
    the node asked for the end, `ready` whether the startup is finished, by the `startup` line if
    the egg has one.
    """

    def __init__(
        self,
        listener: RunListener,
        reactor: IReactorTime,
        throttle: Throttle,
        startup: StartupDetector | None = None,
    ) -> None:
        self.running: Running | None = None
        self.end_requested = False
        self.ready = startup is None
        self.over = False
        self._listener = listener
        self._reactor = reactor
        self._startup = startup
        self._lines = LineSplitter()
        self._throttle = throttle
        self._timer: IDelayedCall | None = None
        self._detached = False
        self._waiting: list[Deferred[None]] = []

    async def wait(self, seconds: float) -> bool:
        """Return whether the run is over within `seconds`, as soon as it is."""
        if self.over:
            return True
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        waiting.addTimeout(seconds, self._reactor)
        try:
            await waiting
        except DeferredTimeout:
            return False
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        return True

    def detach(self) -> None:
        """Stop listening; the program continues to run."""
        self._detached = True
        self._stop_timer()
        if self.running is not None and not self.over:
            self.running.detach()

    # `wingsd.docker.Watcher`

    def output(self, data: bytes) -> None:
        """Pass on the lines that the program wrote, within the throttle's limits."""
        if not self._detached:
            self._take(self._lines.feed(data))

    def usage(self, usage: ContainerUsage) -> None:
        """Pass on the program's usage."""
        if not self._detached:
            self._listener.on_usage(usage)

    def ended(self, status: int | None, *, out_of_memory: bool) -> None:
        """Pass on an unfinished last line, and the end."""
        self.over = True
        if not self._detached:
            self._take(self._lines.end())
            self._stop_timer()
            self._report_omitted(self._throttle.flush())
            self._listener.on_end(self, status, out_of_memory=out_of_memory)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def _take(self, lines: list[bytes]) -> None:
        now = self._reactor.seconds()
        self._report_omitted(self._throttle.ended(now))
        flooded = self._throttle.active
        for line in lines[: self._throttle.admit(lines, now)]:
            self._listener.on_line(text(line))
        if self._throttle.active and not flooded:
            self._listener.on_flood()
        if self._throttle.active and self._timer is None:
            self._timer = self._reactor.callLater(WINDOW, self._check_throttle)
        startup = self._startup
        # Omitted lines count here all the same; most lines of a flood are equal.
        if startup is not None and any(startup.match(text(line)) for line in dict.fromkeys(lines)):
            self._startup = None
            self.ready = True
            self._listener.on_ready()

    def _check_throttle(self) -> None:
        self._timer = None
        self._report_omitted(self._throttle.ended(self._reactor.seconds()))
        if self._throttle.active:
            self._timer = self._reactor.callLater(WINDOW, self._check_throttle)

    def _report_omitted(self, count: int) -> None:
        if count:
            self._listener.on_line(f"[wingsd] {count} lines were left out")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class PendingRestart:
    """Compares a server's settings with those of its run: it may wait for a restart.

    Limits are applied to the running container, and are not among them.

    `publish` is called with `true` or `false`, as the event's argument, whenever that changes.
    """

    def __init__(self, publish: Callable[[str], object]) -> None:
        self._publish = publish
        self._launched: Settings | None = None
        #: Whether a restart would change anything.
        self.pending = False

    def launched(self, settings: Settings) -> None:
        """Note the settings with which a run begins, or has been found."""
        self._launched = settings
        self._set(pending=False)

    def ended(self) -> None:
        """Note the end of the run: the next start has the settings of then."""
        self._launched = None
        self._set(pending=False)

    def compare(self, settings: Settings) -> None:
        """Compare the settings that the Panel has now."""
        run = self._launched
        self._set(pending=run is not None and _of_start(run) != _of_start(settings))

    def _set(self, *, pending: bool) -> None:
        if pending is not self.pending:
            self.pending = pending
            self._publish("true" if pending else "false")


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


#: Texts that are looked for in every line. A console has 1 MiB a second at most, and the worst of
#: texts is compared with some 250 MiB a second.
TEXTS_MAX = 50


@attrs.frozen(repr=False)
class FeatureMatch:
    """What a `feature match` event has: the dialogue's key, the text found, and the line."""

    key: str
    pattern: str
    line: str


class FeatureMatcher:
    """Finds texts in lines by `features`, an egg's texts by the key of the dialogue.

    A Panel's page has a dialogue for each. Source: Pelican's Wings, which compares each line and
    stops at the first text that is found. Case does not matter; with `strip_ansi` neither do
    colours. What is not in this form is ignored: it comes from an egg, and no server may fail for
    it. `ignored` is how many texts there are beyond `TEXTS_MAX`, which are not looked for.
    """

    def __init__(self, features: object = None, *, strip_ansi: bool = False) -> None:
        found = features.items() if isinstance(features, Mapping) else ()
        texts = [
            (str(key), text, text.lower())
            for key, texts in found
            for text in (texts if isinstance(texts, list) else ())
            if isinstance(text, str) and 0 < len(text) <= LONGEST_MATCHED_LINE
        ]
        self._texts = texts[:TEXTS_MAX]
        self._strip_ansi = strip_ansi
        self.ignored = len(texts) - len(self._texts)

    @classmethod
    def of(cls, configuration: Configuration) -> FeatureMatcher:
        """Return the matcher of a server's egg."""
        strip = configuration.process.startup.strip_ansi
        return cls(configuration.settings.egg.features, strip_ansi=strip)

    def match(self, line: str) -> FeatureMatch | None:
        """Return the first text of the egg that the line has."""
        if not self._texts:
            return None
        if self._strip_ansi:
            line = without_ansi(line)
        lower = line[:LONGEST_MATCHED_LINE].lower()
        for key, wanted_text, wanted in self._texts:
            if wanted in lower:
                return FeatureMatch(key, wanted_text, line)
        return None


Amount = Annotated[int, Keywords(minimum=0)]


@attrs.frozen(eq=False, repr=False)
class NetworkUsage:
    """Bytes and packets received and sent since the server's start."""

    rx_bytes: Amount
    tx_bytes: Amount
    rx_packets: Amount
    tx_packets: Amount


@attrs.frozen(eq=False, repr=False)
class DiskIo:
    """Bytes read from and written to disks since the server's start."""

    read_bytes: Amount
    write_bytes: Amount


@attrs.frozen(eq=False, repr=False)
class Utilization:
    """What a server uses."""

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


class ServerRuntime:
    """The environment and the state of the server with the UUID `uuid`.

    The server's `files` are measured after each run, and while the program runs.
    """

    _log = Logger()

    def __init__(
        self,
        uuid: str,
        environment: Environment,
        bus: EventBus,
        files: ServerFiles,
        reactor: IReactorTime,
        settings: ConsoleSettings,
    ) -> None:
        self.uuid = uuid
        self.state = PowerState.OFFLINE
        self.usage = ContainerUsage()
        self.console = Console(max(settings.log_count, LEAST_KEPT))
        #: The current run, from before its start to its end.
        self.run: Run | None = None
        #: Seconds from the last stop's request to the end, and from the last launch of the program
        #: until it was ready; 0 where this daemon has seen none.
        self.stop_seconds = self.start_seconds = 0.0
        #: When what of these is under way has begun.
        self._since: float | None = None
        #: Whether the run was found running, so that the console lacks its beginning.
        self._joined_late = False
        self._environment = environment
        self._bus = bus
        self._files = files
        self._reactor = reactor
        self._settings = settings
        self._features = FeatureMatcher()
        self.pending_restart = PendingRestart(partial(self.publish, PENDING_RESTART))
        #: Called with each measurement of the program's usage.
        self.when_measured: Callable[[], object] = lambda: None
        #: Called when the program has ended without a stop, kill or removal.
        self.when_crashed: Callable[[ProgramEnd], object] = lambda end: None
        #: Returns the server's limit, in percent of one core; 0 is none.
        self.cpu_limit: Callable[[], int] = lambda: 0
        files.when_changed = self._disk_usage_changed

    # The environment

    async def launch(self, configuration: Configuration) -> None:
        """Make the environment from these settings, and start the program.

        Raises `EnvironmentFailed`; then nothing runs.
        """
        self.pending_restart.launched(configuration.settings)
        try:
            settings = configuration.settings
            left_out = await self._environment.recreate(settings, self.show_pull)
            await self._start(configuration, left_out)
        except BaseException:
            # As with Wings: `stopping` before `offline` says that this is no crash.
            if self.state is PowerState.STARTING:
                self.transition(PowerEvent.STOP)
            raise

    async def _start(self, configuration: Configuration, left_out: Iterable[str]) -> None:
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
        run = self.run = Run(self, self._reactor, self._throttle(), detector or None)
        self._joined_late = False
        for line in left_out:
            self.say(line, keep=True)
        try:
            run.running = await self._environment.start(self.uuid, run)
        except BaseException:
            run.end_requested = True
            # It may run all the same: the engine may have started it before it failed to answer.
            await self._remove_failed()
            run.detach()
            self.run = None
            raise
        if run.ready and not run.over:
            self.transition(PowerEvent.READY)

    async def adopt(self, configuration: Configuration) -> bool:
        """Watch the program if it runs already; return whether it does.

        Raises `EnvironmentFailed`.
        """
        self._features = FeatureMatcher.of(configuration)
        run = Run(self, self._reactor, self._throttle())
        running = await self._environment.adopt(self.uuid, run)
        if running is None or run.over:
            return False
        run.running, self.run = running, run
        self._joined_late = True
        self.pending_restart.launched(configuration.settings)
        self.transition(PowerEvent.ADOPTED)
        return True

    def _throttle(self) -> Throttle:
        return Throttle(self._settings.throttles)

    async def _remove_failed(self) -> None:
        try:
            await self._environment.remove(self.uuid)
        except EnvironmentFailed as error:
            self._log.error(
                "{server}: the container of a failed start was not removed: {error}",
                server=self.uuid,
                error=error,
            )

    async def remove(self) -> None:
        """Remove the environment, which kills the program. Raises `EnvironmentFailed`."""
        if self.run is not None:
            self.run.end_requested = True
        await self._environment.remove(self.uuid)

    async def restore(self, settings: Settings) -> None:
        """Make the environment again after a removal that is rolled back.

        A failure is only logged: the next start makes the environment in any case.
        """
        try:
            await self._environment.create(settings)
        except EnvironmentFailed as error:
            self._log.warn(
                "{server}: its container was not created again, the next start does it: {error}",
                server=self.uuid,
                error=error,
            )

    async def update(self, before: Build, after: Build) -> list[str]:
        """Change the limits of the running program; return what is not applied, and why.

        Raises `EnvironmentFailed`.
        """
        return await self._environment.update(self.uuid, before, after)

    def detach(self) -> None:
        """Stop listening to the run; the program continues to run."""
        if self.run is not None:
            self.run.detach()

    async def logs(self, lines: int) -> list[str]:
        """Return the last lines of the console.

        The engine is asked for those that this node has not seen; its failure is logged.
        """
        seen = self.console.lines(lines)
        if seen and (len(seen) >= lines or not self._joined_late):
            return seen
        try:
            return await self._environment.logs(self.uuid, lines) or seen
        except EnvironmentFailed as error:
            self._log.warn(
                "{server}: its old console lines cannot be read: {error}",
                server=self.uuid,
                error=error,
            )
            return seen

    # Events

    def publish(self, event: str, *args: str) -> None:
        """Publish an event of this server."""
        self._bus.publish(Event(self.uuid, event, args))

    def say(self, message: str, *, keep: bool = False) -> None:
        """Show a message of the node in the console, and log it.

        With `keep` it becomes one of the console's last lines as well.
        """
        self._log.info("{server}: {message}", server=self.uuid, message=message)
        # It may quote the engine, a registry or another node, and ends up in a terminal.
        shown = escaped(message)
        if keep:
            self.console.add(f"[wingsd] {shown}")
        self.publish(DAEMON_MESSAGE, shown)

    def daemon_line(self, message: str, *, keep: bool = False) -> None:
        """Show a message of the node as a line of the console, in Wings' form, and log it.

        With `keep` it becomes one of the console's last lines as well.
        """
        self._log.info("{server}: {message}", server=self.uuid, message=message)
        line = daemon_line(self._settings.app_name, message)
        if keep:
            self.console.add(line)
        self.publish(CONSOLE_OUTPUT, line)

    def show_pull(self, news: str | LayerProgress | None) -> None:
        """Show a pull: its lines, "" at the beginning, None at the end, and its layers' progress.

        The lines are the event of Wings for them, also where nothing is being installed.
        """
        if news is None:
            self.daemon_line(PULLED)
        elif isinstance(news, LayerProgress):
            self._show_layer(news)
        elif not news:
            self.daemon_line(PULLING)
        else:
            self.publish(INSTALL_OUTPUT, escaped(news))

    def _show_layer(self, layer: LayerProgress) -> None:
        """Publish Calagopus' events: with the names of 2026's nodes, and of those before."""
        if not layer.status:
            self.publish(IMAGE_PULL_COMPLETED, layer.layer)
            return
        progress = {
            "status": layer.status,
            "bytes_processed": layer.done,
            "bytes_total": layer.total,
            "progress": layer.done,
            "total": layer.total,
        }
        self.publish(IMAGE_PULL_PROGRESS, layer.layer, json.dumps(progress))

    def transition(self, event: PowerEvent) -> None:
        """Enter the next state. Raises `ValueError` for an impossible event."""
        previous, self.state = self.state, next_state(self.state, event)
        if self.state is previous:
            return
        self._time(previous)
        self._log.info("{server}: {state}", server=self.uuid, state=self.state.value)
        self.publish(STATUS, self.state.value)
        if self.state is PowerState.OFFLINE:
            self.pending_restart.ended()
            self.usage = ContainerUsage()
            self.publish(STATS, self.stats())
            self._files.measure()

    def _time(self, previous: PowerState) -> None:
        """Measure how long its starts and stops take, at each change of the state."""
        now, since, self._since = self._reactor.seconds(), self._since, None
        match previous, self.state:
            case PowerState.RUNNING, PowerState.STOPPING:
                self._since = now
            case PowerState.STARTING, PowerState.RUNNING if since is not None:
                self.start_seconds = now - since
            case PowerState.STOPPING, PowerState.OFFLINE if since is not None:
                self.stop_seconds = now - since

    def utilization(self) -> Utilization:
        """Return the server's usage, in the Panel's form."""
        usage = self.usage
        return Utilization(
            memory_bytes=usage.memory_bytes,
            memory_limit_bytes=usage.memory_limit_bytes,
            cpu_absolute=usage.cpu_absolute,
            cpu_limit_absolute=max(self.cpu_limit(), 0) or 100 * (os.cpu_count() or 1),
            network=NetworkUsage(
                usage.rx_bytes, usage.tx_bytes, usage.rx_packets, usage.tx_packets
            ),
            disk_io=DiskIo(usage.disk_read_bytes, usage.disk_written_bytes),
            uptime=usage.uptime,
            state=self.state,
            disk_bytes=self._files.disk_bytes or 0,  # Panels read a number
        )

    def stats(self) -> str:
        """Return `utilization` as JSON."""
        return json.dumps(unstructure(self.utilization()), separators=(",", ":"))

    def _disk_usage_changed(self) -> None:
        # A server that runs publishes its usage every second.
        if self.state is PowerState.OFFLINE:
            self.publish(STATS, self.stats())

    # `RunListener`

    def on_line(self, line: str) -> None:
        """Keep and publish a console line, and what the egg has a dialogue for."""
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
        """Publish the program's usage."""
        self.usage = usage
        self._files.measure_if_stale()
        self.publish(STATS, self.stats())
        self.when_measured()

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool) -> None:
        """Enter the state `offline`; call `when_crashed` for one that was not requested."""
        if run is not self.run:
            return
        self.run = None
        crashed = self.state is not PowerState.STOPPING and not run.end_requested
        self.transition(PowerEvent.END)
        if crashed:
            self.when_crashed(ProgramEnd.of(status, out_of_memory=out_of_memory))
