"""Lines of a transfer in the console of its server: its steps, warnings and progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.events import TRANSFER_LOGS, TRANSFER_PROGRESS, TRANSFER_STATUS, Event, EventBus
from wingsd.transfers.steps import ReceiveStep, SendStep, State
from wingsd.util.retry import Watch
from wingsd.util.text import escaped, readable_size, readable_time

#: The node that prints a line. The form of the lines is the one that users of Wings know.
SOURCE = "Source Node"
DESTINATION = "Destination Node"

_YELLOW_BOLD = "\x1b[33m\x1b[1m"
_RESET = "\x1b[0m"
_BAR = 25


def console_line(now: float, node: str, text: str) -> str:
    """Return a line of the node `node` for the console; `now` in seconds since the epoch.

    `text` may quote another node or an archive.
    """
    # RFC 1123 in English, whatever the locale.
    stamp = formatdate(now, usegmt=True).replace("GMT", "UTC")
    return f"{_YELLOW_BOLD}{stamp} [Transfer System] [{node}]:{_RESET} {escaped(text)}"


def progress_bar(done: int, total: int) -> str:
    """Return `[=====     ] 1.5 GiB / 18.2 GiB` for so many bytes of so many.

    Where it is not known of how many (0), only what is done.
    """
    if not total:
        return f"{readable_size(done)} of an unknown total"
    # A tree may grow between being measured and being read.
    bar = filled_bar(done, total)
    return f"{bar} {readable_size(done)} / {readable_size(max(total, done))}"


def filled_bar(done: int, total: int) -> str:
    """Return `[=====     ]` for so much of so much; full for nothing of nothing."""
    filled = min(done * _BAR // total, _BAR) if total else _BAR
    return f"[{'=' * filled:{_BAR}}]"


class ProgressMeter:
    """Counts bytes, and the seconds between `start` and `stop`.

    `seconds` is the clock, and `count` returns the bytes moved so far.
    """

    def __init__(self, seconds: Callable[[], float], count: Callable[[], int]) -> None:
        #: The bytes that were there already when a move was resumed last.
        self.resumed = 0
        self._clock = seconds
        self._count = count
        self._begun: float | None = None
        self._ended: float | None = None
        self._rate_since = 0.0
        self._rate_from = 0

    @property
    def done(self) -> int:
        """The number of bytes moved so far."""
        return self._count()

    def start(self) -> None:
        """Begin to count the time."""
        self._begun = self._clock()
        self.skip()

    def skip(self, there: int = 0) -> None:
        """Leave out of the rate what is done by now: it was there, or took another time.

        Also what is `there`, and is counted as done only when it is passed over.
        """
        self._rate_since, self._rate_from = self._clock(), max(self.done, there)

    def stop(self) -> None:
        """Stop the time."""
        self._ended = self._clock()

    @property
    def seconds(self) -> float:
        """The time taken so far, 0 before `start`."""
        if self._begun is None:
            return 0.0
        return (self._clock() if self._ended is None else self._ended) - self._begun

    @property
    def rate(self) -> float:
        """Bytes a second on average, since `start` or `skip`."""
        if self._begun is None:
            return 0.0
        seconds = (self._clock() if self._ended is None else self._ended) - self._rate_since
        return max(self.done - self._rate_from, 0) / seconds if seconds > 0 else 0.0

    def pace(self, total: int) -> str:
        """Return `, 11.2 MiB/s, 3 min left` for what is to be `total` bytes; what is known of it.

        To be put behind how far it is.
        """
        rate, left = self.rate, total - self.done
        if not rate:
            return ""
        text = f", {readable_size(rate)}/s"
        return f"{text}, {readable_time(left / rate)} left" if left > 0 else text


@attrs.frozen(eq=False, repr=False)
class UploadFigures:
    """The bytes of a server that were read, of `total`, and sent, and the number of its files."""

    read: int
    sent: int
    total: int
    files: int

    def encode(self) -> str:
        """Return the JSON of Calagopus' nodes of 2026, with the names of those before as well."""
        return json.dumps(
            {
                "archive_bytes_processed": self.read,
                "network_bytes_processed": self.sent,
                "bytes_total": self.total,
                "files_processed": self.files,
                "archive_progress": self.read,
                "network_progress": self.sent,
                "total": self.total,
            }
        )


