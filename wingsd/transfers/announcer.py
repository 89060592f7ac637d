"""What the world hears of a transfer while it goes on: states, console lines, and the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wingsd.events import TRANSFER_LOGS, TRANSFER_STATUS, Event, EventBus
from wingsd.transfers.lifecycle import ReceiveStep, SendStep, State
from wingsd.transfers.wording import console_line

__all__ = ["PROGRESS_EVERY", "Announcer"]

#: Seconds between two lines about the progress.
PROGRESS_EVERY = 5.0


class Announcer:
    """Speaks of one server's transfer for one of its two nodes (`wording.SOURCE` or the other)."""

    _log = Logger()

    def __init__(self, server: str, node: str, bus: EventBus, reactor: Any) -> None:
        #: Its number in the journal of transfers, by which the log's lines of it can be found.
        self.transfer: int | None = None
        self._server = server
        self._node = node
        self._bus = bus
        self._reactor = reactor
        self._state: State | None = None
        self._progress: LoopingCall | None = None

    def enter(self, step: ReceiveStep | SendStep, words: str = "") -> None:
        """Tell of a step and, where it is another state, of that in every word waited for.

        `words` say what it does where the usual ones do not fit.
        """
        words = words or step.words
        if step.state is self._state:
            self._log.info("{server}: {step}", step=words, **self._about)
            self._print(words)
            return
        self._state = step.state
        self._log.info(
            "{server}: state {state}: {step}",
            state=step.state.name.lower(),
            step=words,
            **self._about,
        )
        if step.state.is_end:
            # First, since a page that hears the end may look away from this node.
            self._print(words)
        for word in step.state.value:
            self._bus.publish(Event(self._server, TRANSFER_STATUS, (word,)))
        if not step.state.is_end:
            # Last, since the state is what a transfer begins with for those who keep its lines.
            self._print(words)

    def say(self, text: str) -> None:
        """Print a line in the server's console; the log has it too."""
        self._log.info("{server}: {text}", text=text, **self._about)
        self._print(text)

    def warn(self, text: str) -> None:
        """The same for what somebody should look into."""
        self._log.warn("{server}: {text}", text=text, **self._about)
        self._print(text)

    def show_progress(self, text: Callable[[], str], every: float = PROGRESS_EVERY) -> None:
        """Print what `text` returns `every` so many seconds, until `hide_progress`."""
        self.hide_progress()
        self._progress = LoopingCall(lambda: self._print(text()))
        self._progress.clock = self._reactor
        started: Deferred[Any] = self._progress.start(every, now=False)
        started.addErrback(lambda failure: self._log.failure("no progress is shown", failure))

    def hide_progress(self) -> None:
        """Say no more about the progress."""
        progress, self._progress = self._progress, None
        if progress is not None and progress.running:
            progress.stop()

    @property
    def _about(self) -> dict[str, Any]:
        return {"server": self._server, "transfer": self.transfer}

    def _print(self, text: str) -> None:
        line = console_line(time.time(), self._node, text)
        self._bus.publish(Event(self._server, TRANSFER_LOGS, (line,)))
