"""One run of a server's program, watched from its first output to its end."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from wingsd.environment.interface import Running, Usage
from wingsd.servers.console import Lines, text
from wingsd.servers.donelines import DoneLines
from wingsd.servers.throttle import WINDOW, Throttle

__all__ = ["Listener", "Run"]


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
    """A `wingsd.environment.Watcher`.

    `running` is None until the program has been started; `asked` tells whether somebody wanted
    it to end, `up` whether it has said that it is up, if it is expected to.
    """

    def __init__(self, listener: Listener, reactor: Any, done: DoneLines | None = None) -> None:
        self.running: Running | None = None
        self.asked = False
        self.up = done is None
        self.over = False
        self._listener = listener
        self._reactor = reactor
        self._done = done
        self._lines = Lines()
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

    # `wingsd.environment.Watcher`

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
