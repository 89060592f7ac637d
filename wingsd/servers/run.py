"""One run of a server's program, or of an installer: its output, its readiness, and its end."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wingsd.docker.runtime import ContainerUsage, Running
from wingsd.servers.console import WINDOW, LineSplitter, StartupDetector, Throttle, text
from wingsd.util.deferreds import fires_within


class RunListener:
    """The receiver of a run's events, which ignores those that it does not override."""

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
    the node asked for the end.
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
        self.over = False
        self._listener = listener
        self._reactor = reactor
        self._startup = startup
        self._lines = LineSplitter()
        self._throttle = throttle
        self._timer: IDelayedCall | None = None
        self._detached = False
        #: Fires at the end.
        self._end: Deferred[None] = Deferred()

    @property
    def ready(self) -> bool:
        """True if the startup is finished, by the `startup` line if the egg has one."""
        return self._startup is None

    async def wait(self, seconds: float) -> bool:
        """Return whether the run is over within `seconds`, as soon as it is."""
        return self.over or await fires_within(self._end, seconds, self._reactor)

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
        self._end.callback(None)

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
