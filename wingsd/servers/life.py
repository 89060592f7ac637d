"""A server's life as everybody sees it: its state, its console, and what it uses.

Whatever changes here is told on the event bus.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from twisted.logger import Logger

from wingsd.environment.interface import Usage
from wingsd.errors import EnvironmentFailed
from wingsd.escaping import escaped
from wingsd.events import CONSOLE_OUTPUT, DAEMON_MESSAGE, STATS, STATUS, Event
from wingsd.model import Startup
from wingsd.servers.console import Console
from wingsd.servers.details import Network, Utilization
from wingsd.servers.donelines import DoneLines
from wingsd.servers.means import Means
from wingsd.servers.run import Run
from wingsd.servers.states import Happening, PowerState, after
from wingsd.structure import unstructure

__all__ = ["Life"]

#: What Wings gives out at most over its API; the WebSocket's figure is configured.
LEAST_KEPT = 100


class Life:
    """The life of the server with the UUID `uuid`.

    `when_offline` is called after each run, `when_used` whenever the program was measured.
    """

    _log = Logger()

    def __init__(
        self,
        uuid: str,
        means: Means,
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
        done = DoneLines(startup)
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
            network=Network(usage.rx_bytes, usage.tx_bytes),
            uptime=usage.uptime,
            state=self.state,
            disk_bytes=self.disk_bytes or 0,  # Panels read a number
        )

    def stats(self) -> str:
        """Return `utilization` as JSON."""
        return json.dumps(unstructure(self.utilization()), separators=(",", ":"))

    # `wingsd.servers.run.Listener`

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
