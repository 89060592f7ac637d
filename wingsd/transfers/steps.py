"""The steps of a transfer: their order, their log, and what is rolled back when one fails.

The states are those of the document. A node receives by `ReceiveStep` and sends by `SendStep`. The
log is in the state database, the console and the metrics.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from email.utils import formatdate
from enum import Enum
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.errors import DaemonRestarted, SeedAdopted, WingsdError, error_code, is_cancel
from wingsd.events import (
    TRANSFER_LOGS,
    TRANSFER_PROGRESS,
    TRANSFER_REPORTED,
    TRANSFER_STATUS,
    Event,
    EventBus,
)
from wingsd.statedb import (
    Direction,
    LeavingBackup,
    Outcome,
    StateDatabase,
    TransferRecord,
    TransferResult,
)
from wingsd.transfers.cancellation import CancelScope
from wingsd.util.deferreds import Changes
from wingsd.util.observer import Observer
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


class State(Enum):
    """The states of a transfer, each with the words of its event.

    The document knows one word for each; a Panel's page prints `failure`, but only `failed` and
    `completed` end its waiting. It leaves this node's WebSocket at the first word of a failure and
    receives no other, so `failed` comes first; what failed is in the transfer's log.
    """

    PENDING = ("pending",)
    PROCESSING = ("processing",)
    SUCCESS = ("success", "completed")
    FAILURE = ("failed", "failure")

    @property
    def is_end(self) -> bool:
        """True if no other state follows."""
        return self in (State.SUCCESS, State.FAILURE)


class _Step(Enum):
    """The steps of a transfer in their order, each with its text and state."""

    def __init__(self, text: str, state: State) -> None:
        self.text = text
        self.state = state
        self._place = len(type(self).__members__)

    def __lt__(self, other: _Step) -> bool:
        return self._place < other._place

    def __le__(self, other: _Step) -> bool:
        return self._place <= other._place


class ReceiveStep(_Step):
    """The steps of an incoming transfer, each with its text and state.

    Up to and including `VERIFY` it can be aborted without loss; after it the server's data is
    whole here, and from `REPORT` on the Panel may know. When it has `FAILED`, what is left of it
    still has to be removed.
    """

    ADMIT = ("waiting for the archive", State.PENDING)
    RECEIVE = ("receiving the archive", State.PROCESSING)
    VERIFY = ("verifying the checksum", State.PROCESSING)
    DURABLE = ("writing to stable storage", State.PROCESSING)
    SWAP = ("moving the files into place", State.PROCESSING)
    ENVIRONMENT = ("configuring the environment", State.PROCESSING)
    REPORT = ("reporting to the Panel", State.PROCESSING)
    DONE = ("done, the server is here", State.SUCCESS)
    FAILED = ("rolled back", State.FAILURE)


class SendStep(_Step):
    """The steps of an outgoing transfer, none of which changes the server's files.

    From `AWAIT` on the destination has everything, and only the Panel knows whose the server is.
    """

    WAIT = ("waiting for the end of another action on the server", State.PENDING)
    ASK = ("asking the destination for its features", State.PENDING)
    SEED = ("keeping a copy at the destination up to date", State.PENDING)
    FOLLOW = ("sending what changes while the server runs", State.PENDING)
    STOP = ("stopping the server", State.PENDING)
    RETIRE = ("removing its container", State.PENDING)
    SEND = ("sending the archive", State.PROCESSING)
    AWAIT = ("waiting for the destination to finish", State.PROCESSING)
    SETTLE = ("asking the Panel which node has the server", State.PROCESSING)
    DONE = ("done, the server has moved", State.SUCCESS)
    FAILED = ("the server stays here", State.FAILURE)


@attrs.frozen(repr=False)
class SeedFigures:
    """The progress of the copy of a seed, after so many whole `rounds`.

    `changed` are the bytes that the last round had to read, or has, and `missing` those of them
    that the destination does not have yet. The last whole round began `age` seconds ago, and by
    now a move would take `downtime` seconds of downtime. Each is None while it is not known,
    `missing` until the first round is planned. It is moved at `until`, in seconds since the epoch,
    if that is ordered. `trouble` is why the last round has failed, empty if it has not.
    """

    rounds: int
    changed: int
    missing: int | None
    age: float | None
    downtime: float | None
    until: float | None
    trouble: str


@attrs.frozen(eq=False, repr=False)
class ProgressReport:
    """The progress of a transfer; `seconds` since its beginning.

    `entry` is its number in the state database, None before it is there. `bytes` are those moved
    so far: of an incoming one its upload's, of an outgoing one its files' and backups'; `total` is
    how many they will be, 0 where that is not known; `rate` is bytes a second on average. Of a
    move `resumed` are those that were there when it was resumed last: they are in `bytes`.
    `pool` is the storage pool by which both nodes may have the files, empty without.
    """

    server: str
    entry: int | None
    step: ReceiveStep | SendStep
    step_text: str
    is_direct: bool
    pool: str
    seconds: float
    bytes: int
    total: int
    rate: float
    resumed: int = 0
    #: Of a seed.
    seed: SeedFigures | None = None
    #: Of a server that is followed: the round, and the seconds of downtime that are predicted.
    round: int | None = None
    downtime: float | None = None
    #: Of a transfer that waits: until when at most, in seconds since the epoch; None without end.
    until: float | None = None
    #: Whether its server did not run.
    was_off: bool = False


S = TypeVar("S", bound=ReceiveStep | SendStep)


class Coordinator(Generic[S]):
    """A transfer's coordinator as its log shows it; see `wingsd.transfers.coordinator`."""

    #: Whether it is a direct transfer, without a Panel.
    is_direct = False
    #: Texts of steps that differ from the usual ones.
    step_texts: Mapping[S, str] = {}


