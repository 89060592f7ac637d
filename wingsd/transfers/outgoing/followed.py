"""A server that is sent while it runs: from its claim to its end, or to its start here again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.errors import Conflict, EnvironmentFailed, StorageError, WingsdError
from wingsd.servers import Server
from wingsd.servers.operations import Hold, Operation
from wingsd.servers.power_states import PowerState
from wingsd.servers.running import adopt_when_there, finish_stop, start_when_possible
from wingsd.statedb import MoveRecord
from wingsd.transfers.outgoing.source import FOLLOWED, HOLD
from wingsd.transfers.step_log import StepLog
from wingsd.transfers.steps import SendStep, State

__all__ = ["SeededServer", "SentServer"]


class SentServer:
    """A server that is sent, while it runs if `follows`.

    It may be used until it is stopped for that, within `grace` seconds, and is started again if it
    stays. `note_started` records that it was, or that somebody has used it since its stop.
    """

    _log = Logger()

    def __init__(
        self,
        server: Server,
        steps: StepLog[SendStep],
        grace: float,
        note_started: Callable[[], Awaitable[None]],
    ) -> None:
        #: Whether it is, or was, sent while it runs.
        self.follows = False
        #: Whether it ran when it was to be stopped.
        self.ran = False
        #: Whether it was stopped for this, and runs again if it stays: until it was started, or
        #: somebody has used it since.
        self.starts_again = False
        #: Whether it is to be deleted when this has ended.
        self.is_deleted = False
        self._server = server
        self._steps = steps
        self._note_started = note_started
        #: When it was asked to end.
        self._stop_began: float | None = None
        self._grace = grace
        #: Whether an earlier daemon may have asked it to end, and that is not finished.
        self._is_stopping = False
        #: Whether `ran` was noted for the stop that comes next.
        self._is_noted = False
        #: How many power actions it had when it was last seen as this had it.
        self._actions = 0

    def take(self, *, may_follow: bool) -> None:
        """Take it for the transfer; one that runs may be used. Raises `ServerBusy`."""
        if may_follow and self._server.state is not PowerState.OFFLINE:
            self._server.place_hold(Operation.FOLLOW, FOLLOWED)
            self._follow()
        else:
            self._server.place_hold(Operation.TRANSFER_OUT, HOLD)

    def recall(self, record: MoveRecord) -> None:
        """Know what an earlier daemon has recorded."""
        state = json.loads(record.state)
        self.ran = state.get("running") is True
        if state.get("live") is True:
            self._follow()
            self.starts_again = state.get("stopped") is True
            at_stop = self._steps.lifecycle.step is SendStep.STOP
            self._is_stopping = self.starts_again and at_stop

    async def take_over(self) -> None:
        """Go on where the earlier daemon was, which has held it. Raises `EnvironmentFailed`.

        It is started where that daemon was about to. Raises `Conflict` where it runs although it
        was stopped.
        """
        if not self._steps.lifecycle.before(SendStep.STOP):
            await self._check_ended()
            return
        await adopt_when_there(self._server, self._steps.clock)
        if self._server.state is PowerState.OFFLINE and self.starts_again:
            await self.run_again()
            return
        if self.follows:
            self._claim()
        if self.starts_again:
            await self._was_started()

    async def _check_ended(self) -> None:
        """Raise `Conflict` where it runs after its stop: what is sent would not be its end."""
        lifecycle = self._steps.lifecycle
        if lifecycle.before(SendStep.SEND):
            return  # it is stopped next
        if lifecycle.before(SendStep.AWAIT):
            await adopt_when_there(self._server, self._steps.clock)
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
        """Have the Panels' pages stay usable until it is stopped."""
        self.follows = True
        announcer = self._steps.announcer
        announcer.words = {State.PENDING: ("starting",)}
        announcer.states = dict.fromkeys((SendStep.STOP, SendStep.RETIRE), State.PROCESSING)

    def _claim(self) -> None:
        self._server.operations.hold = Hold(Operation.FOLLOW, FOLLOWED)

    def note_deletion(self) -> None:
        """Note that it is to be deleted: it is not started again."""
        self.is_deleted = True
        self.follows = self.starts_again = self._server.starts_if_it_stays = False

    async def leave_off(self) -> None:
        """Have only a person start it: its destination may run it."""
        self._steps.announcer.say(
            "not known whether it has moved: the server stays on this node and is not started; "
            "before you start it, see whether the destination has it"
        )
        self.follows = False
        if self.starts_again:
            try:
                await self._was_started()
            except StorageError as error:
                self._log.error(
                    "{server}: a later daemon would start it again: {error}",
                    server=self._server.uuid,
                    error=error,
                )

    def release(self) -> None:
        """Let it be started and used again."""
        self._server.release()

    # Its stop

    @property
    def is_down(self) -> bool:
        """Whether it was stopped for this, and runs again where the rest takes too long."""
        steps = self._steps.lifecycle
        is_stopped = not steps.before(SendStep.STOP) and steps.before(SendStep.AWAIT)
        return self.starts_again and is_stopped

    @property
    def needs_rehearsal(self) -> bool:
        """Whether it runs, and it was not asked yet whether it could at its destination."""
        return not self.follows and self._server.state is not PowerState.OFFLINE

    def note_state(self) -> bool:
        """Note whether it runs, before it is stopped; return whether that is to be recorded.

        So does one that could not be started again, or ended with its machine. To be called again
        when it is recorded, until that has not changed, and `hold` at once then.
        """
        server = self._server
        ran = (self._is_to_run or self._runs) and not server.suspended
        is_known = self._is_noted and ran == self.ran
        self.ran, self._is_noted = ran, True
        return not is_known

    @property
    def _runs(self) -> bool:
        """Whether it runs or is being started, and nobody is stopping it."""
        server = self._server
        runs = server.state in (PowerState.STARTING, PowerState.RUNNING)
        stops = server.operations.runs(Operation.STOP, Operation.KILL)
        return server.operations.starts or (runs and not stops)

    def hold(self) -> Deferred[None]:
        """Have nobody start, stop or change it any more: it is stopped next.

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
            await self._server.stop_within(self._grace)
        finally:
            self._actions = self._server.power_actions
        self._is_stopping = False
        self._stop_began = began

    @property
    def _is_to_run(self) -> bool:
        """Whether it was stopped for this, or ended with its machine, and nobody used it since."""
        server = self._server
        if server.state is not PowerState.OFFLINE:
            return False
        was_stopped = self.starts_again and server.power_actions == self._actions
        return was_stopped or server.starts_if_it_stays

    async def run_again(self) -> None:
        """Have it run here again, and be used, after it was stopped."""
        self._stop_began = None
        await self._server.restore_environment()
        self._claim()
        await self._start()

    async def start_again(self) -> None:
        """Start it if it stays, and was stopped for this or ended with the machine."""
        server = self._server
        # its stop was cancelled after it had been requested, and goes on
        is_stopping = self._is_stopping or server.state is PowerState.STOPPING
        if self.starts_again and is_stopping:
            stop = partial(server.stop_within, self._grace)
            await finish_stop(server, stop, self._steps.clock, self._actions)
        # where its stop was cancelled before it was requested
        runs = server.state in (PowerState.STARTING, PowerState.RUNNING)
        if self._is_to_run:
            self._steps.announcer.say("the server is started again, as it ran before")
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
        self.starts_again = False
        await self._note_started()

    def tell_downtime(self) -> None:
        """Say how long after the stop the destination has it."""
        if self.follows and self.ran and self._stop_began is not None:
            seconds = self._steps.seconds() - self._stop_began
            self._steps.announcer.say(
                f"the destination has the server, {seconds:.1f} s after it was stopped here"
            )
            self._steps.observer.downtime_measured(seconds)


class SeededServer(SentServer):
    """A server that is used as ever until `take_now`."""

    #: Whether it was taken: else another transfer may have taken it, in the place of this.
    _is_taken = False

    def take(self, *, may_follow: bool) -> None:
        """Do not take it yet."""
        self.follows = True

    def take_now(self) -> None:
        """Take it for its transfer, while it runs if it does. Raises `ServerBusy`."""
        self.follows = False
        super().take(may_follow=True)
        self._is_taken = True

    def recall(self, record: MoveRecord) -> None:
        """Know that an earlier daemon has begun it."""
        self.follows = True

    async def take_over(self) -> None:
        """Do not take it yet."""

    def release(self) -> None:
        """Release it, if it was taken."""
        if self._is_taken:
            super().release()

    async def start_again(self) -> None:
        """Start it if it was stopped for this."""
        if self._is_taken:
            await super().start_again()
