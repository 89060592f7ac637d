"""Rounds of a server that runs: of a move, until the moment to stop it, and of a seed, for days.

`SentServer` is that server from its claim to its end, or to its start here again. `Rounds.run`
plans each round and sends it; its subclasses say when, and what follows. A server that a seed
follows is used as ever. A round that fails is tried again after a growing pause, by a fault of
this program too; only the destination's word that it has no such move any more ends them, for
which it is asked in pauses as well.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.config import LiveMovesConfig
from wingsd.errors import (
    Conflict,
    DestinationError,
    DestinationRefused,
    EnvironmentFailed,
    StorageError,
    WingsdError,
)
from wingsd.moves.stop_rule import ALL_EVERY, StopDecision, StopRule
from wingsd.servers import Server
from wingsd.servers.operations import Hold, Operation
from wingsd.servers.power_states import PowerState
from wingsd.servers.running import adopt_when_possible, finish_stop, start_when_possible
from wingsd.statedb import MoveRecord
from wingsd.transfers.outgoing.move import MoveSending
from wingsd.transfers.outgoing.move_round import PlannedRound
from wingsd.transfers.outgoing.source import FOLLOWED, HOLD, OutgoingParts
from wingsd.transfers.peer.moves import REHEARSE_EVERY, ROUND_PATIENCE, ROUND_PAUSES
from wingsd.transfers.steps import (
    ProgressMeter,
    SeedFigures,
    SendStep,
    State,
    StepLog,
    filled_bar,
    progress_bar,
)
from wingsd.util.text import readable_size, readable_time


@attrs.define(eq=False, repr=False, slots=False)
class SentServer:
    """A server that is sent, while it runs if `follows`.

    It may be used until it is stopped for that, within the grace of `parts`, and is started again
    if it stays. In the recorded state of its move is whether it was stopped, and not used since.
    """

    _log = Logger()

    _server: Server
    _steps: StepLog[SendStep]
    _parts: OutgoingParts

    def __attrs_post_init__(self) -> None:
        #: Whether it is taken for this: else another transfer may have taken it, in the place of
        #: a seed.
        self.is_taken = True
        #: Whether it is, or was, sent while it runs.
        self.follows = False
        #: Whether it ran when it was to be stopped; and whether it did not when it was taken, or
        #: since.
        self.ran = self.was_off = False
        #: Whether it was stopped for this, and runs again if it stays: until it was started, or
        #: somebody has used it since.
        self.starts_again = False
        #: Whether it is to be deleted when this has ended.
        self.is_deleted = False
        #: When it was asked to end.
        self._stop_began: float | None = None
        #: Whether an earlier daemon may have asked it to end, and that is not finished.
        self._is_stopping = False
        #: Whether `ran` was noted for the stop that comes next.
        self._is_noted = False
        #: How many power actions it had when it was last seen as this had it.
        self._actions = 0

    def take(self, *, may_follow: bool) -> None:
        """Take it for the transfer; one that runs may be used. Raises `ServerBusy`.

        So may one that this node is about to start: it is started where it ends.
        """
        server = self._server
        is_off = server.state is PowerState.OFFLINE
        if may_follow and (not is_off or server.starts_if_it_stays):
            server.place_hold(Operation.FOLLOW, FOLLOWED)
            self._follow()
        else:
            self.was_off = is_off
            server.place_hold(Operation.TRANSFER_OUT, HOLD)
        self.is_taken = True

    async def take_over(self, record: MoveRecord) -> None:
        """Go on where the earlier daemon was, which has held it. Raises `EnvironmentFailed`.

        It is started where that daemon was about to. Raises `Conflict` where it runs although it
        was stopped.
        """
        state = json.loads(record.state)
        self.ran = state.get("running") is True
        if state.get("live") is True:
            self._follow()
            self.starts_again = state.get("stopped") is True
            at_stop = self._steps.current is SendStep.STOP
            self._is_stopping = self.starts_again and at_stop
        if not self._steps.before(SendStep.STOP):
            await self._check_ended()
            return
        await adopt_when_possible(self._server, self._steps.clock, only_silent=True)
        if self._server.state is PowerState.OFFLINE and self.starts_again:
            await self.run_again()
            return
        if self.follows:
            self._claim()
        if self.starts_again:
            await self._was_started()

    async def _check_ended(self) -> None:
        """Raise `Conflict` where it runs after its stop: what is sent would not be its end."""
        steps = self._steps
        if steps.before(SendStep.SEND):
            return  # it is stopped next
        if steps.before(SendStep.AWAIT):
            await adopt_when_possible(self._server, self._steps.clock, only_silent=True)
        else:
            with suppress(EnvironmentFailed):  # what the destination says is waited for, not this
                await self._server.adopt()
        if self._server.state is not PowerState.OFFLINE:
            raise Conflict(
                "the server runs on this node, although it was stopped for its move",
                "somebody has started it, or it was not recorded that the move has failed; "
                "see where it belongs, and move it again",
            )

    def _follow(self) -> None:
        """Keep the Panels' pages usable until it is stopped."""
        self.follows = True
        steps = self._steps
        steps.words = {State.PENDING: ("starting",)}
        steps.states = dict.fromkeys((SendStep.STOP, SendStep.RETIRE), State.PROCESSING)

    def _claim(self) -> None:
        self._server.operations.hold = Hold(Operation.FOLLOW, FOLLOWED)

    def note_deletion(self) -> None:
        """Note that it is to be deleted: it is not started again."""
        self.is_deleted = True
        self.follows = self.starts_again = self._server.starts_if_it_stays = False

    async def leave_off(self) -> None:
        """Leave its start to a person: its destination may run it."""
        self._steps.say(
            "not known whether it has moved: the server stays on this node and is not started; "
            "before you start it, see whether the destination has it"
        )
        self.follows = False
        if self.starts_again:
            try:
                await self._was_started()
            except StorageError as error:
                self._log.error(
                    "{server}: a restart of wingsd would start it, since the change could not be "
                    "recorded: {error}",
                    server=self._server.uuid,
                    error=error,
                )

    def release(self) -> None:
        """Let it be started and used again, if it was taken."""
        if self.is_taken:
            self._server.release()

    # Its stop

    @property
    def is_down(self) -> bool:
        """True if it was stopped for this, and runs again where the rest takes too long."""
        steps = self._steps
        is_stopped = not steps.before(SendStep.STOP) and steps.before(SendStep.AWAIT)
        return self.starts_again and is_stopped

    def note_state(self) -> bool:
        """Note whether it runs, before it is stopped; return whether that is to be recorded.

        So does one that could not be started again, or ended with its machine. To be called again
        when it is recorded, until that has not changed, and `hold` at once then.
        """
        server = self._server
        ran = (self._is_to_run or self._runs) and not server.suspended
        is_known = self._is_noted and ran == self.ran
        self.ran, self.was_off, self._is_noted = ran, not ran, True
        return not is_known

    @property
    def _runs(self) -> bool:
        """True if it runs or is being started, and is not being stopped."""
        server = self._server
        runs = server.state in (PowerState.STARTING, PowerState.RUNNING)
        stops = server.operations.runs(Operation.STOP, Operation.KILL)
        return server.operations.starts or (runs and not stops)

    def hold(self) -> Deferred[None]:
        """Refuse further starts, stops and changes: it is stopped next.

        The Deferred fires when changes of its files, which that cancels, have ended.
        """
        self._is_noted, self.starts_again = False, self.follows and self.ran
        held = self._server.operations.hold
        if held is None or held.operation is not Operation.TRANSFER_OUT:
            self._server.operations.hold = Hold(Operation.TRANSFER_OUT, HOLD)
        self._actions = self._server.power_actions
        return self._server.operations.ended(Operation.CHANGE_FILES)

    async def stop(self) -> None:
        """Stop it. Raises `EnvironmentFailed`."""
        began = self._steps.seconds()
        try:
            await self._server.stop_within(self._parts.config.stop_grace)
        finally:
            self._actions = self._server.power_actions
        self._is_stopping = False
        self._stop_began = began

    @property
    def _is_to_run(self) -> bool:
        """True if it was stopped for this or by its machine's end, and was not used since."""
        server = self._server
        if server.state is not PowerState.OFFLINE:
            return False
        was_stopped = self.starts_again and server.power_actions == self._actions
        return was_stopped or server.starts_if_it_stays

    async def run_again(self) -> None:
        """Start it here again, and let it be used, after it was stopped."""
        self._stop_began = None
        await self._server.restore_environment()
        self._claim()
        await self._start()

    async def start_again(self) -> None:
        """Start it if it stays, and was stopped for this or ended with the machine."""
        server = self._server
        if not self.is_taken:
            return
        # its stop was cancelled after it had been requested, and goes on
        is_stopping = self._is_stopping or server.state is PowerState.STOPPING
        if self.starts_again and is_stopping:
            stop = partial(server.stop_within, self._parts.config.stop_grace)
            await finish_stop(server, stop, self._steps.clock, self._actions)
        # where its stop was cancelled before it was requested
        runs = server.state in (PowerState.STARTING, PowerState.RUNNING)
        if self._is_to_run:
            self._steps.say("the server is started again, as it ran before")
            await self._start()
        elif self.starts_again and (runs or server.power_actions != self._actions):
            await self._was_started()  # or stopped, by somebody who has used it since

    async def _start(self) -> None:
        server = self._server
        try:
            await start_when_possible(server, self._steps.clock)
        except WingsdError as error:  # which its console has as well
            self._log.warn(
                "{server}: it was not started again: {error}", server=server.uuid, error=error
            )
            self._actions = server.power_actions
            if server.state is PowerState.OFFLINE:
                return
        await self._was_started()

    async def _was_started(self) -> None:
        """Record that it was started again, or somebody has used it since its stop."""
        self.starts_again = False
        await self._record({"stopped": False})

    async def record_running(self, *, runs: bool) -> None:
        """Record whether it runs, before it is stopped: then it is to run again if it stays.

        Raises `StorageError`.
        """
        await self._record({"running": runs, "stopped": runs})

    async def _record(self, changes: dict[str, bool]) -> None:
        if (entry := self._steps.entry) is not None:
            await self._parts.database.change_move_state(entry, changes)

    def tell_downtime(self) -> None:
        """Say how long after the stop the destination has it."""
        if self.follows and self.ran and self._stop_began is not None:
            seconds = self._steps.seconds() - self._stop_began
            self._steps.say(
                f"the destination has the server, {seconds:.1f} s after it was stopped here"
            )
            self._steps.observer.downtime_measured(seconds)
            self._steps.set_downtime(seconds)