@attrs.frozen(eq=False, repr=False)
class StepLogs:
    """The places that log the steps of transfers: the state database, consoles and metrics."""

    database: StateDatabase
    bus: EventBus
    observer: Observer
    reactor: IReactorTime

    async def close_unfinished(self, entry: TransferRecord, *, moved: bool) -> None:
        """Record the outcome of a transfer that an earlier daemon began.

        Raises `StorageError`.
        """
        error = None if moved else DaemonRestarted()
        self.observer.transfer_over(entry.direction.value, error)
        outcome = Outcome.SUCCESS if moved else Outcome.FAILURE
        result = TransferResult("" if moved else "this node was restarted during the transfer")
        # The destination of one that has failed may not have been informed yet.
        await self.database.end(entry.id, outcome, result, is_told=moved)


@attrs.define(eq=False, repr=False, slots=False)
class StepLog(Generic[S]):
    """The step log of one transfer, of the server with the UUID `server`.

    To the node's observer it is the `Passage`.
    """

    _log = Logger()

    _server: str
    _steps: Iterable[S]
    _logs: StepLogs
    _coordinator: Coordinator[S]

    def __attrs_post_init__(self) -> None:
        logs = self._logs
        self.cancel_scope = CancelScope()
        #: The current step. Steps are entered in order; some may be skipped.
        self.current: S = next(iter(self._steps))
        is_incoming = isinstance(self.current, ReceiveStep)
        self._direction = Direction.IN if is_incoming else Direction.OUT
        #: The node's name in the console.
        self._node = DESTINATION if is_incoming else SOURCE
        #: Its number in the state database, a field of its log lines.
        self.number: int | None = None
        #: That number while it is open there; None before and after.
        self.entry: int | None = None
        #: The storage pool by which the other node may have the files, of which none is then
        #: moved or deleted here; empty without.
        self.pool = ""
        #: The inode of the directory that the server's files are in; None where that is not known.
        self.inode: int | None = None
        #: Other names of steps for metrics and lists.
        self.names: Mapping[ReceiveStep | SendStep, str] = {}
        #: What is done within the step, for people; empty without.
        self.detail = ""
        #: Why the destination of a move is asked again and again; empty while it answers.
        self.trouble = ""
        #: Returns the bytes that have been moved so far.
        self.count: Callable[[], int] = lambda: 0
        self.clock = logs.reactor
        #: The changes of its step.
        self.changes = Changes()
        #: Returns the time by the reactor's clock.
        self.seconds: Callable[[], float] = logs.reactor.seconds
        self._database = logs.database
        #: Observes its beginning, its steps and its end.
        self.observer = logs.observer
        self._begun = self.seconds()
        self._result = TransferResult()
        self._error: Exception | None = None
        self._entered = 0.0
        # How long a step takes that an earlier daemon entered is not known.
        self._seen_whole = True
        #: Whether the observer has its beginning, and not its end.
        self._is_counted = False
        #: The words of states and the states of steps that differ from the usual ones.
        self.words: Mapping[State, tuple[str, ...]] = {}
        self.states: Mapping[ReceiveStep | SendStep, State] = {}
        #: Whether it is only logged, and neither printed in the console nor published.
        self.is_quiet = False
        self._state: State | None = None
        #: What repeats a line about the progress, if anything does.
        self._progress = ExitStack()

    def before(self, step: S) -> bool:
        """Return whether `step` has not been reached."""
        return self.current < step

    @property
    def over(self) -> bool:
        """True when nothing more can happen."""
        return self.current.state.is_end

    @property
    def step_text(self) -> str:
        """The work of this step, for people."""
        step = self.current
        text = self._coordinator.step_texts.get(step, step.text)
        return f"{text}, {self.detail}" if self.detail else text

    @property
    def _current_text(self) -> str:
        """The work of this step, and why it makes no progress."""
        text = self.step_text
        if place := self.cancel_scope.place:
            text = f"{text}; waiting for a slot, at place {place} in the queue"
        return f"{text}; waiting for the destination: {self.trouble}" if self.trouble else text

    def show_trouble(self, cause: str) -> None:
        """Show why the destination of a move is waited for; empty when it answers again."""
        self.trouble = cause

    async def begin(self, record: Callable[[str], Awaitable[int]] | None = None) -> int:
        """Record and announce the transfer; return its number. Raises `StorageError`.

        It is recorded by `record`, with the name of the step, or alone.
        """
        self._entered = self.seconds()
        # Counted first: a transfer that cannot be recorded has an end, too.
        self._count_begun()
        self.entry = self.number = entry = await (record or self._record)(self.current.name)
        self._announce()
        return entry

    async def _record(self, step: str) -> int:
        direct = self._coordinator.is_direct
        return await self._database.begin(self._server, self._direction, step, direct=direct)

    def resume(self, entry: TransferRecord, step: S) -> None:
        """Continue the log of an earlier daemon, at the step that its transfer had come to."""
        self.entry = self.number = entry.id
        self.pool, self.inode = entry.pool, entry.inode
        self._come_to(step)
        self._seen_whole = False
        if not self.over:
            self._count_begun()

    async def save_terms(
        self,
        pool: str = "",
        removals: Sequence[str] = (),
        inode: int | None = None,
        left: Sequence[LeavingBackup] = (),
    ) -> None:
        """Record what the recovery of the transfer needs. Raises `StorageError`."""
        if self.entry is not None:
            await self._database.set_terms(self.entry, pool, removals, inode, left)
        self.pool, self.inode = pool, inode

    async def enter(self, step: S) -> None:
        """Enter a step, unless the transfer is cancelled. Raises `StorageError`."""
        self.cancel_scope.check()
        if self.entry is not None:
            await self._database.enter(self.entry, step.name)
        self.cancel_scope.check()
        self.advance(step)

    async def go_back(self, step: S) -> None:
        """Enter an earlier step again, unless the transfer is cancelled. Raises `StorageError`."""
        self.cancel_scope.check()
        if self.entry is not None:
            await self._database.enter(self.entry, step.name)
        self.observer.step_left(self)
        self.detail = ""
        if self.over or self.current <= step:
            raise ValueError(f"a transfer cannot go back from {self.current.name} to {step.name}")
        self._come_to(step)

    def restart_clock(self) -> None:
        """Count the time of this step from now on: so far it has waited for a slot."""
        self._entered = self.seconds()

    async def enter_if_open(self, step: S) -> None:
        """Enter a step, cancelled or not; record it if possible.

        Not when the transfer is over meanwhile.
        """
        if self.entry is not None:
            try:
                await self._database.enter(self.entry, step.name)
            except Exception as error:  # nothing may keep a transfer from its end
                self._log_error(error)
        if not self.over:
            self.advance(step)

    def advance(self, step: S) -> None:
        """Enter a step that changes nothing by itself, and need not be recorded.

        Raises `ValueError` when it is not a later one, or the last was.
        """
        if self._seen_whole:
            self.observer.step_left(self)
        self._seen_whole = True
        self.detail = ""
        if self.over or step <= self.current:
            raise ValueError(f"a transfer cannot go from {self.current.name} to {step.name}")
        self._come_to(step)
        if self.over and self._is_counted:
            self._count_over(None if step.state is State.SUCCESS else self._error)

    def _come_to(self, step: S) -> None:
        self.current, self._entered = step, self.seconds()
        self._announce()
        self.changes.changed()

    def _announce(self) -> None:
        """Log and print the step; where the state changes, publish each of its words."""
        step, text = self.current, self.step_text
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
            self._logs.bus.publish(Event(self._server, TRANSFER_STATUS, (word,)))
        if not state.is_end:
            # Last, since the state is what a transfer begins with for those who keep its lines.
            self._print(text)

    def leave_open(self, error: Exception | None = None) -> None:
        """Leave a transfer open for its recovery at the next start, after an internal error.

        Or after another `error`, such as that this daemon stops.
        """
        if self._is_counted:
            self._count_over(error or self._error or WingsdError("internal error"))

    def _count_begun(self) -> None:
        self._is_counted = True
        self.observer.transfer_begun(self)

    def _count_over(self, error: Exception | None) -> None:
        self._is_counted = False
        self.observer.transfer_over(self.direction, error, self)

    def set_downtime(self, seconds: float) -> None:
        """Keep how long the server was down for the state database."""
        self._result = attrs.evolve(self._result, downtime=seconds)

    def set_figures(self, size: int, files: int) -> None:
        """Keep the archive's bytes and files for the state database."""
        self._result = attrs.evolve(self._result, bytes=size, files=files)

    def fail(self, error: Exception) -> None:
        """Announce and keep an error, which is the reason if the transfer ends as a failure."""
        self._error = error
        code = error_code(error)
        text = self.step_text
        self._result = attrs.evolve(self._result, reason=f"while {text}: {code}: {error}")
        if isinstance(error, SeedAdopted):
            self.say(f"the copy no longer follows the server: {error}")
            return
        self.warn(f"transfer failed while {text}: {error}", code)

    # Its figures

    @property
    def direction(self) -> str:
        """As the state database has it: `in` or `out`."""
        return self._direction.value

    @property
    def step(self) -> str:
        """The name of the current step."""
        step = self.current
        return self.names.get(step, step.name.lower())

    @property
    def step_seconds(self) -> float:
        """For how many seconds it has been in that, in this daemon."""
        return self.seconds() - self._entered

    @property
    def moved(self) -> int:
        """The bytes of the archive that were received, or of the upload that were sent."""
        return self.count()

    def progress(
        self, meter: ProgressMeter, total: int, seed: SeedFigures | None = None
    ) -> ProgressReport:
        """Return how far the transfer is, as `meter` has counted, of `total` bytes."""
        return ProgressReport(
            server=self._server,
            entry=self.entry,
            step=self.current,
            step_text=self._current_text,
            is_direct=self._coordinator.is_direct,
            pool=self.pool,
            seconds=self.seconds() - self._begun,
            bytes=meter.done,
            total=total,
            rate=meter.rate,
            resumed=meter.resumed,
            seed=seed,
        )

    # Its end

    def close(self) -> None:
        """Record the outcome; an error of the state database is logged."""
        entry, self.entry = self.entry, None
        if entry is None:
            return
        moved = self.current.state is State.SUCCESS
        # Not by a transfer that takes the place of this one.
        is_cancelled = is_cancel(self._error) and not isinstance(self._error, SeedAdopted)
        failed = Outcome.CANCELLED if is_cancelled else Outcome.FAILURE
        outcome = Outcome.SUCCESS if moved else failed
        result = attrs.evolve(self._result, reason="") if moved else self._result
        ending = self._database.end(entry, outcome, result)
        ending.addErrback(lambda failure: self._log_error(failure.value))

    def publish_reported(self) -> None:
        """Publish that the Panel knows of the failure."""
        self._logs.bus.publish(Event(self._server, TRANSFER_REPORTED))

    def _log_error(self, error: object) -> None:
        self._log.error(
            "{server}: the end of the transfer was not recorded: {error}",
            server=self._server,
            error=error,
        )

    # The console

    def speak(self) -> None:
        """Print and publish it from now on as well, the present state with the next step."""
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
                self._logs.bus.publish(Event(self._server, TRANSFER_PROGRESS, (now.encode(),)))

        self._repeat(show, PROGRESS_EVERY)

    def _repeat(self, show: Callable[[], None], every: float) -> None:
        self.hide_progress()
        watch = Watch(self.clock, every, show, "showing the progress failed")
        self._progress.enter_context(watch)

    def show_waiting(self, what: str) -> None:
        """Print and log every minute what is waited for, and how long that has been."""
        since = self.clock.seconds()

        def show() -> None:
            self.say(f"{what} {readable_time(self.clock.seconds() - since)}")

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
        self._progress.close()

    @property
    def _fields(self) -> dict[str, Any]:
        return {"server": self._server, "transfer": self.number}

    def _print(self, text: str) -> None:
        if self.is_quiet:
            return
        line = console_line(time.time(), self._node, text)
        self._logs.bus.publish(Event(self._server, TRANSFER_LOGS, (line,)))


class RollbackList:
    """The steps that undo what was done to the server with the UUID `server`, last one first."""

    _log = Logger()

    def __init__(self, server: str) -> None:
        self._server = server
        self._steps: list[Callable[[], Awaitable[object]]] = []

    def add(self, step: Callable[[], Awaitable[object]]) -> None:
        """Add how the next step, or the last one, is undone."""
        self._steps.append(step)

    def clear(self) -> None:
        """Undo nothing that was added."""
        self._steps.clear()

    async def run(self) -> None:
        """Undo everything. What cannot be undone is logged, and the rest is undone."""
        while self._steps:
            undo = self._steps.pop()
            try:
                await undo()
            except WingsdError as error:
                self._log.error(
                    "{server}: rollback failed: {error}", server=self._server, error=error
                )
            except Exception:
                self._log.failure("{server}: rollback failed", server=self._server)
