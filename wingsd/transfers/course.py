"""A transfer's course at one node: each step is written down before it is taken, then told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from twisted.logger import Logger

from wingsd.errors import StorageError
from wingsd.events import EventBus
from wingsd.journal import Direction, Journal, Outcome
from wingsd.transfers.announcer import Announcer
from wingsd.transfers.interrupt import Interruptible
from wingsd.transfers.lifecycle import Lifecycle, ReceiveStep, SendStep, State

__all__ = ["Course"]

S = TypeVar("S", bound=ReceiveStep | SendStep)


class Course(Generic[S]):
    """The course of the transfer of the server with the UUID `server`.

    `node` says in the console which of the two nodes speaks (`wording.SOURCE` or the other).
    """

    _log = Logger()

    def __init__(
        self,
        server: str,
        node: str,
        steps: Iterable[S],
        journal: Journal,
        bus: EventBus,
        reactor: Any,
    ) -> None:
        self.chain = Interruptible()
        self.life = Lifecycle(steps)
        self.announcer = Announcer(server, node, bus, reactor)
        self._server = server
        self._journal = journal
        self._entry: int | None = None

    async def begin(self) -> None:
        """Write the transfer down, and tell of it. Raises `StorageError`."""
        step = self.life.step
        way = Direction.IN if isinstance(step, ReceiveStep) else Direction.OUT
        self._entry = await self._journal.begin(self._server, way, step.name)
        self.announcer.transfer = self._entry
        self.announcer.enter(step)

    def resume(self, entry: int, step: S) -> None:
        """Be the one that an earlier daemon wrote down, at the step it had come to."""
        self._entry = entry
        self.announcer.transfer = entry
        self.life.step = step
        self.announcer.enter(step)

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
        self.life.advance(step)
        self.announcer.enter(step)

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
