"""A transfer's course at one node: each step is written down before it is taken, then told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import attrs
from twisted.logger import Logger

from wingsd.errors import StorageError
from wingsd.events import EventBus
from wingsd.journal import Account, Direction, Journal, Outcome
from wingsd.transfers.announcer import Announcer
from wingsd.transfers.interrupt import Interruptible
from wingsd.transfers.lifecycle import Lifecycle, ReceiveStep, SendStep, State

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

    `node` says in the console which of the two nodes speaks (`wording.SOURCE` or the other).
    """

    _log = Logger()

    def __init__(
        self,
        server: str,
        node: str,
        steps: Iterable[S],
        authority: _Authority[S],
        journal: Journal,
        bus: EventBus,
        reactor: Any,
    ) -> None:
        self.chain = Interruptible()
        self.life = Lifecycle(steps)
        self.announcer = Announcer(server, node, bus, reactor)
        #: Its number in the journal, None before and after it is open there.
        self.entry: int | None = None
        self._server = server
        self._authority = authority
        self._journal = journal
        self._account = Account()

    @property
    def doing(self) -> str:
        """What is done in this step, in words."""
        step = self.life.step
        return self._authority.words.get(step, step.words)

    async def begin(self) -> int:
        """Write the transfer down, and tell of it; return its number. Raises `StorageError`."""
        step = self.life.step
        way = Direction.IN if isinstance(step, ReceiveStep) else Direction.OUT
        by_hand = self._authority.by_hand
        entry = await self._journal.begin(self._server, way, step.name, by_hand=by_hand)
        self.entry = entry
        self.announcer.enter(step, self.doing)
        return entry

    def resume(self, entry: int, step: S) -> None:
        """Be the one that an earlier daemon wrote down, at the step it had come to."""
        self.entry = entry
        self.life.step = step
        self.announcer.enter(step, self.doing)

    async def enter(self, step: S) -> None:
        """Enter a step, unless the transfer is interrupted. Raises `StorageError`."""
        self.chain.check()
        if self.entry is not None:
            await self._journal.enter(self.entry, step.name)
        self.chain.check()
        self.pass_on(step)

    async def fall_to(self, step: S) -> None:
        """Enter the step of a failure, interrupted or not, and written down where that goes."""
        if self.entry is not None:
            try:
                await self._journal.enter(self.entry, step.name)
            except StorageError as error:
                self._log_stuck(error)
        self.pass_on(step)

    def pass_on(self, step: S) -> None:
        """Enter a step that changes nothing by itself, and need not be written down."""
        self.life.advance(step)
        self.announcer.enter(step, self.doing)

    def note_figures(self, size: int, files: int) -> None:
        """Keep for the journal how many bytes the archive has, and files."""
        self._account = attrs.evolve(self._account, bytes=size, files=files)

    def tell_failure(self, error: Exception) -> None:
        """Tell why it fails, and keep that for the journal."""
        self._account = attrs.evolve(self._account, reason=f"while {self.doing}: {error}")
        self.announcer.warn(f"failed {self._account.reason}")

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