#: Seconds for which a server that is starting is waited for before it is stopped.
STARTING_WITHIN = 60.0
#: Seconds between two rounds of a server that would be down for too long.
ROUND_EVERY = 60.0
#: Seconds after which a plan is made again before the server is stopped.
STALE_AFTER = 2.0
#: Seconds between two looks at the server's state.
LOOK_EVERY = 0.5
#: Stands for the predicted downtime in a command: whole seconds, rounded up.
_SECONDS = "{seconds}"


@attrs.define(eq=False, repr=False, slots=False)
class Rounds(ABC):
    """The rounds of a server that `move` sends, and the figures of them.

    A subclass says when each is sent, and what follows.
    """

    _move: MoveSending
    _server: Server
    _steps: StepLog[SendStep]
    _config: LiveMovesConfig

    def __attrs_post_init__(self) -> None:
        self._rule = StopRule(self._config)
        #: How many were sent.
        self._rounds = 0
        #: The one that was planned last.
        self._planned: PlannedRound | None = None
        #: When the last one began, by the clock.
        self._round_began = 0.0
        #: The seconds of downtime that were predicted last; None before.
        self.downtime: float | None = None
        #: The bytes that were read, or need not be, before the round that is sent now; None
        #: between two rounds.
        self._before: int | None = None
        #: The bytes that were missing when the last round ended that was planned.
        self._left: int | None = None

    async def run(self) -> None:
        """Send rounds until they are over. Raises what it does not go on after."""
        while not self.is_over:
            self._round_began = self._steps.seconds()
            try:
                is_due = await self._round()
            except Exception as error:
                await self._fail(error)
            else:
                await self._pass(was_sent=is_due)

    async def _round(self) -> bool:
        """Plan a round, and send it if it is due; return whether it was."""
        leave_hot = await self._begin()
        planned = self._planned = await self._move.plan_round(leave_hot=leave_hot)
        is_due = self._is_due(planned)
        if is_due:
            await self._send(planned, leave_hot=leave_hot)
        return is_due

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """True if no further round is to be sent."""

    @abstractmethod
    async def _begin(self) -> bool:
        """Begin a round; return whether it leaves out what changes all the time."""

    @abstractmethod
    def _is_due(self, planned: PlannedRound) -> bool:
        """Return whether the round is to be sent."""

    @abstractmethod
    async def _pass(self, *, was_sent: bool) -> None:
        """Find out what follows a round that has not failed."""

    async def _fail(self, error: Exception) -> None:
        """Raise the error of a round, unless that is tried again."""
        raise error

    async def _send(self, planned: PlannedRound, *, leave_hot: bool) -> None:
        self._before = self._move.read
        try:
            closed = await self._move.send_round(leave_hot=leave_hot)
            self._left = planned.left
        except Exception:
            self._left = self._missing
            raise
        finally:
            self._before = None
        self._rule.add(closed.figures)
        self._steps.observer.round_sent(closed.figures.sent_bytes, is_first=not self._rounds)
        self._rounds += 1

    @property
    def _is_sending(self) -> bool:
        """True while a round is sent."""
        return self._before is not None

    @property
    def _done(self) -> int:
        """The bytes of the round that is sent now that have been read; 0 between two rounds."""
        if self._planned is None or self._before is None:
            return 0
        return min(max(self._move.read - self._before, 0), self._planned.unread)

    @property
    def _missing(self) -> int | None:
        """The bytes of the last planned round that are to be sent; None before the first."""
        planned = self._planned
        if planned is None or not self._is_sending:
            return self._left
        return planned.left + planned.unread - self._done

    def _predict(self, seconds: float) -> float:
        """Note that the rest takes so long; return the downtime, its stop and start included."""
        self.downtime = seconds + self._server.restart_seconds + self._move.container_seconds
        self._steps.observer.downtime_predicted(self.downtime)
        return self.downtime


