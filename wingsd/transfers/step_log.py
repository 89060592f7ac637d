"""The log of a transfer's steps: in the state database, the console and the daemon's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wingsd.errors import StorageError, WingsdError, error_code
from wingsd.events import TRANSFER_LOGS, TRANSFER_STATUS, Event, EventBus
from wingsd.statedb import Direction, Outcome, StateDatabase, TransferRecord, TransferResult
from wingsd.transfers.cancellation import CancelScope
from wingsd.transfers.formatting import DESTINATION, SOURCE, console_line
from wingsd.transfers.steps import Lifecycle, ReceiveStep, SendStep, State
from wingsd.util.observer import Observer

__all__ = ["PROGRESS_EVERY", "Announcer", "Progress", "ProgressMeter", "StepLog", "StepLogs"]


@attrs.frozen
class Progress:
    """A transfer under way: what it does, and since when, in seconds.

    `entry` is its number in the journal, None before it is there. `bytes` are those that have gone
    by: of a server that comes its upload's, of one that goes its files' and backups'; `total` is
    how many they will be, 0 where that is not known; `rate` is bytes a second on average.
    `pool` is the storage pool by which both nodes may have the files, empty without.
    """

    server: str
    entry: int | None
    step: ReceiveStep | SendStep
    words: str
    by_hand: bool
    pool: str
    seconds: float
    bytes: int
    total: int
    rate: float


class ProgressMeter:
    """Tells of bytes, and of the seconds between `start` and `stop`.

    `seconds` is the clock, and `count` tells how many bytes have gone by so far.
    """

    def __init__(self, seconds: Callable[[], float], count: Callable[[], int]) -> None:
        self._clock = seconds
        self._count = count
        self._begun: float | None = None
        self._ended: float | None = None

    @property
    def done(self) -> int:
        """How many bytes have gone by."""
        return self._count()

    def start(self) -> None:
        """The first byte may come."""
        self._begun = self._clock()

    def stop(self) -> None:
        """The last one has gone by."""
        self._ended = self._clock()

    @property
    def seconds(self) -> float:
        """How long it has taken, 0 before it begins."""
        if self._begun is None:
            return 0.0
        return (self._clock() if self._ended is None else self._ended) - self._begun

    @property
    def rate(self) -> float:
        """Bytes a second on average."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


#: Seconds between two lines about the progress.
PROGRESS_EVERY = 5.0


class Announcer:
    """Speaks of one server's transfer for one of its two nodes (`wording.SOURCE` or the other)."""

    _log = Logger()

    def __init__(self, server: str, node: str, bus: EventBus, reactor: IReactorTime) -> None:
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

    def warn(self, text: str, code: str = "") -> None:
        """Print a line as `say` does, and log it as a warning; `code` is that of an error."""
        about = self._about | ({"code": code} if code else {})
        self._log.warn("{server}: {text}", text=text, **about)
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


S = TypeVar("S", bound=ReceiveStep | SendStep)


class _Authority(Protocol[S]):
    """Whose word counts, as far as it shows; see `wingsd.transfers.coordinator`."""

    @property
    def by_hand(self) -> bool:
        """Whether people move the server, and no Panel is asked."""

    @property
    def words(self) -> Mapping[S, str]:
        """What is done in steps whose usual words do not fit."""


@attrs.frozen
class StepLogs:
    """Where the steps of all transfers are logged: the state database, consoles and metrics."""

    database: StateDatabase
    bus: EventBus
    observer: Observer
    reactor: IReactorTime

    def receiving(self, server: str, authority: _Authority[ReceiveStep]) -> StepLog[ReceiveStep]:
        """Return the log of a transfer to this node."""
        return StepLog(server, DESTINATION, ReceiveStep, self, authority)

    def sending(self, server: str, authority: _Authority[SendStep]) -> StepLog[SendStep]:
        """Return the log of a transfer from this node."""
        return StepLog(server, SOURCE, SendStep, self, authority)


