"""A server while it runs: its process, its state, its console, and what it uses.

Whatever changes here is told on the event bus.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from wingsd.docker.runtime import Running, Usage
from wingsd.errors import EnvironmentFailed
from wingsd.events import CONSOLE_OUTPUT, DAEMON_MESSAGE, STATS, STATUS, Event
from wingsd.panel.schemas import Startup
from wingsd.servers.collaborators import ServerCollaborators
from wingsd.servers.console import WINDOW, Console, LineSplitter, StartupDetector, Throttle, text
from wingsd.servers.power_states import Happening, PowerState, after
from wingsd.util.serialization import Keywords, unstructure
from wingsd.util.text import escaped

__all__ = ["Listener", "NetworkUsage", "Run", "ServerDetails", "ServerRuntime", "Utilization"]

Amount = Annotated[int, Keywords(minimum=0)]


@attrs.frozen
class NetworkUsage:
    """Bytes that have come and gone since the server's start."""

    rx_bytes: Amount
    tx_bytes: Amount


@attrs.frozen
class Utilization:
    """What a server uses."""

    memory_bytes: Amount
    memory_limit_bytes: Annotated[Amount, "0 is no limit."]
    cpu_absolute: Annotated[float, Keywords(minimum=0), "Percent of one core."]
    network: NetworkUsage
    uptime: Annotated[Amount, "Milliseconds since its start."]
    state: PowerState
    disk_bytes: Annotated[Amount, "What its files use, as last measured; 0 before that was done."]


@attrs.frozen
class ServerDetails:
    """A server: what it is and does."""

    state: PowerState
    is_suspended: bool
    utilization: Utilization
    configuration: Annotated[dict[str, Any], "The settings, as the Panel gave them."]


class Listener(Protocol):
    """Who is told what a run does."""

    def on_line(self, line: str) -> None:
        """It wrote a line to its console."""

    def on_up(self) -> None:
        """It says that it is up."""

    def on_usage(self, usage: Usage) -> None:
        """What it uses."""

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool) -> None:
        """It has ended; nothing more is told."""


class Run:
    """A `wingsd.docker.Watcher`.

    `running` is None until the program has been started; `asked` tells whether somebody wanted
    it to end, `up` whether it has said that it is up, if it is expected to.
    """

    def __init__(
        self, listener: Listener, reactor: Any, done: StartupDetector | None = None
    ) -> None:
        self.running: Running | None = None
        self.asked = False
        self.up = done is None
        self.over = False
        self._listener = listener
        self._reactor = reactor
        self._done = done
        self._lines = LineSplitter()
        self._throttle = Throttle()
        self._timer: Any = None
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
        """Listen no longer; the program goes on."""
        self._detached = True
        self._stop_timer()
        if self.running is not None and not self.over:
            self.running.detach()

    # `wingsd.docker.Watcher`

    def output(self, data: bytes) -> None:
        """Pass on the lines that the program wrote, unless they are too many."""
        if not self._detached:
            self._take(self._lines.feed(data))

    def usage(self, usage: Usage) -> None:
        """Pass on what the program uses."""
        if not self._detached:
            self._listener.on_usage(usage)

    def ended(self, status: int | None, *, out_of_memory: bool) -> None:
        """Pass on the last words and the end."""
        self.over = True
        if not self._detached:
            self._take(self._lines.end())
            self._stop_timer()
            self._tell_left_out(self._throttle.flush())
            self._listener.on_end(self, status, out_of_memory=out_of_memory)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def _take(self, lines: list[bytes]) -> None:
        now = self._reactor.seconds()
        self._tell_left_out(self._throttle.ended(now))
        for line in lines[: self._throttle.admit(lines, now)]:
            self._listener.on_line(text(line))
        if self._throttle.on and self._timer is None:
            self._timer = self._reactor.callLater(WINDOW, self._look)
        done = self._done
        # What is left out counts here all the same; a flood says mostly one thing.
        if done is not None and any(done.match(text(line)) for line in dict.fromkeys(lines)):
            self._done = None
            self.up = True
            self._listener.on_up()

    def _look(self) -> None:
        self._timer = None
        self._tell_left_out(self._throttle.ended(self._reactor.seconds()))
        if self._throttle.on:
            self._timer = self._reactor.callLater(WINDOW, self._look)

    def _tell_left_out(self, count: int) -> None:
        if count:
            self._listener.on_line(f"[wingsd] {count} lines were left out")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


#: What Wings gives out at most over its API; the WebSocket's figure is configured.
LEAST_KEPT = 100


