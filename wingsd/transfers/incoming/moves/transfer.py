"""A move to this node as an incoming transfer: admitted at once, and received by many requests.

From the commit on it is put into place as any transfer. Before that an end of the daemon leaves it
to the next one, and a failure keeps what has arrived for the next transfer of the server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger

from wingsd.archive.extract import NOT_KEPT
from wingsd.archive.policy import attributes_line
from wingsd.auth.tokens import token_was_used
from wingsd.docker.container import check_variables
from wingsd.errors import (
    ContainerNameTaken,
    DaemonStopping,
    MoveAbandoned,
    MoveBusy,
    MoveCommitted,
    MoveGivenUp,
    MoveOver,
    MoveResumeNeeded,
    MoveSuperseded,
    PairEnded,
    PairPlacesNothing,
    RootMismatch,
    SeedAdopted,
    SeedForgotten,
    ServerAlreadyExists,
    ServerNotAssigned,
    ServerNotFound,
    StorageError,
    TransferCancelled,
    WingsdError,
    error_code,
)
from wingsd.moves.tree import Resumption
from wingsd.panel.schemas import Configuration
from wingsd.statedb import MoveRecord, TransferRecord
from wingsd.transfers.incoming.moves.inbox import (
    Commit,
    Inbox,
    MoveBeginning,
    Phase,
    arriving_backups,
    arriving_points,
)
from wingsd.transfers.incoming.moves.partial_copy import room_errors
from wingsd.transfers.incoming.transfer import IncomingTransfer, Remainder
from wingsd.transfers.steps import ProgressMeter, ReceiveStep, RollbackList, progress_bar
from wingsd.util.deferreds import Changes, when_fired
from wingsd.util.reactor import Timer
from wingsd.util.retry import Budget
from wingsd.util.text import readable_size

#: The name that metrics have for a seed while its copy follows the server.
SEED = "seed"
#: Where the state of a seed has that its source has begun a session.
FOLLOWS = "follows"
_DAY = 24 * 3600.0
#: Seconds that this node waits longer than its source for a sign of the other.
LONGER = 300.0
#: Seconds since the last question to the Panel after which it is asked again before the end.
ASKED_ENOUGH = 600.0
#: Seconds until a move that is being committed is checked again for a silent source.
AGAIN = 60.0


@attrs.define(eq=False, repr=False, slots=False)
class Preparation:
    """The preparation of one server: each of `trials` in turn, as often as the source asks."""

    _log = Logger()

    _server: str
    _trials: Sequence[Callable[[], Awaitable[None]]]
    _changes: Changes

    def __attrs_post_init__(self) -> None:
        self._running: Deferred[None] = succeed(None)
        #: Whether all has succeeded when it was tried last, and why it has not.
        self.is_ready = False
        self.error: WingsdError | None = None
        #: How often it was begun.
        self.count = 0
        #: Seconds for which the last rehearsal made its container; 0 before.
        self.container_seconds = 0.0

    @property
    def state(self) -> str:
        """Its state, as the source reads it."""
        if self.error is not None:
            return "failed"
        return "ready" if self.is_ready else "under way"

    def begin(self) -> None:
        """Begin to try all of it, unless that is under way."""
        if not self._running.called:
            return
        self.is_ready, self.error = False, None
        self.count += 1
        self._changes.changed()
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))
        self._running.addCallback(lambda _: self._changes.changed())

    def stop(self) -> None:
        """End what is under way."""
        self._running.cancel()

    async def _run(self) -> None:
        try:
            for trial in self._trials:
                await trial()
        except CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, WingsdError):
                self._log.failure("{server}: preparing for it failed", server=self._server)
                error = WingsdError("internal error", "see the log of the destination node")
            self.error = error
            self._log.warn(
                "{server}: it cannot run here now, so it runs on at its source: {error}",
                server=self._server,
                error=error,
            )
        else:
            self.is_ready = True


#: By whose kind it is decided what a failure leaves, and who hears of it.
_DECISIVE = (
    MoveGivenUp,
    MoveSuperseded,
    PairEnded,
    SeedForgotten,
    ServerNotFound,
    TransferCancelled,
)


def keeps_copy(reason: Exception | None) -> bool:
    """Return whether what has arrived stays after a failure: not after a person's cancel.

    Nor where the Panel does not know the server any more; but it does where the Panel only knows
    of no transfer to this node: that has failed while this node was away.
    """
    if isinstance(reason, MoveGivenUp):
        return reason.keeps
    is_gone = isinstance(reason, ServerNotFound) and not isinstance(reason, ServerNotAssigned)
    return not is_gone and not isinstance(reason, TransferCancelled)


def failure_state(error: Exception) -> str:
    """Return what is recorded of a move that has failed, for its source: a JSON object."""
    message, detail = "internal error", "see the log of this node"
    if isinstance(error, WingsdError):
        message, detail = error.message, error.detail
    found = {"error": message, "detail": detail, "code": error_code(error)}
    return json.dumps(found | {"keeps": keeps_copy(error)})


def recorded_failure(state: str) -> WingsdError | None:
    """Return the error that an earlier daemon has recorded as `failure_state`, None without."""
    found = json.loads(state)
    if "error" not in found:
        return None
    kind = next((each for each in _DECISIVE if each.code == found["code"]), WingsdError)
    error = kind.__new__(kind)
    WingsdError.__init__(error, found["error"], found["detail"])
    error.code = found["code"]
    if isinstance(error, MoveGivenUp):
        error.keeps = found.get("keeps", True)
    return error


@attrs.define(eq=False, repr=False, slots=False)
class MoveTransfer(IncomingTransfer):
    """The move of one server to this node.

    Before it is recorded, `record` has no transfer, and the token `expires`, in seconds since the
    epoch. `is_following` is whether it is a seed whose source has begun a session: before that the
    source may have had no answer to its first request, and have given up. `failure` is why it has
    failed, where an earlier daemon ended before all was rolled back.
    """

    record: MoveRecord
    beginning: MoveBeginning
    _expires: float = 0.0
    is_following: bool = False
    failure: WingsdError | None = None
    #: The Panel's last description of the server.
    _configuration: Configuration = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        reactor = self._parts.reactor
        self._inbox: Inbox | None = None
        self._settings, self._database = self._parts.config.moves, self._parts.step_logs.database
        self._steps.count = self._arrived
        #: Counts what has arrived, of this move or before.
        self.meter = ProgressMeter(reactor.seconds, self._count)
        #: For how long its source may be silent, and the timer for that.
        self.silence: Budget[Any] = Budget(reactor)
        self._silence_timer = Timer(reactor)
        self._asked = reactor.seconds()
        #: Requests that wait for a change, and the changes of its `status` and `preparation`.
        self.waiting = 0
        self.changes = self._steps.changes
        when_fired(self.over).addCallback(lambda _: self.changes.changed())
        #: What is tried before the server is stopped at its source.
        trials = (self._ask_panel, self.require_room, self._rehearse)
        self.preparation = Preparation(self.server, trials, self.changes)
        self._reason: Exception | None = None
        #: Whether it could go on after a restart of the daemon.
        self._is_recorded = False
        #: Bytes at the last line about the progress.
        self._shown = -1

    def _arrived(self) -> int:
        return self._inbox.arrived if self._inbox is not None else 0

    def _count(self) -> int:
        return self._inbox.held if self._inbox is not None else 0

    @property
    def size(self) -> int:
        """The number of bytes that are expected, 0 where that is not known."""
        if self._inbox is None or not self.beginning.bytes:
            return 0
        return self.beginning.bytes + self._inbox.attachments.size

    # Beginning

    async def begin(self) -> None:
        """Admit the server, and use up the token; return when it may come.

        The rest goes on by itself. Raises the `WingsdError` that the source is to read.
        """
        await self._carry_out(self._begin_receiving)

    async def _begin_receiving(self, configuration: Configuration) -> Remainder:
        await self._begin(self._record)
        self._is_recorded = True
        held = await self._open(configuration)
        await self._steps.enter(ReceiveStep.RECEIVE)
        if held:
            self._steps.say(f"{readable_size(held)} of it are here, from an earlier transfer")
        return Deferred.fromCoroutine(self._receive_move())

    async def _record(self, step: str) -> int:
        """Record the transfer and its move at once: after a crash there are both or neither."""
        direct = self.coordinator.is_direct
        entry = await self._database.admit_move(self.record, step, self._expires, direct=direct)
        if entry is None:
            raise token_was_used()
        return entry

    async def _open(self, configuration: Configuration, *, is_new: bool = True) -> int:
        """Open the copy; return how many bytes of an earlier move it has."""
        self._configuration = configuration
        inbox = Inbox(
            self.server,
            self.record.move,
            self.beginning,
            configuration.settings.build.disk_space,
            self._parts,
            self.changes,
            self._on_session,
            self.coordinator,
        )
        if is_new:
            self._rollback.add(self._put_away)
        self._rollback.add(partial(inbox.close, MoveOver()))
        held = await self._parts.workers.run(partial(inbox.open, is_new=is_new))
        self._inbox = inbox
        if is_new:
            await self.require_room()
        else:
            self._parts.copies.arrives(self.server, inbox.to_come)
        self._steps.cancel_scope.check()
        return held

    async def _resume(self, entry: TransferRecord) -> None:
        """Go on with the move that an earlier daemon has left: wait for its source.

        One that had failed ends, and the Panel hears of that once.
        """
        self._steps.resume(entry, ReceiveStep.RECEIVE)
        self._rollback.add(self._put_away)
        self._is_recorded = True
        Deferred.fromCoroutine(self._end_rehearsal())
        await self._open(await self._readmit(entry), is_new=False)
        await self._receive_move()

    async def _readmit(self, entry: TransferRecord) -> Configuration:
        if self.failure is not None:
            reported = self._database.is_failure_reported(self.server, entry.begun)
            self._is_unwanted = await reported
            raise self.failure
        self._note(*await self._ask_until_answered())
        self._claim(self._configuration)
        return self._configuration

    # Receiving

    def _await_source(self) -> None:
        """Watch for the source's silence: of a seed for as long as a copy is kept."""
        limit = float(self._settings.patience)
        if self.is_following and self._settings.keep_days:
            limit = max(self._settings.keep_days * _DAY, limit)
        self.silence = Budget(self._reactor, limit + LONGER)
        self._silence_timer.start(self.silence.left, self._look_for_source)

    def _look_for_source(self) -> None:
        if not self._steps.before(ReceiveStep.VERIFY):
            # The source has asked for the commit, and waits for this node.
            self._silence_timer.start(AGAIN, self._look_for_source)
        elif not self.silence.is_over:
            self._silence_timer.start(self.silence.left, self._look_for_source)
        else:
            self.abort(MoveAbandoned(self.silence.seconds))

    async def _receive_move(self) -> None:
        inbox = self.inbox
        self.meter.start()
        self._await_source()
        try:
            commit, size = await self._proven(inbox)
        finally:
            self._silence_timer.cancel()
            self.preparation.stop()
            self.meter.stop()
            self._steps.hide_progress()
        files = inbox.copy.progress.files
        await inbox.close(MoveCommitted())
        self._parts.copies.left(self.server)
        self._steps.set_figures(size, files)
        self._log_received(self._arrived(), files, len(inbox.attachments.backups))
        self._is_to_start = await self._record_start(commit)
        await self._record_following(commit)
        server = self._servers.get(self.server)
        await (await self._commit(server, self._configuration, size))

    async def _proven(self, inbox: Inbox) -> tuple[Commit, int]:
        """Return the commit, and the bytes of all files, when they are proven and durable."""
        steps, scope = self._steps, self._steps.cancel_scope
        while True:
            commit = await scope.wait(inbox.committed())
            await steps.enter(ReceiveStep.VERIFY)
            try:
                # The last answer may be old.
                if self._reactor.seconds() - self._asked >= ASKED_ENOUGH:
                    self._note(*await self._ask_until_answered())
                await scope.wait(Deferred.fromCoroutine(inbox.verify(commit)))
                await steps.enter(ReceiveStep.DURABLE)
                size = await scope.wait(Deferred.fromCoroutine(inbox.finish()))
                if count := inbox.copy.without_attributes:
                    steps.warn(attributes_line(count, NOT_KEPT))
                await scope.wait(Deferred.fromCoroutine(self._flush()))
                inbox.seal(commit)
            except (RootMismatch, MoveResumeNeeded) as error:
                scope.check()
                if isinstance(error, RootMismatch):
                    steps.warn(str(error), error.code)
                inbox.reject(commit, error)
                await steps.go_back(ReceiveStep.RECEIVE)
            else:
                return commit, size

    async def _record_start(self, commit: Commit) -> bool:
        """Record whether it is started at its end; return whether it is, and was prepared."""
        # A server that a direct transfer brings is not started, unless a seed had followed it.
        follows, is_direct = self.beginning.follow, self.coordinator.is_direct
        starts = commit.running and self._parts.config.live.start and (follows or not is_direct)
        if (entry := self._steps.entry) is not None:
            await self._database.set_start(entry, starts=starts)
        return starts and self.preparation.is_ready

    async def _record_following(self, commit: Commit) -> None:
        """Record what follows the server, before anybody hears that it is here."""
        if (entry := self._steps.entry) is None:
            return
        if commit.backups:
            following = arriving_backups(entry, self.server, commit.backups)
            await self._database.add_arriving(following)
        if (history := commit.history) is not None:
            points = arriving_points(entry, self.server, history.backups)
            await self._database.add_arriving(points)
            histories = self._parts.histories
            await histories.expect(entry, self.server, history.newest, history.bytes)

    def _note(self, is_here: bool, configuration: Configuration) -> None:
        if is_here:
            raise ServerAlreadyExists("this server is already on this node")
        check_variables(configuration.settings)
        self._configuration, self._asked = configuration, self._reactor.seconds()

    # What is tried before the server is stopped at its source

    def note_size(self, disk_bytes: int, files: int) -> None:
        """Note what the server's files take by now, 0 if not known.

        Raises as `inbox`, and `MoveCommitted`.
        """
        inbox = self.inbox
        if inbox.phase != Phase.OPEN:
            raise MoveCommitted
        if disk_bytes > 0:
            inbox.disk_bytes, inbox.disk_files = disk_bytes, max(files, 0)

    def prepare(self) -> None:
        """Begin to try what is needed. Raises as `inbox`, `MoveCommitted`, `PairPlacesNothing`."""
        self.require_placing()
        if self.inbox.phase != Phase.OPEN:
            raise MoveCommitted
        self.preparation.begin()

    def require_placing(self) -> None:
        """Raise `PairPlacesNothing` where it is the seed of a pair."""
        if self.record.pair:
            raise PairPlacesNothing

    async def _ask_panel(self) -> None:
        self._note(*await self.coordinator.recheck())

    async def require_room(self) -> None:
        """Raise `MoveNoSpace` where what is still to come does not fit on the disk."""
        await self._parts.long.run(self._check_room)

    def _check_room(self) -> None:
        """Raise `MoveNoSpace` where what is still to come does not fit on the disk. Blocking."""
        inbox = self.inbox
        inbox.attachments.require_room()
        with room_errors():
            self._parts.copies.admit(self.server, inbox.to_come)

    async def _end_rehearsal(self) -> None:
        """Remove what an earlier daemon may have left that died meanwhile; log why not."""
        try:
            await self._environment.end_rehearsal(self.server)
        except WingsdError as error:
            self._log.warn("{server}: {error}", server=self.server, error=error)

    async def _rehearse(self) -> None:
        seconds = await self._environment.rehearse(self._configuration.settings)
        self.preparation.container_seconds = seconds
        await self.inbox.upkeep.catch_up()  # else the server would be down for that

    # What the requests of the source ask

    @property
    def inbox(self) -> Inbox:
        """The inbox of its requests. Raises `MoveBusy` before and after, `MoveOver` at the end."""
        if self._reason is not None:
            raise MoveOver
        if self._inbox is None:
            raise MoveBusy("this node asks its Panel about the server; send it again")
        return self._inbox

    @property
    def status(self) -> tuple[str, str, str, Inbox | None]:
        """Its phase, the name of its step and its text, and what takes its requests."""
        phase = self._inbox.phase if self._inbox is not None else Phase.OPEN
        if self._reason is not None:
            phase = Phase.COMMIT  # it fails
        return phase, self._steps.step, self._steps.step_text, self._inbox

    async def _check_engine(self) -> None:
        try:
            await self._require_name()
        except ContainerNameTaken as error:
            self.abort(error)
        except WingsdError:
            pass  # an engine that is silent now is asked again at the end

    def _on_session(self, held: Resumption) -> None:
        inbox, steps = self.inbox, self._steps
        if inbox.sessions == 1 and not self.beginning.running:
            Deferred.fromCoroutine(self._check_engine())
        if held.bytes:
            total = f" of {readable_size(self.size)}" if self.size else ""
            steps.say(
                f"the move goes on where it was: {readable_size(inbox.held)}{total} are here"
            )
        self.meter.skip()
        self.meter.resumed = held.bytes
        self._shown = -1
        steps.show_progress(self._progress_line)

    def _progress_line(self) -> str:
        done = self.meter.done
        if done == self._shown:
            # Until the source is heard again there is nothing new.
            self._steps.hide_progress()
        self._shown = done
        return f"Receiving {progress_bar(done, self.size)}{self.meter.pace(self.size)}"

    # The end

    def abort(self, reason: WingsdError, *, verified: bool = False) -> bool:
        """End the move if it is not put into place yet; with `verified`, also later.

        `DaemonStopping` leaves it to the recovery. Of several reasons the first one counts.
        """
        limit = ReceiveStep.REPORT if verified else ReceiveStep.SWAP
        if not self._steps.before(limit):
            return False
        self._steps.cancel_scope.cancel(self._steps.cancel_scope.reason or reason)
        return True

    def release(self, *, keeps: bool) -> bool:
        """End it, since the server is to be deleted here; return whether it ends."""
        return self.abort(MoveGivenUp(keeps=True) if keeps else TransferCancelled(), verified=True)

    @property
    def gives_way(self) -> bool:
        """True before it is put into place: the Panel has ended it, and begun another."""
        return self._steps.before(ReceiveStep.SWAP)

    def give_way(self) -> None:
        """End it, and keep what is here. The Panel gets no report, which would end the other."""
        self.abort(MoveSuperseded())

    async def _fail(self, error: Exception) -> Remainder:
        self._silence_timer.cancel()
        self._parts.copies.left(self.server)
        goes_on = self._is_recorded and self._steps.before(ReceiveStep.SWAP)
        if isinstance(error, DaemonStopping) and goes_on:
            if self._inbox is not None:
                await self._inbox.close(DaemonStopping())
            self._parts.staging.finish(self.server)
            return succeed(None)
        self._reason = error
        self.changes.changed()
        recorded = self._steps.entry
        if recorded is not None and not self.has_arrived:
            try:  # for its source, which asks for the outcome
                await self._database.set_move_state(recorded, failure_state(error))
            except StorageError as failure:
                self._log.error("{server}: {error}", server=self.server, error=failure)
            except Exception:
                self._log.failure("{server}: rollback failed", server=self.server)
        if isinstance(error, MoveSuperseded | MoveGivenUp) and not self.coordinator.is_direct:
            # The source tells the Panel. This node's word could come when the next transfer has
            # begun, and would end that.
            self._is_unwanted = True
        return await super()._fail(error)

    def _keeps_copy(self) -> bool:
        return keeps_copy(self._reason)

    async def _put_away(self) -> None:
        """Keep what has arrived, unless a person has ended the move."""
        long, copies, inbox = self._parts.long, self._parts.copies, self._inbox
        # without an inbox what an earlier move or daemon has left was not opened
        pair = self.record.pair if inbox is None else inbox.copy.pair
        size = None if inbox is None else inbox.copy.charge if pair else inbox.held
        if self._settings.keep_days and self._keeps_copy() and size != 0:
            is_read = inbox is not None and inbox.copy.is_read
            keep = partial(copies.keep, self.server, size, time.time(), is_read=is_read, pair=pair)
            kept = await long.run(keep)
            self._keeps_backups = kept
            if kept:
                self._steps.say(
                    f"what has arrived is kept for {self._settings.keep_days} days: the next "
                    "transfer of the server goes on with it"
                )
        else:
            await long.run(copies.discard, self.server)

    def _leftovers(self) -> RollbackList:
        leftovers = super()._leftovers()
        if not self._keeps_backups:  # what is beside the server's files
            leftovers.add(partial(self._run_long, self._parts.copies.finish))
        return leftovers


