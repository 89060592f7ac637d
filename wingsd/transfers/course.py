"""A transfer's course at one node: each step is written down before it is taken, then told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from twisted.logger import Logger

from wingsd.errors import StorageError
from wingsd.journal import Direction, Outcome
from wingsd.transfers.announcer import Announcer
from wingsd.transfers.interrupt import Interruptible
from wingsd.transfers.lifecycle import Lifecycle, ReceiveStep, SendStep, State
from wingsd.transfers.means import ReceivingMeans, SendingMeans

__all__ = ["Course"]

S = TypeVar("S", bound=ReceiveStep | SendStep)


class Course(Generic[S]):
    """The course of the transfer of the server with the UUID `server`.

    `node` says in the console which of the two nodes speaks (`wording.SOURCE` or the other). It is
    the `Passage` that the node's observer is told of.
    """

    _log = Logger()

    def __init__(
        self, server: str, node: str, steps: Iterable[S], means: ReceivingMeans | SendingMeans
    ) -> None:
        self.chain = Interruptible()
        self.life = Lifecycle(steps)
        self.announcer = Announcer(server, node, means.bus, means.reactor)
        #: Returns the bytes that have been moved so far.
        self.count: Callable[[], int] = lambda: 0
        self._server = server
        self._journal = means.journal
        self._observer = means.observer
        self._clock: Callable[[], float] = means.reactor.seconds
        self._entry: int | None = None
        self._error: Exception | None = None
        self._entered = 0.0
        # Of a step that an earlier daemon entered nobody knows how long it takes.
        self._seen_whole = True

    async def begin(self) -> None:
        """Write the transfer down, and tell of it. Raises `StorageError`."""
        step = self.life.step
        self._entered = self._clock()
        # Before it is written down: one for which that fails has an end, too.
        self._observer.transfer_begun(self)
        self._entry = await self._journal.begin(self._server, self._way, step.name)
        self.announcer.transfer = self._entry
        self.announcer.enter(step)

    def resume(self, entry: int, step: S) -> None:
        """Be the one that an earlier daemon wrote down, at the step it had come to."""
        self._entry = entry
        self.announcer.transfer = entry
        self.life.step = step
        self._go(step)
        self._seen_whole = False
        if not self.life.over:
            self._observer.transfer_begun(self)

    async def enter(self, step: S) -> None:
        """Enter a step, unless the transfer is interrupted. Raises `StorageError`."""
        self.chain.check()
        if self._entry is not None:
            await self._journal.enter(self._entry, step.name)
        self.chain.check()
        self.pass_on(step)

    async def fall_to(self, step: S) -> None:
        """Enter the step of a failure, interrupted or not, and written down where that goes."""
        if self._entry is not None:
            try:
                await self._journal.enter(self._entry, step.name)
            except StorageError as error:
                self._log_stuck(error)
        self.pass_on(step)

    def pass_on(self, step: S) -> None:
        """Enter a step that changes nothing by itself, and need not be written down."""
        if self._seen_whole:
            self._observer.step_left(self)
        self._seen_whole = True
        self.life.advance(step)
        self._go(step)
        if self.life.over:
            error = None if step.state is State.SUCCESS else self._error
            self._observer.transfer_over(self.direction, error, self)

    def _go(self, step: S) -> None:
        self._entered = self._clock()
        self.announcer.enter(step)

    def fail(self, error: Exception) -> None:
        """Tell what has gone wrong; where the transfer ends as a failure, that is why."""
        self._error = error
        self.announcer.warn(f"failed while {self.life.step.words}: {error}")

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
        entry, self._entry = self._entry, None
        if entry is None:
            return
        moved = self.life.step.state is State.SUCCESS
        outcome = Outcome.SUCCESS if moved else Outcome.FAILURE
        ending = self._journal.end(entry, outcome)
        ending.addErrback(lambda failure: self._log_stuck(failure.value))

    def _log_stuck(self, error: object) -> None:
        self._log.error("{server}: {error}", server=self._server, error=error)