@attrs.define(eq=False, repr=False, slots=False)
class LivePolicy(Rounds):
    """Follows a server that runs until the moment to stop it, within what `config` says.

    It is not stopped before it could run at the destination, for which `ask_panel` asks this
    node's Panel.
    """

    _ask_panel: Callable[[], Awaitable[None]]

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._meter = ProgressMeter(self._steps.seconds, lambda: self._done)
        #: Whether the server is to be stopped.
        self._is_to_stop = False
        #: When the first round ended, and when the last one began that was not forced.
        self._since: float | None = None
        self._began = 0.0
        self._starting_until: float | None = None
        self._decision: StopDecision | None = None
        self._predicted = ""
        #: Whether the last round has left out files that change all the time, and whether the next
        #: one has them, whatever is decided.
        self._is_left = self._is_forced = False
        #: Whether the next one has all files, as the first one has, also of a kept copy; and the
        #: seconds of the last one that had. More follow each other while each takes half as long.
        self._is_complete, self._took = True, 0.0
        #: Where the server would be down for too long: pauses so far, and whether the next is due.
        self._paused, self._pauses = 0, True

    @property
    def round(self) -> int:
        """The round that is sent, or was sent last; 0 before the first."""
        return self._rounds + self._is_sending

    @property
    def progress(self) -> str:
        """Its progress, for people."""
        planned = self._planned
        if planned is None or not self._is_sending:
            after = f" after round {self.round}" if self.round else ""
            return f"Following: looking for what has to be sent{after}"
        done, size = self._done, planned.unread
        if self.round == 1:  # which may take hours
            return f"Following {progress_bar(done, size)} in round 1{self._meter.pace(size)}"
        bar, left = filled_bar(done, size), readable_size(size - done)
        return f"Following {bar} round {self.round}, {left} left{self._predicted}"

    @property
    def has_ended(self) -> bool:
        """True if the server does not run, and is not being started or restarted."""
        return self._server.state is PowerState.OFFLINE and not self._server.operations.starts

    # Its rounds

    @property
    def is_over(self) -> bool:
        """True if the server is to be stopped, or has ended."""
        return self._is_to_stop or self.has_ended

    async def _begin(self) -> bool:
        if not self._is_forced:
            self._began = self._round_began
        return not (self._is_complete or self._is_forced)

    def _is_due(self, planned: PlannedRound) -> bool:
        """Return whether the round is to be sent: else the server may be stopped."""
        if not self._is_forced:
            self._decision = self._decide(planned)
            if self._decision is not None and self._decision.reason is not None:
                return False
        self._tell(planned)
        self._meter.start()
        return True

    async def _pass(self, *, was_sent: bool) -> None:
        """Find out what the next round is, once it is due, or stop the server."""
        decision, now = self._decision, self._steps.seconds()
        if was_sent and self._since is None:
            self._since = now
        if self._is_forced:
            self._is_forced = self._is_left = False
            self._is_complete, self._took = True, now - self._began
        elif was_sent:
            planned = self._planned
            self._is_left = planned is not None and planned.left > 0
            if self._is_complete:
                before, self._took = self._took, now - self._began
                self._is_complete = self._took < before / 2
            elif decision is not None and decision.is_too_long:
                # A round that follows a pause has more to send than one that follows a round.
                if self._pauses:
                    end = self._began + ROUND_EVERY
                    while self._steps.seconds() < end and not self.has_ended:
                        await deferLater(self._steps.clock, LOOK_EVERY)
                    self._paused += 1
                    self._is_complete, self._took = self._paused % ALL_EVERY == 0, inf
                self._pauses = not self._pauses
        elif self._is_left and not self.has_ended:
            # The next one also has what was changed while they were left out. If that is too much,
            # further ones have what is changed in the time of a round.
            self._is_forced = True
        elif decision is not None and await self._may_stop():
            self._is_to_stop = True
            await self._announce_stop(decision)

    # Its parts

    def _decide(self, planned: PlannedRound) -> StopDecision | None:
        if self._since is None:
            return None
        decision = self._rule.decide(
            planned.seconds,
            planned.unread + planned.left,
            self._steps.seconds() - self._since,
            has_ended=self.has_ended,
        )
        self._predict(decision.downtime)
        return decision

    def _tell(self, planned: PlannedRound) -> None:
        decision, self._predicted = self._decision, ""
        text = f"round {self.round + 1}: {readable_size(planned.unread + planned.left)} to read"
        if decision is not None:
            self._predicted = f", about {self._downtime(decision):.1f} s of downtime"
            text += self._predicted
        if decision is not None and decision.is_too_long:
            text += (
                f", {decision.downtime:.1f} s of it to send the rest, which is more than "
                "system.transfers.live.max_downtime: the server runs on"
            )
        self._steps.detail = text
        self._steps.say(text)

    def _downtime(self, decision: StopDecision) -> float:
        restart = self._server.restart_seconds
        return decision.downtime + restart + self._move.container_seconds

    async def _announce_stop(self, decision: StopDecision) -> None:
        downtime = self._predict(decision.downtime)
        assert decision.reason is not None  # noqa: S101 - by `is_due`
        text = f"{decision.reason.value}: about {downtime:.1f} s of downtime"
        self._steps.detail = ""
        self._steps.say(text)
        await self._announce(downtime)

    async def _announce(self, downtime: float) -> None:
        """Announce to the players that the server will be down for so many seconds.

        A console that does not take the line does not stop the move.
        """
        command = self._config.announce
        if not command:
            return
        try:
            await self._server.command(command.replace(_SECONDS, str(max(math.ceil(downtime), 1))))
        except WingsdError as error:
            self._steps.say(f"the move could not be announced to its players: {error}")

    async def _may_stop(self) -> bool:
        """Return whether the server may be stopped now; else wait for a while."""
        if self._is_starting:
            while self._is_starting:
                await deferLater(self._steps.clock, LOOK_EVERY)
            return False
        asked = self._steps.seconds()
        is_ready = await self._move.may_be_stopped(self._ask_panel)
        if is_ready and self._steps.seconds() - asked < STALE_AFTER:
            return True
        if not is_ready:
            await deferLater(self._steps.clock, REHEARSE_EVERY)
        return False

    @property
    def _is_starting(self) -> bool:
        """True if it is starting, and that is waited for."""
        server = self._server
        if server.state is not PowerState.STARTING and not server.operations.starts:
            self._starting_until = None
            return False
        now = self._steps.seconds()
        if self._starting_until is None:
            self._starting_until = now + STARTING_WITHIN
        return now < self._starting_until