class IncomingSeed(MoveTransfer):
    """The copy of one server that follows it.

    By a pair nothing else is known of the server than its UUID, and it is none of this node's.
    """

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.coordinator.brings(self._charge, self.over)

    def _charge(self) -> int:
        return self._inbox.copy.charge if self._inbox is not None else 0

    def _claim(self, configuration: Configuration) -> None:
        if not self.record.pair:
            super()._claim(configuration)

    async def _readmit(self, entry: TransferRecord) -> Configuration:
        if self.failure is None and self.record.pair and not self.coordinator.pair_identity:
            raise PairEnded  # the pair was removed while this was still recorded
        return await super()._readmit(entry)

    def _on_session(self, held: Resumption) -> None:
        super()._on_session(held)
        entry = self._steps.entry
        if self.is_following or entry is None:
            return
        self.is_following = True
        self._await_source()
        noting = self._database.set_move_state(entry, json.dumps({FOLLOWS: True}))
        noting.addErrback(
            lambda failure: self._log.error(
                "{server}: {error}", server=self.server, error=failure.value
            )
        )

    async def _receive_move(self) -> None:
        # Days in it are no reason for an alert, nor are hours without a byte.
        self._steps.names = {ReceiveStep.RECEIVE: SEED}
        self.changes.changed()
        await super()._receive_move()

    @property
    def takes_a_place(self) -> bool:
        """Return False: it receives little, for days."""
        return False

    def give_way(self) -> None:
        """End it for a transfer of the server, which gets what is here."""
        self.abort(SeedAdopted())

    def forget(self) -> bool:
        """End it, and remove what is here."""
        return self.abort(SeedForgotten())

    def _keeps_copy(self) -> bool:
        return isinstance(self._reason, TransferCancelled) or super()._keeps_copy()
