"""The rounds of servers that run: of a move until the moment to stop it, and of a seed, for days.

Read `LiveRounds.run` from top to bottom: plan a round, decide, send it. A server that a seed
follows is used as ever. A round of its that fails is tried again after a growing pause, by a fault
of this program too; only the destination's word that it has no such move any more ends them, for
which it is asked in pauses as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.config import LiveMovesConfig
from wingsd.errors import WingsdError
from wingsd.moves.stop_rule import ALL_EVERY, StopDecision, StopLimits, StopReason, StopRule
from wingsd.servers.operations import Operations
from wingsd.servers.power_states import PowerState
from wingsd.transfers.console import ProgressMeter, filled_bar, progress_bar
from wingsd.transfers.errors import DestinationError, DestinationRefused
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound
from wingsd.transfers.step_log import SeedFigures
from wingsd.util.observer import Observer
from wingsd.util.retry import Backoff
from wingsd.util.text import readable_size, readable_time

__all__ = ["FollowedServer", "LiveRounds", "RoundReporter", "SeedRounds"]

#: Seconds for which a server that is starting is waited for before it is stopped.
STARTING_WITHIN = 60.0
#: Seconds between two rounds of a server that would be down for too long.
ROUND_EVERY = 60.0
#: Seconds between two questions to a destination that is not ready for the server.
READY_EVERY = 10.0
#: Seconds after which a plan is made anew before the server is stopped.
STALE_AFTER = 2.0
#: Seconds between two looks at the server's state.
LOOK_EVERY = 0.5


class FollowedServer(Protocol):
    """The server that runs."""

    @property
    def state(self) -> PowerState:
        """The state of its program."""

    @property
    def restart_seconds(self) -> float:
        """How long its program took to stop and to start the last time; 0 if not known."""

    @property
    def operations(self) -> Operations:
        """What is being done with it."""


class Rounds(Protocol):
    """What sends rounds: `OutgoingMove`."""

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        """Find out what the destination lacks."""

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        """Send it."""

    @property
    def container_seconds(self) -> float:
        """How long making its container takes at the destination; 0 if not known yet."""

    @property
    def read(self) -> int:
        """The bytes that have been read of the planned round, and those that need not be."""


@attrs.frozen(eq=False, repr=False)
class RoundReporter:
    """Whom the rounds are told to: `say` gets lines for people, `note` how far they are.

    `announce` tells the players that the server will be down for so many seconds.
    """

    say: Callable[[str], None]
    note: Callable[[str], None]
    observer: Observer
    announce: Callable[[float], Awaitable[None]]


class LiveRounds:
    """The rounds of one server's move, within what `config` says.

    `may_stop` returns whether the server could run at the destination, and tells why not: without
    that it is not stopped.
    """

    def __init__(
        self,
        move: Rounds,
        server: FollowedServer,
        config: LiveMovesConfig,
        clock: IReactorTime,
        reporter: RoundReporter,
        may_stop: Callable[[], Awaitable[bool]],
    ) -> None:
        self._move = move
        self._server = server
        self._clock = clock
        self._reporter = reporter
        self._may_be_stopped = may_stop
        self._rule = StopRule(
            StopLimits(
                config.target_downtime,
                config.max_downtime,
                config.max_rounds,
                config.max_seconds,
            )
        )
        self._rounds = 0
        #: When the first round ended, and when the last one began.
        self._since: float | None = None
        self._began = 0.0
        self._starting_until: float | None = None
        #: The bytes that were read before the round that is sent, and those it reads; None
        #: between two rounds.
        self._reads: tuple[int, int] | None = None
        self._meter = ProgressMeter(clock.seconds, lambda: self._done)
        #: The seconds of downtime that were predicted last; None before.
        self.downtime: float | None = None
        self._predicted = ""

    @property
    def round(self) -> int:
        """The round that is sent, or was sent last; 0 before the first."""
        return self._rounds

    @property
    def _done(self) -> int:
        """The bytes of this round that have been read."""
        before, size = self._reads or (0, 0)
        return min(max(self._move.read - before, 0), size)

    @property
    def progress(self) -> str:
        """How far it is, for people."""
        if self._reads is None:
            after = f" after round {self._rounds}" if self._rounds else ""
            return f"Following: looking for what has to be sent{after}"
        done, (_, size) = self._done, self._reads
        if self._rounds == 1:  # which may take hours
            return f"Following {progress_bar(done, size)} in round 1{self._meter.pace(size)}"
        bar, left = filled_bar(done, size), readable_size(size - done)
        return f"Following {bar} round {self._rounds}, {left} left{self._predicted}"

    @property
    def has_ended(self) -> bool:
        """Whether the server does not run, and is not being started or restarted."""
        return self._server.state is PowerState.OFFLINE and not self._server.operations.starts

    async def run(self) -> StopReason:
        """Send rounds; return why the server is to be stopped now, or that it has ended."""
        is_left = False  # whether the last round has left out files that change all the time
        # Whether the next one has all files, as the first one has, also of a kept copy; and the
        # seconds of the last one that had. More follow each other while each takes half as long.
        complete, took = True, 0.0
        # Where the server would be down for too long: pauses so far, and whether the next is due.
        paused, pauses = 0, True
        while not self.has_ended:
            self._began = self._clock.seconds()
            planned = await self._move.plan_round(leave_hot=not complete)
            decision = self._decide(planned)
            if decision is None or decision.reason is None:
                await self._send(planned, decision, leave_hot=not complete)
                is_left = planned.left > 0
                if complete:
                    before, took = took, self._clock.seconds() - self._began
                    complete = took < before / 2
                elif decision is not None and decision.is_too_long:
                    # A round that follows a pause has more to send than one that follows a round.
                    if pauses:
                        await self._wait_for_next()
                        paused += 1
                        complete, took = paused % ALL_EVERY == 0, inf
                    pauses = not pauses
            elif is_left and not self.has_ended:
                # This one also has what was changed while they were left out. If that is too much,
                # further ones have what is changed in the time of a round.
                planned = await self._move.plan_round(leave_hot=False)
                await self._send(planned, decision, leave_hot=False)
                is_left, complete = False, True
                took = self._clock.seconds() - self._began
            elif await self._may_stop():
                await self._announce_stop(self._downtime(decision), decision.reason)
                return decision.reason
        return StopReason.ENDED

    def _decide(self, planned: PlannedRound) -> StopDecision | None:
        if self._since is None:
            return None
        decision = self._rule.decide(
            planned.seconds,
            planned.unread + planned.left,
            self._clock.seconds() - self._since,
            has_ended=self.has_ended,
        )
        self.downtime = self._downtime(decision)
        self._reporter.observer.downtime_predicted(self.downtime)
        return decision

    def _downtime(self, decision: StopDecision) -> float:
        """Return the seconds without a playable server, its stop and start included."""
        return decision.downtime + self._server.restart_seconds + self._move.container_seconds

    async def _send(
        self, planned: PlannedRound, decision: StopDecision | None, *, leave_hot: bool
    ) -> None:
        self._rounds += 1
        self._predicted = ""
        if decision is not None:
            self._predicted = f", about {self._downtime(decision):.1f} s of downtime"
        text = f"round {self._rounds}: {readable_size(planned.unread + planned.left)} to read"
        text += self._predicted
        if decision is not None and decision.is_too_long:
            text += (
                f", {decision.downtime:.1f} s of it to send the rest, which is more than "
                "system.transfers.live.max_downtime: the server runs on"
            )
        self._reporter.note(text)
        self._reporter.say(text)
        self._reads = self._move.read, planned.unread
        self._meter.start()
        closed = await self._move.send_round(leave_hot=leave_hot)
        self._reads = None
        self._rule.add(closed.figures)
        self._reporter.observer.round_sent(closed.figures.sent_bytes, is_first=self._rounds == 1)
        if self._since is None:
            self._since = self._clock.seconds()

    async def _announce_stop(self, downtime: float, reason: StopReason) -> None:
        self.downtime = downtime
        text = f"{reason.value}: about {downtime:.1f} s of downtime"
        self._reporter.observer.downtime_predicted(downtime)
        self._reporter.note("")
        self._reporter.say(text)
        await self._reporter.announce(downtime)

    async def _may_stop(self) -> bool:
        """Return whether the server may be stopped now; else wait for a while."""
        if self._is_starting:
            while self._is_starting:
                await self._pause(LOOK_EVERY)
            return False
        asked = self._clock.seconds()
        is_ready = await self._may_be_stopped()
        if is_ready and self._clock.seconds() - asked < STALE_AFTER:
            return True
        if not is_ready:
            await self._pause(READY_EVERY)
        return False

    @property
    def _is_starting(self) -> bool:
        """Whether it is starting, and that is waited for."""
        server = self._server
        if server.state is not PowerState.STARTING and not server.operations.starts:
            self._starting_until = None
            return False
        now = self._clock.seconds()
        if self._starting_until is None:
            self._starting_until = now + STARTING_WITHIN
        return now < self._starting_until

    async def _wait_for_next(self) -> None:
        """Wait until the next round is due, or the server has ended."""
        end = self._began + ROUND_EVERY
        while self._clock.seconds() < end and not self.has_ended:
            await self._pause(LOOK_EVERY)

    def _pause(self, seconds: float) -> Deferred[None]:
        pausing: Deferred[None] = deferLater(self._clock, seconds)
        return pausing


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
