"""The rounds of a move while its server runs, until the moment to stop it.

Read `LiveRounds.run` from top to bottom: plan a round, decide, send it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wingsd.config import LiveMovesConfig
from wingsd.moves.hot_files import ALL_EVERY
from wingsd.moves.stop_rule import StopDecision, StopLimits, StopReason, StopRule
from wingsd.servers.operations import Operations
from wingsd.servers.power_states import PowerState
from wingsd.transfers.console import ProgressMeter, filled_bar, progress_bar
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound
from wingsd.util.observer import Observer
from wingsd.util.text import readable_size

__all__ = ["FollowedServer", "LiveRounds", "RoundReporter"]

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
