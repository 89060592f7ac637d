"""An outgoing transfer: its steps, from the order to the Panel's decision.

Read `_ask` and `_deliver` from top to bottom: ask, stop, remove the container, send, await. A
server that runs is followed before it is stopped, where the destination takes moves. The server's
files are only read. They are deleted when the Panel orders it, and never before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any, TypeAlias

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.errors import ServerBusy, TransferCancelled, WingsdError
from wingsd.moves.source import MoveSource
from wingsd.servers import Server
from wingsd.statedb import MoveRecord
from wingsd.transfers.coordinator import SendingCoordinator
from wingsd.transfers.errors import (
    DestinationError,
    DestinationRefused,
    FinalPassStalled,
    SeedAdopted,
    is_refusal,
)
from wingsd.transfers.outgoing.followed import SentServer
from wingsd.transfers.outgoing.mover import Mover, ResumedMove
from wingsd.transfers.outgoing.rounds import SeedPolicy
from wingsd.transfers.outgoing.source import MOVED, SeedOrder, SourceServers
from wingsd.transfers.outgoing.upload import OutgoingUpload
from wingsd.transfers.step_log import ProgressReport, StepLog
from wingsd.transfers.steps import RollbackList, SendStep
from wingsd.util.deferreds import beside, when_fired

__all__ = ["OutgoingTransfer", "SeedRead", "SeedTransfer", "SeededServer"]

#: Ends a seed, and returns what it has read of its server's files.
SeedRead: TypeAlias = "Callable[[], Coroutine[Deferred[Any], Any, MoveSource | None]]"
#: How often the last round of a server that ran may come to a halt.
HALTS = 3
#: Seconds after which it is tried again to take a server that is busy.
TAKEN_EVERY = 10.0


class OutgoingTransfer:
    """The transfer of one server from this node."""

    _log = Logger()

    def __init__(
        self,
        server: Server,
        coordinator: SendingCoordinator,
        steps: StepLog[SendStep],
        upload: OutgoingUpload,
        servers: SourceServers,
        stop_grace: float,
    ) -> None:
        """Let the server have `stop_grace` seconds to stop."""
        self.server = server
        self.coordinator = coordinator
        #: Fires when the transfer is over, whatever its outcome. The Panel is then sure to get
        #: the report of a failure.
        self.over: Deferred[None] = Deferred()
        #: Whether the server has moved, and the Panel has not had it deleted here yet.
        self.is_left_behind = False
        self._steps = steps
        self._upload = upload
        self._pool = upload.pool
        self._servers = servers
        self._removals: tuple[str, ...] = ()
        self._retired = False
        self._is_left = False
        self._sent = SentServer(server, steps, stop_grace, upload.note_started)
        self._settling: Deferred[bool | None] | None = None

    async def run(self, resumed: ResumedMove | None = None, seed: SeedRead | None = None) -> None:
        """Send the server. Its outcome is logged and reported, and nothing is raised.

        Go on with a move of an earlier daemon that is `resumed`; with what a `seed` has read.
        """
        try:
            await self._run(resumed, seed)
        except Exception:
            self._log.failure(
                "{server}: the transfer has no outcome; the next start of the daemon finds it out",
                server=self.server.uuid,
            )
        finally:
            try:
                self._steps.announcer.hide_progress()
                self._steps.leave_open()  # unless it has an outcome
                leftovers = RollbackList(self.server.uuid)
                leftovers.add(self._pool.remove_marks)
                leftovers.add(self._upload.close)
                await leftovers.run()
            finally:
                self.over.callback(None)

    async def _run(self, resumed: ResumedMove | None, seed: SeedRead | None) -> None:
        try:
            if resumed is None:
                self.coordinator.begin()
                await self.coordinator.save(await self._steps.begin())
                await self._ask(seed)
            else:
                self._steps.resume(resumed.entry, SendStep[resumed.entry.step])
                self._sent.recall(resumed.record)
                self._removals = resumed.entry.removals
                self._retired = not self._steps.lifecycle.before(SendStep.RETIRE)
                was_asked = not self._steps.lifecycle.before(SendStep.AWAIT)
                self._upload.recall(resumed.record, was_asked=was_asked)
                await self._wait(self._sent.take_over())
                await self._go_on(resumed.record)
            await self._send()
            self._complete()
        except Exception as error:
            self._steps.announcer.hide_progress()
            await self._fail(error)

    def take(self) -> None:
        """Take the server: one that runs may be used until it is stopped. Raises `ServerBusy`."""
        self._sent.take(may_follow=self._upload.may_follow)

    def cancel(self, *, is_deleted: bool = False) -> None:
        """Cancel the transfer in any step; `is_deleted` when the server is to be deleted next."""
        if is_deleted:
            self._sent.note_deletion()
        self._cancel(TransferCancelled())

    def abort(self, reason: WingsdError) -> None:
        """End it unless the destination has everything: it may then be moving already.

        For a server that is still being sent within a pool, the Panel is asked. If the Panel is
        being asked already, the next daemon continues with that. It also goes on with a move, but
        for one that is being committed there: its end is waited for.
        """
        if self._upload.may_go_on:
            self._is_left = True
            self._cancel(reason)
        elif not self._upload.body_sent and self._settling is None:
            self._cancel(reason)
        elif self._settling is not None and not self.coordinator.is_direct:
            self._settling.cancel()

    def confirm(self) -> None:
        """Note that the Panel deletes a server here that `is_sent`: it has moved."""
        self._complete()
        self.is_left_behind = False
        if self._settling is not None:
            self._settling.cancel()
        if self._upload.is_move or not self._upload.body_sent:
            self._upload.abort()  # of what it has already

    def finish(self) -> None:
        """Clean up: the server's files are out of place, so a later daemon has nothing to do."""
        self._in_background(self._finish())

    @property
    def progress(self) -> ProgressReport:
        """How far it is."""
        found = self._steps.progress(self._upload.meter, self._upload.total)
        rounds = self._upload.rounds
        if rounds is None:
            return found
        return evolve(found, round=rounds.round, downtime=rounds.downtime)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a slot."""
        return self._steps.cancel_scope.is_waiting

    @property
    def is_sent(self) -> bool:
        """Whether the destination may have everything; of a pooled server, from the start."""
        return self._upload.is_sent

    @property
    def keeps_files(self) -> bool:
        """Whether its files are kept here for a while when it has moved."""
        return self._upload.is_live and self._servers.quarantine.keeps_moved

    async def put_away(self) -> None:
        """Keep its files out of the server's place."""
        await self._servers.quarantine.keep_moved(self.server.uuid, self._steps.inode)

    @property
    def is_over(self) -> bool:
        """Whether the server has moved, or stays."""
        return self._steps.lifecycle.over

    def _cancel(self, reason: WingsdError) -> None:
        self._steps.cancel_scope.cancel(reason)
        self.coordinator.stop_waiting(reason)
        self._upload.abort()

    # The steps

    async def _ask(self, seed: SeedRead | None = None) -> None:
        # First: no server is stopped for a destination that is away, or would refuse it.
        await self._wait(self.coordinator.announce())
        await self._wait(self._upload.query_destination())
        if seed is not None:  # which goes on where the destination is away
            reading = Deferred.fromCoroutine(seed())
            self._upload.kept = await self._steps.cancel_scope.wait(reading)
        await self._wait(self._upload.check())
        await self._save_terms()
        await self._wait(self._upload.begin(follows=self._sent.follows))
        self._sent.follows = self._sent.follows and self._upload.is_move

    async def _go_on(self, record: MoveRecord) -> None:
        try:
            await self._wait(self._upload.go_on(record, gives_up=self._sent.is_down))
        except FinalPassStalled as error:
            await self._run_again(error)
            await self._wait(self._upload.go_on(record))

    async def _send(self) -> None:
        """Send all, and have it committed; after a halt, once more."""
        for halts in itertools.count(1):
            try:
                await self._deliver()
                gives_up, has_moved = self._sent.starts_again, self.coordinator.seems_moved
                await self._upload.answered(has_moved, gives_up=gives_up)
                break
            except FinalPassStalled as error:
                if halts == HALTS:
                    raise
                await self._run_again(error)

    async def _deliver(self) -> None:
        if self._steps.lifecycle.before(SendStep.AWAIT):
            # First: no stopped server waits for transfers that hold the slots.
            async with self._upload.slots_held():
                if self._sent.follows:
                    await self._deliver_live()
                else:
                    await self._stop()
                    await self._enter(SendStep.SEND)
                    self._steps.restart_clock()
                    await self._upload.send()
        if self._upload.is_move:
            # Recorded before the destination is asked for the commit.
            await self._enter(SendStep.AWAIT)
        elif not self._steps.lifecycle.over:  # The Panel may have confirmed it before.
            self._steps.advance(SendStep.AWAIT)
        if not self._steps.lifecycle.over:
            what = "the destination has everything, and has not answered for"
            self._steps.announcer.show_waiting(what)

    async def _stop(self) -> None:
        """Stop the server, and remove its container."""
        if self._steps.lifecycle.before(SendStep.SEND):
            if self._sent.needs_rehearsal:
                await self._wait(self._upload.rehearse(self.coordinator.check))
            await self._enter(SendStep.STOP)
            await self._steps.cancel_scope.wait(self._sent.hold())
            await self._wait(self._sent.stop())
            await self._wait(self._save_directory())
            await self._enter(SendStep.RETIRE)
            self._retired = True
            if not self._sent.follows:
                await self._wait(self._servers.retire(self.server.uuid))

    # A server that runs

    async def _deliver_live(self) -> None:
        """Follow it, stop it, send the rest and remove its container."""
        if self._steps.lifecycle.before(SendStep.STOP):
            await self._enter(SendStep.FOLLOW)
            await self._wait(self._upload.follow(self.coordinator.check))
            while self._sent.note_state():  # it may be used while that is recorded
                await self._wait(self._upload.note_running(runs=self._sent.ran))
                await self._enter(SendStep.STOP)
        await self._stop()
        await self._enter(SendStep.SEND)
        self._steps.restart_clock()
        async with beside(self._servers.retire(self.server.uuid)) as retiring:
            await self._upload.send(gives_up=self._sent.starts_again)
        await self._steps.cancel_scope.wait(retiring)

    async def _run_again(self, error: FinalPassStalled) -> None:
        """Start the server here again: it was down for too long, and no commit can come."""
        self._steps.announcer.hide_progress()
        self._steps.announcer.warn(f"{error}; the server is started again, and the move goes on")
        await self._steps.go_back(SendStep.FOLLOW)
        self._upload.was_started()
        await self._wait(self._sent.run_again())
        self._retired = False

    async def _enter(self, step: SendStep) -> None:
        """Enter a step, unless an earlier daemon has."""
        if self._steps.lifecycle.before(step):
            await self._steps.enter(step)

    async def _save_terms(self) -> None:
        """Save what a later daemon must know of this transfer."""
        request, pool = self._upload.request, self._pool.name
        if request.delete_backups and not pool and self._pool.shares_backups:
            self._steps.announcer.warn(
                "the destination has the same system.backup_directory: no backup is removed"
            )
        elif request.delete_backups and not pool:
            self._removals = tuple(backup.place for backup in self._upload.backups)
        await self._save_directory()
        if pool:
            self._servers.share(self.server.uuid, pool)
            self._steps.announcer.say(f"it is in the storage pool {pool}: its files stay there")

    async def _save_directory(self) -> None:
        # A restore may put another one in its place until the server is held.
        inode = None if self._pool.name else await self._upload.inode()
        dropped = await self._upload.find_dropped()
        await self._steps.save_terms(self._pool.name, self._removals, inode, dropped)

    async def _wait(self, work: Coroutine[Deferred[Any], Any, Any]) -> None:
        await self._steps.cancel_scope.wait(Deferred.fromCoroutine(work))

    # The end

    async def _fail(self, error: Exception) -> None:
        """Find out whether it has failed indeed, report that, and release the server."""
        if self._steps.lifecycle.over:
            if isinstance(error, CancelledError):
                return  # The Panel has confirmed it, and the upload was ended.
            self._log.warn(
                "{server}: moved according to the Panel, although the destination reported a "
                "failure: {error}",
                server=self.server.uuid,
                error=error,
            )
            return
        error = self._steps.cancel_scope.reason or error
        if self._is_left:
            self._steps.leave_open(error)
            return
        if not isinstance(error, WingsdError):
            self._log.failure(
                "{server}: the transfer failed unexpectedly", server=self.server.uuid
            )
            error = WingsdError("internal error", "see the log of this node")
        if self.is_sent:
            await self._settle(error)
            return
        self._steps.fail(error)
        # Reported after the state: the user may use the server again at once.
        await self._stay()
        await self.coordinator.report_failure()

    async def _settle(self, error: WingsdError) -> None:
        """Have the Panel decide: the destination may have everything."""
        lost = isinstance(error, DestinationError) and error.may_complete
        is_waited_for = lost and self.coordinator.answer_grace > 0
        if is_waited_for:
            await self._begin_grace(error)
        else:
            self._steps.fail(error)
            self._steps.advance(SendStep.SETTLE)
        if self._steps.lifecycle.over:
            return  # The Panel has deleted the server here meanwhile.
        asking = self.coordinator.has_moved(lost=lost, refused=is_refusal(error))
        self._settling = Deferred.fromCoroutine(asking)
        try:
            moved = await self._settling
        except CancelledError:
            return  # The same, or this daemon stops: then the next one asks.
        finally:
            self._settling = None
        if self._steps.lifecycle.over:
            return
        if moved:
            self._steps.announcer.say("moved: only the destination's answer was lost")
            self._complete()
            return
        if is_waited_for:
            self._steps.fail(error)
        if moved is None:
            await self._sent.leave_off()
        else:
            self._steps.announcer.say("not moved: the server stays on this node")
        await self._stay()

    async def _begin_grace(self, error: WingsdError) -> None:
        """Enter the grace of a destination at work; a later daemon gives the rest of it."""
        self._steps.announcer.warn(str(error))
        await self._steps.enter_if_open(SendStep.SETTLE)
        self._steps.announcer.show_grace(self.coordinator.answer_grace)

    async def _stay(self) -> None:
        # Recorded: the server may run from now on, and no later daemon may go on with the move.
        await self._steps.enter_if_open(SendStep.FAILED)
        if self._steps.lifecycle.step is not SendStep.FAILED:
            return  # The Panel has deleted the server here meanwhile.
        self._servers.unshare(self.server.uuid)
        self._sent.release()
        self._in_background(self._restore())

    @property
    def keeps_copy(self) -> bool:
        """Whether what has arrived stays at the destination; not if cancelled, but of a seed."""
        if isinstance(self._steps.cancel_scope.reason, TransferCancelled):
            return self._upload.seed is not None and not self._sent.is_deleted
        return True

    async def _restore(self) -> None:
        """Make again what was removed for the transfer."""
        restoring = RollbackList(self.server.uuid)
        if self._retired:
            restoring.add(self.server.restore_environment)
            await restoring.run()
        starting = self._in_background(self._sent.start_again())
        restoring.add(partial(self._upload.discard, keep=self.keeps_copy))
        restoring.add(self._pool.remove_marks)
        await restoring.run()
        await starting
        self._steps.close()

    def _complete(self) -> None:
        if self._steps.lifecycle.over:
            return
        self._steps.announcer.hide_progress()
        self._sent.tell_downtime()
        self._steps.advance(SendStep.DONE)
        self.server.disown(MOVED)
        self.is_left_behind = not self.coordinator.is_direct
        if self.coordinator.is_direct:
            self._in_background(self._clean_up())

    async def _clean_up(self) -> None:
        await self.coordinator.clean_up(self.server)
        self._steps.close()

    async def _finish(self) -> None:
        """Remove what is still here of a server that has moved, as the Panel has confirmed."""
        if not self._servers.is_replaced(self.server):  # Its backups may have come back with it.
            await self._servers.remove_attachments(
                self.server.uuid, self._pool.name, self._removals
            )
        await self._pool.remove_marks()
        self._steps.close()

    def _in_background(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        # A daemon that stops before it is done does it at its next start.
        return Deferred.fromCoroutine(work).addErrback(self.log_failure)

    def log_failure(self, failure: Failure) -> None:
        """Log why something after the transfer has failed, unless it was cancelled."""
        if not failure.check(CancelledError):
            text = "{server}: cleaning up after the transfer failed"
            self._log.failure(text, failure, server=self.server.uuid)

    async def check_left_behind(self) -> None:
        """Ask the Panel about a server that has moved, and that it has not had deleted.

        The destination may have answered before it could report to the Panel, and be lost since.
        """
        moved = not self._servers.is_replaced(self.server) and await self.coordinator.has_moved()
        if not self.is_left_behind:
            return
        self.is_left_behind = False
        uuid = self.server.uuid
        if self._servers.is_replaced(self.server):
            await self._finish()
        elif moved:
            await self._servers.store_away(uuid, self._pool.name, self._steps.inode)
            await self._finish()
        else:
            self._log.warn(
                "{server}: the destination has received it, but the Panel has it on this node: "
                "it stays here",
                server=uuid,
            )
            await self._steps.enter_if_open(SendStep.FAILED)  # as in `_stay`
            self._servers.unshare(uuid)
            self.server.release()
            self._in_background(self._restore())


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


class SeedTransfer(OutgoingTransfer):
    """A copy of a server that is kept up to date at another node, before a transfer is ordered.

    It is a direct transfer that holds nothing until it is due: then it goes on as one of a server
    that runs. A transfer that is ordered meanwhile takes its place: it goes on with the copy, and
    with what this node knows of the files. `mover` has made its move.
    """

    def __init__(
        self,
        server: Server,
        coordinator: SendingCoordinator,
        steps: StepLog[SendStep],
        upload: OutgoingUpload,
        servers: SourceServers,
        stop_grace: float,
        order: SeedOrder,
        mover: Mover,
    ) -> None:
        super().__init__(server, coordinator, steps, upload, servers, stop_grace)
        self._sent = self._seeded = SeededServer(server, steps, stop_grace, upload.note_started)
        self._order, self._mover = order, mover
        upload.seed = order
        steps.announcer.is_quiet = True
        self._rounds: SeedPolicy | None = None
        self._gives_way = False
        #: Whether that transfer still waits for what was read.
        self._is_wanted = True
        self._left: MoveSource | None = None

    @property
    def progress(self) -> ProgressReport:
        """How far it is."""
        return self._steps.progress(
            self._upload.meter,
            self._upload.total,
            None if self._rounds is None else self._rounds.figures,
        )

    @property
    def gives_way(self) -> bool:
        """Whether the server is used as ever, and a transfer of it may take the place of this."""
        return self._steps.lifecycle.before(SendStep.FOLLOW) and not self._gives_way

    def _give_way(self) -> None:
        self._gives_way = self._is_wanted = True
        if self._rounds is None:
            self._cancel(SeedAdopted())
            return
        # Not cancelled: nothing is to be under way in a thread when it is over.
        self._rounds.stop(SeedAdopted())
        self._upload.abort()

    async def hand_over(self) -> MoveSource | None:
        """End it, and return what was read, for the transfer that takes the place of this."""
        self._give_way()
        try:
            await when_fired(self.over)
        except CancelledError:
            self._is_wanted = False
            raise
        left, self._left = self._left, None
        return left

    def drop_left(self, _: None = None) -> None:
        """Close what was read, where that transfer has ended and has not asked for it."""
        self._is_wanted = False
        left, self._left = self._left, None
        if left is not None:
            closing = self._mover.uploader.packers.run(left.close)
            closing.addErrback(self.log_failure)

    async def _ask(self, seed: SeedRead | None = None) -> None:
        await super()._ask(seed)
        if self._upload.move is None:
            raise DestinationRefused(
                "the destination node cannot follow a server",
                "it needs wingsd of this version or newer with system.transfers.moves.enabled, "
                "and must not have the server's files already, by a storage pool",
                HTTPStatus.NOT_IMPLEMENTED,
            )

    async def _go_on(self, record: MoveRecord) -> None:
        await self._wait(self._upload.go_on_later(record))

    async def _send(self) -> None:
        if self._steps.lifecycle.before(SendStep.FOLLOW):
            await self._enter(SendStep.SEED)
            await self._seed()
        await super()._send()

    async def _seed(self) -> None:
        """Keep the copy up to date until the end is due, and take the server then."""
        move = self._upload.move
        assert move is not None  # noqa: S101 - by `_ask`
        await self._wait(self._mover.measure_file_system())
        database = self._mover.database
        rounds = self._rounds = SeedPolicy(
            move,
            self.server,
            self._steps,
            self._mover.live.config.follow_every,
            self._order.stop_at,
            partial(database.seconds_since, 0.0),
        )
        self._steps.count = lambda: move.bytes_out
        self._upload.meter.start()
        self.server.files.measure_if_stale()
        try:
            await self._wait(rounds.run())
            await self._wait(self._take(rounds))
        finally:
            self._rounds = None
            self._upload.meter.stop()
            if self._gives_way and self._is_wanted:
                self._left = move.hand_over()
        if not self._sent.follows:
            await self._wait(self._upload.note_running(runs=False))

    async def _take(self, rounds: SeedPolicy) -> None:
        """Take the server as soon as nothing else keeps it busy."""
        announcer, is_told = self._steps.announcer, False
        while True:
            try:
                self._seeded.take_now()
            except ServerBusy as error:
                if not is_told:
                    announcer.say(f"the server is moved when that is over: {error}")
                is_told = True
                await rounds.pause(TAKEN_EVERY)
                await rounds.run()
            else:
                announcer.speak()
                return