#: Seconds between two lines about the progress.
PROGRESS_EVERY = 5.0
#: Seconds between two lines about what is still waited for.
WAITING_EVERY = 60.0


class Announcer:
    """Announces one server's transfer in its console, the log and as events.

    `node` is the node's name in the console (`SOURCE` or `DESTINATION`).
    """

    _log = Logger()

    def __init__(self, server: str, node: str, bus: EventBus, reactor: IReactorTime) -> None:
        #: Its number in the state database, a field of its log lines.
        self.transfer: int | None = None
        self._server = server
        self._node = node
        self._bus = bus
        self._reactor = reactor
        #: The words of states and the states of steps that differ from the usual ones.
        self.words: Mapping[State, tuple[str, ...]] = {}
        self.states: Mapping[ReceiveStep | SendStep, State] = {}
        #: Whether only the log hears of it.
        self.is_quiet = False
        self._state: State | None = None
        self._progress: Watch | None = None

    def enter(self, step: ReceiveStep | SendStep, text: str = "") -> None:
        """Announce a step and, where the state changes, that in each word that is waited for.

        `text` is the step's, where it differs from the usual one.
        """
        text = text or step.text
        state = self.states.get(step, step.state)
        if state is self._state:
            self._log.info("{server}: {step}", step=text, **self._fields)
            self._print(text)
            return
        self._state = state
        self._log.info(
            "{server}: state {state}: {step}",
            state=state.name.lower(),
            step=text,
            **self._fields,
        )
        if state.is_end:
            # First: a page that receives the end may leave this node's WebSocket.
            self._print(text)
        for word in () if self.is_quiet else self.words.get(state, state.value):
            self._bus.publish(Event(self._server, TRANSFER_STATUS, (word,)))
        if not state.is_end:
            # Last, since the state is what a transfer begins with for those who keep its lines.
            self._print(text)

    def speak(self) -> None:
        """Announce it to everybody from now on, the present state with the next step."""
        self.is_quiet, self._state = False, None

    def say(self, text: str) -> None:
        """Print a line in the server's console, and log it."""
        self._log.info("{server}: {text}", text=text, **self._fields)
        self._print(text)

    def warn(self, text: str, code: str = "") -> None:
        """Print a line as `say` does, and log it as a warning; `code` is that of an error."""
        fields = self._fields | ({"code": code} if code else {})
        self._log.warn("{server}: {text}", text=text, **fields)
        self._print(f"{text} ({code})" if code else text)

    def show_progress(
        self,
        text: Callable[[], str],
        figures: Callable[[], UploadFigures | None] = lambda: None,
    ) -> None:
        """Print what `text` returns every five seconds, until `hide_progress`.

        The `figures` are published as often.
        """

        def show() -> None:
            self._print(text())
            if now := figures():
                self._bus.publish(Event(self._server, TRANSFER_PROGRESS, (now.encode(),)))

        self._repeat(show, PROGRESS_EVERY)

    def _repeat(self, show: Callable[[], None], every: float) -> None:
        self.hide_progress()
        self._progress = Watch(self._reactor, every, show, "showing the progress failed")

    def show_waiting(self, what: str) -> None:
        """Print and log every minute what is waited for, and how long that has been."""
        since = self._reactor.seconds()

        def show() -> None:
            self.say(f"{what} {readable_time(self._reactor.seconds() - since)}")

        self._repeat(show, WAITING_EVERY)

    def show_grace(self, seconds: float) -> None:
        """Say for how long the Panel is asked; show that it is, once a minute."""
        self.say(
            f"the destination may still be working: for {readable_time(seconds)} the Panel is "
            "asked whether the server has moved; cancel the transfer to stop waiting"
        )
        self.show_waiting("the Panel is asked whether the server has moved, for")

    def hide_progress(self) -> None:
        """Stop printing the progress."""
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    @property
    def _fields(self) -> dict[str, Any]:
        return {"server": self._server, "transfer": self.transfer}

    def _print(self, text: str) -> None:
        if self.is_quiet:
            return
        line = console_line(time.time(), self._node, text)
        self._bus.publish(Event(self._server, TRANSFER_LOGS, (line,)))