class ServerRuntime:
    """The life of the server with the UUID `uuid`.

    `when_offline` is called after each run, `when_used` whenever the program was measured.
    """

    _log = Logger()

    def __init__(
        self,
        uuid: str,
        means: ServerCollaborators,
        when_offline: Callable[[], None],
        when_used: Callable[[], None],
    ) -> None:
        self.uuid = uuid
        self.state = PowerState.OFFLINE
        self.usage = Usage()
        #: Bytes, as last measured; None before that was done once.
        self.disk_bytes: int | None = None
        self.console = Console(max(means.config.system.websocket_log_count, LEAST_KEPT))
        #: The run under way, from before it starts to its end.
        self.run: Run | None = None
        #: Whether the console lacks the beginning of the run, since it was found running.
        self.joined_late = False
        self._means = means
        self._when_offline = when_offline
        self._when_used = when_used

    # How a run begins

    async def launch(self, startup: Startup) -> None:
        """Start the program in an environment that has been made.

        Raises `EnvironmentFailed`; then nothing runs.
        """
        done = StartupDetector(startup)
        for fault in done.faults:
            self.say(fault)
        run = self.run = Run(self, self._means.reactor, done or None)
        self.joined_late = False
        try:
            run.running = await self._means.environment.start(self.uuid, run)
        except BaseException:
            run.asked = True
            # It may run all the same: the engine was asked, and only the answer is missing.
            await self._clear_away()
            run.detach()
            self.run = None
            raise
        if run.up and not run.over:
            self.happen(Happening.UP)

    async def adopt(self) -> bool:
        """Watch the program where it runs already; return whether it does.

        Raises `EnvironmentFailed`.
        """
        run = Run(self, self._means.reactor)
        running = await self._means.environment.adopt(self.uuid, run)
        if running is None or run.over:
            return False
        run.running, self.run = running, run
        self.joined_late = True
        self.happen(Happening.FOUND)
        return True

    async def _clear_away(self) -> None:
        try:
            await self._means.environment.remove(self.uuid)
        except EnvironmentFailed as error:
            self._log.error(
                "{server}: what a failed start left was not removed: {error}",
                server=self.uuid,
                error=error,
            )

    def detach(self) -> None:
        """Hear nothing more of the run; the program goes on."""
        if self.run is not None:
            self.run.detach()

    # What is told

    def publish(self, event: str, *args: str) -> None:
        """Tell an event of this server."""
        self._means.bus.publish(Event(self.uuid, event, args))

    def say(self, message: str, *, keep: bool = False) -> None:
        """Tell people something of the node's own, in the console and in the log.

        With `keep` it is one of the console's last lines as well.
        """
        self._log.info("{server}: {message}", server=self.uuid, message=message)
        # It may quote the engine, a registry or another node, and ends up in a terminal.
        shown = escaped(message)
        if keep:
            self.console.add(f"[wingsd] {shown}")
        self.publish(DAEMON_MESSAGE, shown)

    def happen(self, happening: Happening) -> None:
        """Enter the state that follows. Raises `ValueError` where none does."""
        before, self.state = self.state, after(self.state, happening)
        if self.state is before:
            return
        self._log.info("{server}: {state}", server=self.uuid, state=self.state.value)
        self.publish(STATUS, self.state.value)
        if self.state is PowerState.OFFLINE:
            self.usage = Usage()
            self.publish(STATS, self.stats())
            self._when_offline()

    def utilization(self) -> Utilization:
        """Return what the server uses, in the Panel's form."""
        usage = self.usage
        return Utilization(
            memory_bytes=usage.memory_bytes,
            memory_limit_bytes=usage.memory_limit_bytes,
            cpu_absolute=usage.cpu_absolute,
            network=NetworkUsage(usage.rx_bytes, usage.tx_bytes),
            uptime=usage.uptime,
            state=self.state,
            disk_bytes=self.disk_bytes or 0,  # Panels read a number
        )

    def stats(self) -> str:
        """Return `utilization` as JSON."""
        return json.dumps(unstructure(self.utilization()), separators=(",", ":"))

    # `wingsd.servers.runtime.Listener`

    def on_line(self, line: str) -> None:
        """Keep and tell a console line."""
        self.console.add(line)
        self.publish(CONSOLE_OUTPUT, line)

    def on_up(self) -> None:
        """The program says that it is up."""
        # Before the engine has said that it runs, nobody could do anything with it.
        if self.run is not None and self.run.running is not None:
            self.happen(Happening.UP)

    def on_usage(self, usage: Usage) -> None:
        """Tell what the program uses."""
        self.usage = usage
        self._when_used()
        self.publish(STATS, self.stats())

    def on_end(self, run: Run, status: int | None, *, out_of_memory: bool) -> None:
        """The program has ended: where nobody asked for that, say how."""
        if run is not self.run:
            return
        self.run = None
        self.happen(Happening.END)
        if not run.asked:
            self.say(_epitaph(status, out_of_memory=out_of_memory))


def _epitaph(status: int | None, *, out_of_memory: bool) -> str:
    how = "an exit status the engine does not tell" if status is None else f"exit status {status}"
    memory = ", out of memory: raise the server's memory limit" if out_of_memory else ""
    return f"The server has ended though nobody asked it to: {how}{memory}"
