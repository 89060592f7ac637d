"""A transfer's course at one node: each step is written down before it is taken, then told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import attrs
from twisted.logger import Logger

from wingsd.errors import StorageError, WingsdError
from wingsd.journal import Account, Direction, Entry, Outcome
from wingsd.transfers.announcer import Announcer
from wingsd.transfers.interrupt import Interruptible
from wingsd.transfers.lifecycle import Lifecycle, ReceiveStep, SendStep, State
from wingsd.transfers.means import ReceivingMeans, SendingMeans

__all__ = ["Course"]

S = TypeVar("S", bound=ReceiveStep | SendStep)


class _Authority(Protocol[S]):
    """Whose word counts, as far as it shows; see `wingsd.transfers.authority`."""

    @property
    def by_hand(self) -> bool:
        """Whether people move the server, and no Panel is asked."""

    @property
    def words(self) -> Mapping[S, str]:
        """What is done in steps whose usual words do not fit."""


class Course(Generic[S]):
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
        means: ReceivingMeans | SendingMeans,
        authority: _Authority[S],
    ) -> None:
        self.chain = Interruptible()
        self.life = Lifecycle(steps)
        self.announcer = Announcer(server, node, means.bus, means.reactor)
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
        self._journal = means.journal
        self._observer = means.observer
        self._clock: Callable[[], float] = means.reactor.seconds
        self._account = Account()
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
        entry = await self._journal.begin(self._server, self._way, step.name, by_hand=by_hand)
        self.entry = self.announcer.transfer = entry
        self.announcer.enter(step, self.doing)
        return entry

    def resume(self, entry: Entry, step: S) -> None:
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
            await self._journal.note_terms(self.entry, pool, removals, inode)
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
        self._account = attrs.evolve(self._account, reason=f"while {self.doing}: {error}")
        self.announcer.warn(f"failed while {self.doing}: {error}")

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