#: Seconds that a pause has at most because the round before it has taken as long.
LONGEST_REST = 3600.0
#: Seconds of the pause after the first round, at least, where the second one follows soon. It
#: doubles as long as the server would be down for too long: the figures are of busy times, as yet.
_FIRST_REST = 2.0
#: Rounds before it is known which files change all the time.
_ROUNDS_UNKNOWN = 2
#: The part of the time between two rounds by which one may begin earlier than it is due.
_EARLIER = 0.1
#: Seconds after which a round that takes long lets the next one of another seed begin.
TURN_LASTS = 10.0
#: Seconds in a pause after which the destination is asked whether it has ended the move.
ASKED_EVERY = 10.0
#: Seconds between two lines in the log about rounds that are as they should be.
TOLD_EVERY = 3600.0


@attrs.define(eq=False, repr=False, slots=False)
class SeedPolicy(Rounds):
    """Keeps the copy of a server up to date until `until`, in seconds since the epoch by `now`.

    A round begins as often as `config` says, or later, so that half the time is free. Without
    `until` they are over when they are stopped.
    """

    _log = Logger()

    #: Whether the last round that was sent has come after `until`.
    is_over = False

    _until: float | None
    _now: Callable[[], float]
    #: Held for each round but the first, for a while: those of many seeds come together, and a
    #: server that is stopped for its move needs the same threads.
    _turns: DeferredSemaphore
    #: Whether the next rounds follow soon while the server would be down for too long: a command
    #: waits for them.
    _is_eager: bool = False

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        #: When the last round began that is whole, by the clock; and when the present one was due.
        self._whole: float | None = None
        self._came = 0.0
        #: The seconds that the rest was predicted to take, and of the next pause that is short.
        self._rest, self._soon = inf, _FIRST_REST
        self._trouble, self._retries = "", iter(ROUND_PAUSES)
        #: Whether nothing counts any more that is known of the files: the last round has failed by
        #: a fault of this program, or by a full disk after it was sent.
        self._is_faulty = False
        self._told = 0.0
        self._pausing: Deferred[Any] | None = None
        self._stopped: WingsdError | None = None

    @property
    def figures(self) -> SeedFigures:
        """The progress of the copy."""
        planned = self._planned
        return SeedFigures(
            rounds=self._rounds,
            changed=0 if planned is None else planned.unread + planned.left,
            missing=self._missing,
            age=None if self._whole is None else self._steps.seconds() - self._whole,
            downtime=self.downtime,
            until=self._until,
            trouble=self._trouble,
        )

    async def run(self) -> None:
        """Send rounds; return after the first whole one from `until` on.

        Raises the reason of `stop`, and why the destination has ended the move.
        """
        self._move.wait_for(ROUND_PATIENCE)
        self.is_over = False
        try:
            await super().run()
        except CancelledError:
            if self._stopped is None:
                raise
            raise self._stopped from None
        finally:
            self._move.wait_for(None)

    def stop(self, reason: WingsdError) -> None:
        """Let `run` raise `reason` soon; what it waits for at the destination is to be ended."""
        self._stopped = reason
        if self._pausing is not None:
            self._pausing.cancel()

    async def pause(self, seconds: float) -> None:
        """Wait, at most until `until` comes. Raises as `run`."""
        end = self._steps.seconds() + seconds
        was_due = self._has_come
        while True:
            left = end - self._steps.seconds()
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
        pausing: Deferred[None] = deferLater(self._steps.clock, seconds)
        self._pausing = pausing
        try:
            await pausing
        finally:
            self._pausing = None

    @property
    def _has_come(self) -> bool:
        return self._until is not None and self._now() >= self._until

    # Its rounds

    async def _round(self) -> bool:
        self._came = self._round_began
        if self._whole is None or self._stopped is not None:
            return await self._alone()
        self._pausing = turn = self._turns.acquire()
        try:
            await turn
        finally:
            self._pausing = None
        giving_up = self._steps.clock.callLater(TURN_LASTS, self._turns.release)
        try:
            self._round_began = self._steps.seconds()
            return await self._alone()
        finally:
            if giving_up.active():
                giving_up.cancel()
                self._turns.release()

    async def _alone(self) -> bool:
        was_sent = await super()._round()
        try:
            await self._move.rest()
        except StorageError:
            self._is_faulty = True  # what is known of the files may be incomplete now
            raise
        return was_sent

    async def _begin(self) -> bool:
        """Look whether the server has another directory now, and whether all is read again."""
        faulty, self._is_faulty = self._is_faulty, False
        await self._move.look_again(has_failed=self._trouble != "", starts_over=faulty)
        # The second one tells how much of what is left out is changed between two rounds.
        return self._rounds % ALL_EVERY > 1

    def _is_due(self, planned: PlannedRound) -> bool:
        """Return True, and predict the downtime: each round is sent."""
        if self._whole is not None:
            to_read = planned.unread + planned.left
            # The first two rounds do not tell which files change all the time.
            hot = planned.hot if self._rounds > _ROUNDS_UNKNOWN else to_read
            seconds = self._round_began - self._whole
            self._rest = self._rule.foresee(planned.seconds, to_read, hot, seconds)
            self._predict(self._rest)
        return True

    async def _fail(self, error: Exception) -> None:
        """Try it again later. Raises why the move is over."""
        if isinstance(error, CancelledError):
            raise error
        if not isinstance(error, WingsdError):
            self._log.failure("{server}: a round of its copy failed", server=self._server.uuid)
            self._is_faulty = True
            error = WingsdError("internal error", "see the log of this node")
        if self._stopped is not None:
            raise self._stopped
        ended = await self._ended() if isinstance(error, DestinationRefused) else None
        if ended is not None:
            raise ended
        pause = next(self._retries)
        self._trouble = f"{error} ({error.code})"
        age, wait = self.figures.age, readable_time(pause)
        since = "was not seen whole yet" if age is None else f"is {readable_time(age)} old"
        self._steps.say(
            f"the copy {since}, and follows the server again in {wait}: {self._trouble}"
        )
        await self.pause(pause)

    async def _pass(self, *, was_sent: bool) -> None:
        """End, or wait until the next round is due."""
        is_first, began = self._whole is None, self._round_began
        self._whole, took = began, self._steps.seconds() - began
        self._tell(is_first=is_first)
        if self._has_come:
            self.is_over = True
            return
        every = self._config.follow_every
        if self._is_eager and self._rest > self._config.target_downtime:
            soon = max(took, self._soon)
            self._soon *= 2
            if soon < every:
                await self.pause(soon)
                return
        if is_first:
            await self.pause(every)
            return
        # At the same moments as those of all other seeds, which share a flush of the file system.
        now = self._steps.seconds()
        due = max(self._came + every, now + min(took, LONGEST_REST))
        await self.pause(max(math.ceil(due / every - _EARLIER) * every - now, 0.0))

    async def _ended(self) -> DestinationError | None:
        """Return why the destination has ended the move; None where that is not known."""
        try:
            return await self._move.ended()
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{server}: asking its destination failed", server=self._server.uuid)
            return None

    def _tell(self, *, is_first: bool) -> None:
        """Tell that a round is whole, if people are to hear of that."""
        now, was_in_trouble = self._steps.seconds(), self._trouble != ""
        self._trouble, self._retries = "", iter(ROUND_PAUSES)
        if not (is_first or was_in_trouble or now >= self._told + TOLD_EVERY):
            return
        self._told = now
        text = "the destination has a whole copy, which follows the server"
        figures = self.figures
        if figures.downtime is not None:
            text += (
                f": round {figures.rounds} had {readable_size(figures.changed)} to read, and a "
                f"move would take about {figures.downtime:.1f} s of downtime"
            )
        self._steps.say(text)