class StepLog(Generic[S]):
    """The course of the transfer of the server with the UUID `server`.

    `node` says in the console which of the two nodes speaks (`wording.SOURCE` or the other). It is
    the `Passage` that the node's observer is told of.
    """

    _log = Logger()

    def __init__(
        self,
        server: str,
        node: str,
        steps: Iterable[S],
        logs: StepLogs,
        authority: _Authority[S],
    ) -> None:
        self.chain = CancelScope()
        self.life = Lifecycle(steps)
        self.announcer = Announcer(server, node, logs.bus, logs.reactor)
        #: Its number in the journal, None before and after it is open there.
        self.entry: int | None = None
        #: The storage pool by which the other node may have the files, of which none is then
        #: moved or deleted here; empty without.
        self.pool = ""
        #: The inode of the directory that the server's files are in; None where that is not known.
        self.inode: int | None = None
        #: Returns the bytes that have been moved so far.
        self.count: Callable[[], int] = lambda: 0
        self._server = server
        self._authority = authority
        self._journal = logs.database
        self._observer = logs.observer
        self._clock: Callable[[], float] = logs.reactor.seconds
        self._begun = self._clock()
        self._account = TransferResult()
        self._error: Exception | None = None
        self._entered = 0.0
        # Of a step that an earlier daemon entered nobody knows how long it takes.
        self._seen_whole = True
        #: Whether the observer was told of its beginning, and not of its end.
        self._is_counted = False

    @property
    def doing(self) -> str:
        """What is done in this step, in words."""
        step = self.life.step
        return self._authority.words.get(step, step.words)

    async def begin(self) -> int:
        """Write the transfer down, and tell of it; return its number. Raises `StorageError`."""
        step = self.life.step
        self._entered = self._clock()
        # Before it is written down: one for which that fails has an end, too.
        self._count_begun()
        by_hand = self._authority.by_hand
        entry = await self._journal.begin(self._server, self._way, step.name, direct=by_hand)
        self.entry = self.announcer.transfer = entry
        self.announcer.enter(step, self.doing)
        return entry

    def resume(self, entry: TransferRecord, step: S) -> None:
        """Be the one that an earlier daemon wrote down, at the step it had come to."""
        self.entry = self.announcer.transfer = entry.id
        self.pool, self.inode = entry.pool, entry.inode
        self.life.step = step
        self._go(step)
        self._seen_whole = False
        if not self.life.over:
            self._count_begun()

    async def note_terms(
        self, pool: str = "", removals: Sequence[str] = (), inode: int | None = None
    ) -> None:
        """Write down what is special about the transfer, before it is. Raises `StorageError`."""
        if self.entry is not None:
            await self._journal.set_terms(self.entry, pool, removals, inode)
        self.pool, self.inode = pool, inode

    async def enter(self, step: S) -> None:
        """Enter a step, unless the transfer is interrupted. Raises `StorageError`."""
        self.chain.check()
        if self.entry is not None:
            await self._journal.enter(self.entry, step.name)
        self.chain.check()
        self.pass_on(step)

    def take_turn(self) -> None:
        """Count the step from now on: so far it has only waited for its turn."""
        self._entered = self._clock()

    async def fall_to(self, step: S) -> None:
        """Enter a step, interrupted or not, and written down where that goes.

        Not when the transfer is over meanwhile.
        """
        if self.entry is not None:
            try:
                await self._journal.enter(self.entry, step.name)
            except StorageError as error:
                self._log_stuck(error)
        if not self.life.over:
            self.pass_on(step)

    def pass_on(self, step: S) -> None:
        """Enter a step that changes nothing by itself, and need not be written down."""
        if self._seen_whole:
            self._observer.step_left(self)
        self._seen_whole = True
        self.life.advance(step)
        self._go(step)
        if self.life.over:
            self._count_over(None if step.state is State.SUCCESS else self._error)

    def _go(self, step: S) -> None:
        self._entered = self._clock()
        self.announcer.enter(step, self.doing)

    def abandon(self) -> None:
        """Leave it to the next daemon: this one does no more for it, by a mistake of its own."""
        if self._is_counted:
            self._count_over(self._error or WingsdError("an unforeseen error"))

    def _count_begun(self) -> None:
        self._is_counted = True
        self._observer.transfer_begun(self)

    def _count_over(self, error: Exception | None) -> None:
        self._is_counted = False
        self._observer.transfer_over(self.direction, error, self)

    def note_figures(self, size: int, files: int) -> None:
        """Keep for the journal how many bytes the archive has, and files."""
        self._account = attrs.evolve(self._account, bytes=size, files=files)

    def fail(self, error: Exception) -> None:
        """Tell and keep what has gone wrong; where the transfer ends as a failure, that is why."""
        self._error = error
        code = error_code(error)
        self._account = attrs.evolve(self._account, reason=f"while {self.doing}: {code}: {error}")
        self.announcer.warn(f"transfer failed while {self.doing}: {code}: {error}", code)

    # What can be seen of it

    @property
    def _way(self) -> Direction:
        return Direction.IN if isinstance(self.life.step, ReceiveStep) else Direction.OUT

    @property
    def direction(self) -> str:
        """As the journal has it: `in` or `out`."""
        return self._way.value

    @property
    def step(self) -> str:
        """The name of the step that it is in."""
        return self.life.step.name.lower()

    @property
    def step_seconds(self) -> float:
        """For how many seconds it has been in that, in this daemon."""
        return self._clock() - self._entered

    @property
    def moved(self) -> int:
        """The bytes of the archive that have come, or of the upload that have gone."""
        return self.count()

    def progress(self, meter: ProgressMeter, total: int) -> Progress:
        """Return how far the transfer is, by what `meter` has counted of `total` bytes."""
        return Progress(
            server=self._server,
            entry=self.entry,
            step=self.life.step,
            words=self.doing,
            by_hand=self._authority.by_hand,
            pool=self.pool,
            seconds=self._clock() - self._begun,
            bytes=meter.done,
            total=total,
            rate=meter.rate,
        )

    # Its end

    def close(self) -> None:
        """Write down how it ended; a journal that cannot be written is logged."""
        entry, self.entry = self.entry, None
        if entry is None:
            return
        moved = self.life.step.state is State.SUCCESS
        outcome = Outcome.SUCCESS if moved else Outcome.FAILURE
        account = attrs.evolve(self._account, reason="") if moved else self._account
        ending = self._journal.end(entry, outcome, account)
        ending.addErrback(lambda failure: self._log_stuck(failure.value))

    def _log_stuck(self, error: object) -> None:
        self._log.error("{server}: {error}", server=self._server, error=error)
