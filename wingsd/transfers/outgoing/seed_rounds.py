"""The rounds by which a copy of a server at another node is kept up to date, for days if need be.

The server is used as ever meanwhile. A round that fails is tried again after a growing pause, by a
fault of this program too; only the destination's word that it has no such move any more ends them,
for which it is asked in pauses as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import WingsdError
from wingsd.moves.hot_files import ALL_EVERY
from wingsd.moves.stop_rule import StopLimits, StopRule
from wingsd.transfers.errors import DestinationError, DestinationRefused
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound
from wingsd.transfers.step_log import SeedFigures
from wingsd.util.observer import Observer
from wingsd.util.retry import Backoff
from wingsd.util.text import readable_size, readable_time

__all__ = ["SeedRounds"]

#: Seconds for which a request is repeated that does not get through, before the round has failed.
PATIENCE = 60.0
#: Seconds between two rounds of which the first has failed.
RETRIES = Backoff(60.0, 3600.0, jitter=True)
#: Seconds that a pause has at most because the round before it has taken as long.
LONGEST_REST = 3600.0
#: Seconds in a pause after which the destination is asked whether it has ended the move.
ASKED_EVERY = 10.0
#: Seconds between two lines in the log about rounds that are as they should be.
TOLD_EVERY = 3600.0


class CopiedServer(Protocol):
    """The server that is copied."""

    uuid: str

    @property
    def restart_seconds(self) -> float:
        """How long its program took to stop and to start the last time; 0 if not known."""


class SeedMove(Protocol):
    """What sends rounds: `OutgoingMove`."""

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        """Find out what the destination lacks."""

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        """Send it."""

    async def look_again(self, *, has_failed: bool, starts_over: bool) -> None:
        """Look, before a round, whether the server has another directory now.

        With `starts_over` nothing counts that is known of its files.
        """

    async def ended(self) -> DestinationError | None:
        """Return why the destination has ended the move; None where it has not said so."""

    def wait_for(self, seconds: float | None) -> None:
        """Repeat each request for so many seconds; None for the usual patience."""

    @property
    def container_seconds(self) -> float:
        """How long making its container takes at the destination; 0 if not known yet."""

    @property
    def read(self) -> int:
        """The bytes that have been read of the planned round, and those that need not be."""


class SeedRounds:
    """The rounds of the copy of a server.

    One begins `every` seconds, or later, so that half the time is free.

    They are over at `until`, in seconds since the epoch by `now`, or when they are stopped. `say`
    gets lines for the log.
    """

    _log = Logger()

    def __init__(
        self,
        server: CopiedServer,
        move: SeedMove,
        every: float,
        until: float | None,
        clock: IReactorTime,
        now: Callable[[], float],
        say: Callable[[str], None],
        observer: Observer,
    ) -> None:
        self._server = server
        self._move = move
        self._every = every
        self._until = until
        self._clock = clock
        self._now = now
        self._say = say
        self._observer = observer
        self._rule = StopRule(StopLimits())
        self._rounds = 0
        #: When the last round began that is whole, by the clock.
        self._whole: float | None = None
        self._planned: PlannedRound | None = None
        #: The bytes that were read, or need not be, when the round was planned that is sent now.
        self._before: int | None = None
        #: The bytes that were missing when the last round had ended that was planned.
        self._left: int | None = None
        self._downtime: float | None = None
        self._trouble, self._retries = "", iter(RETRIES)
        #: Whether the last round has failed by a fault of this program.
        self._is_faulty = False
        self._told = 0.0
        self._pausing: Deferred[None] | None = None
        self._stopped: WingsdError | None = None

    @property
    def figures(self) -> SeedFigures:
        """How far the copy is."""
        planned = self._planned
        return SeedFigures(
            rounds=self._rounds,
            changed=0 if planned is None else planned.unread + planned.left,
            missing=self._missing,
            age=None if self._whole is None else self._clock.seconds() - self._whole,
            downtime=self._downtime,
            until=self._until,
            trouble=self._trouble,
        )

    @property
    def _missing(self) -> int | None:
        planned = self._planned
        if planned is None or self._before is None:
            return self._left
        return planned.left + max(planned.unread - max(self._move.read - self._before, 0), 0)

    async def run(self) -> None:
        """Send rounds; return after the first whole one from `until` on.

        Raises the reason of `stop`, and why the destination has ended the move.
        """
        self._move.wait_for(PATIENCE)
        try:
            while True:
                began = self._clock.seconds()
                pause = await self._attempt(began)
                if self._is_due and not self._trouble:
                    return
                await self.pause(pause)
        except CancelledError:
            if self._stopped is None:
                raise
            raise self._stopped from None
        finally:
            self._move.wait_for(None)

    def stop(self, reason: WingsdError) -> None:
        """Have `run` raise `reason` soon; what it waits for at the destination is to be ended."""
        self._stopped = reason
        if self._pausing is not None:
            self._pausing.cancel()

    async def pause(self, seconds: float) -> None:
        """Wait, at most until `until` comes. Raises as `run`."""
        end = self._clock.seconds() + seconds
        was_due = self._is_due
        while True:
            left = end - self._clock.seconds()
            if self._until is not None and not was_due:
                left = min(left, self._until - self._now())
            await self._sleep(min(max(left, 0.0), ASKED_EVERY))
            if left <= ASKED_EVERY:
                return
            if (ended := await self._ended()) is not None:
                raise ended

    async def _sleep(self, seconds: float) -> None:
        if self._stopped is not None:
            raise self._stopped
        pausing: Deferred[None] = deferLater(self._clock, seconds)
        self._pausing = pausing
        try:
            await pausing
        finally:
            self._pausing = None

    @property
    def _is_due(self) -> bool:
        return self._until is not None and self._now() >= self._until

    async def _attempt(self, began: float) -> float:
        """Send a round that begins now; return the seconds until the next one."""
        is_first = self._whole is None
        faulty, self._is_faulty = self._is_faulty, False
        try:
            await self._move.look_again(has_failed=self._trouble != "", starts_over=faulty)
            await self._round()
        except WingsdError as error:
            return await self._failed(error)
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{server}: a round of its copy failed", server=self._server.uuid)
            self._is_faulty = True
            return await self._failed(WingsdError("internal error", "see the log of this node"))
        finally:
            self._left, self._before = self._missing, None
        took = self._clock.seconds() - began
        self._rounds += 1
        self._whole = began
        self._over(is_first=is_first)
        return self._every if is_first else max(self._every - took, min(took, LONGEST_REST))

    async def _round(self) -> None:
        # The second one tells how much of these files is changed between two rounds.
        leaves = self._rounds % ALL_EVERY > 1
        planned = self._planned = await self._move.plan_round(leave_hot=leaves)
        if self._rounds:
            rest = self._rule.predict(planned.seconds, planned.unread + planned.left)
            made, restart = self._move.container_seconds, self._server.restart_seconds
            self._downtime = rest + made + restart
            self._observer.downtime_predicted(self._downtime)
        self._before = self._move.read
        closed = await self._move.send_round(leave_hot=leaves)
        self._left, self._before = planned.left, None
        self._rule.add(closed.figures)
        self._observer.round_sent(closed.figures.sent_bytes, is_first=not self._rounds)

    async def _failed(self, error: WingsdError) -> float:
        """Tell that a round has failed; return the pause. Raises why the move is over."""
        if self._stopped is not None:
            raise self._stopped
        ended = await self._ended() if isinstance(error, DestinationRefused) else None
        if ended is not None:
            raise ended
        pause = next(self._retries)
        self._trouble = f"{error.code}: {error}"
        age, wait = self.figures.age, readable_time(pause)
        since = "was not seen whole yet" if age is None else f"is {readable_time(age)} old"
        self._say(f"the copy {since}, and follows the server again in {wait}: {self._trouble}")
        return pause

    async def _ended(self) -> DestinationError | None:
        """Return why the destination has ended the move; None where that is not known."""
        try:
            return await self._move.ended()
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{server}: asking its destination failed", server=self._server.uuid)
            return None

    def _over(self, *, is_first: bool) -> None:
        """Tell that a round is whole, if people are to hear of that."""
        now, was_in_trouble = self._clock.seconds(), self._trouble != ""
        self._trouble, self._retries = "", iter(RETRIES)
        if not (is_first or was_in_trouble or now >= self._told + TOLD_EVERY):
            return
        self._told = now
        text = "the destination has a whole copy, which follows the server"
        if self._downtime is not None:
            changed = readable_size(self.figures.changed)
            text += (
                f": round {self._rounds} had {changed} to read, and a move would take about "
                f"{self._downtime:.1f} s of downtime"
            )
        self._say(text)
