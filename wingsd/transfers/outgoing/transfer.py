"""An outgoing transfer: its steps, from the order to the Panel's decision.

Read `_ask` and `_deliver` from top to bottom: ask, stop, remove the container, send, await. A
server that runs is followed before it is stopped, where the destination takes moves. The server's
files are only read. They are deleted when the Panel orders it, and never before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, NoReturn, TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.logger import Logger

from wingsd.auth.tokens import expiry_of
from wingsd.backups.points import PointBackup
from wingsd.backups.store import find_backups
from wingsd.config import CALAGOPUS
from wingsd.errors import (
    BadRequest,
    DestinationError,
    DestinationRefused,
    DiskLimitExceeded,
    FinalPassStalled,
    OrderWaitedTooLong,
    SeedAdopted,
    ServerBusy,
    StorageError,
    TransferCancelled,
    WingsdError,
)
from wingsd.filesystem.walk import survey
from wingsd.moves.source import MoveSource
from wingsd.servers import Server
from wingsd.servers.operations import AWAITED, Operation, refusal
from wingsd.servers.power_states import PowerState
from wingsd.statedb import (
    Direction,
    LeavingBackup,
    LeftState,
    MoveRecord,
    TransferRecord,
    point_place,
)
from wingsd.threadio import relayed
from wingsd.transfers.cancellation import slots_held
from wingsd.transfers.coordinator import SendingCoordinator
from wingsd.transfers.outgoing.move import Mover, MoveSending, begun_of
from wingsd.transfers.outgoing.rounds import LivePolicy, SeedPolicy, SentServer
from wingsd.transfers.outgoing.source import (
    FOLLOWS,
    JOINS_STREAMS,
    MOVED,
    MOVES,
    TAKES_POINTS,
    OutgoingParts,
    SourcePool,
    StreamSending,
    Subject,
    TransferRequest,
    seed_of,
    size_limit,
)
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.peer.moves import MOST, Cause
from wingsd.transfers.steps import (
    ProgressMeter,
    ProgressReport,
    RollbackList,
    SendStep,
    StepLog,
    UploadFigures,
    progress_bar,
)
from wingsd.util.deferreds import beside, failure_logger, when_fired
from wingsd.util.retry import Budget
from wingsd.util.text import readable_size

#: How a server is sent: two classes with the same interface.
Sending: TypeAlias = StreamSending | MoveSending
#: Ends a seed, and returns what it has read of its server's files.
SeedRead: TypeAlias = "Callable[[], Coroutine[Deferred[Any], Any, MoveSource | None]]"
#: A transfer of an earlier daemon, and its move.
ResumedMove: TypeAlias = tuple[TransferRecord, MoveRecord]
#: Seconds after which it is tried again to take a server that is busy.
TAKEN_EVERY = 10.0
#: Seconds in which the directory of backups is to be read.
FOUND_WITHIN = 60.0
#: Seconds for which a Panel's token is good that does not say so, and how long before its end a
#: transfer that waits must have begun.
TOKEN_LASTS, BEGUN_BEFORE = 900.0, 60.0


@attrs.define(eq=False, repr=False, slots=False)
class OutgoingTransfer:
    """The transfer of one server from this node, as it was requested.

    A destination that takes moves which resume gets one, any other streams.
    """

    _log = Logger()

    server: Server
    _request: TransferRequest
    coordinator: SendingCoordinator
    _parts: OutgoingParts

    def __attrs_post_init__(self) -> None:
        """Raise `BadRequest` when the URL of `request` is invalid.

        Also for a seed where this node does not send servers that run.
        """
        server, request, coordinator = self.server, self._request, self.coordinator
        parts = self._parts
        if coordinator.seed is not None and not parts.may_follow:
            raise BadRequest(
                "this node does not send servers while they run",
                "system.transfers.moves.enabled or system.transfers.live.enabled is off",
            )
        #: Fires when the transfer is over, whatever its outcome. The Panel is then sure to get
        #: the report of a failure.
        self.over: Deferred[None] = Deferred()
        #: Fires when the transfer is recorded, or when that has failed.
        self.recorded: Deferred[None] = Deferred()
        cleaning = "{server}: cleaning up after the transfer failed"
        #: Logs why something after the transfer has failed, unless it was cancelled.
        self.log_failure = failure_logger(self._log, cleaning, server=server.uuid)
        #: Whether the server has moved, and the Panel has not had it deleted here yet.
        self.is_left_behind = False
        # A direct transfer starts nothing at its destination: its server is stopped first.
        is_stopped = coordinator.is_direct and coordinator.seed is None
        self._may_follow = parts.may_follow and not is_stopped
        ca_file = parts.config.ca_file
        self._destination = PeerClient(request.url, request.token, parts.reactor, ca_file)
        self._steps = StepLog(server.uuid, SendStep, parts.step_logs, coordinator)
        self._steps.current = SendStep.ASK  # unless it waits
        #: The hold of a server whose transfer waits, and until when it does at most, in seconds
        #: since the epoch.
        self._waiting = ExitStack()
        self._waits_until: float | None = None
        self._pool = SourcePool(server.uuid, request, parts, is_direct=coordinator.is_direct)
        #: Counts the bytes that are read of files and backups.
        self._meter = ProgressMeter(self._steps.seconds, lambda: self._sending.read)
        self._subject = Subject(server, request, self._steps, self._meter, coordinator.seed)
        self._mover = Mover(parts, self._subject)
        #: Streams until a move was begun.
        self._sending: Sending = StreamSending(self._subject, parts, self._destination, self._pool)
        #: Whether a move is recorded, and an earlier daemon may have asked for its commit.
        self._is_recorded = self._was_asked = False
        #: The rounds of a server that runs, or did when it was followed; None without any.
        self._followed: LivePolicy | None = None
        self._removals: tuple[str, ...] = ()
        #: The local backups that the server leaves; None before they are looked for.
        self._left_backups: list[LeavingBackup] | None = None
        self._history: list[LeavingBackup] = []
        self._retired = False
        self._is_left = False
        self._sent = SentServer(server, self._steps, parts)
        self._settling: Deferred[bool | None] | None = None

    async def run(self, resumed: ResumedMove | None = None, seed: SeedRead | None = None) -> None:
        """Send the server. Its outcome is logged and reported, and nothing is raised.

        Go on with a move of an earlier daemon that is `resumed`; with what a `seed` has read.
        """
        try:
            await self._run(resumed, seed)
        except Exception:
            self._log.failure(
                "{server}: the transfer broke off; the next start of wingsd finds its outcome",
                server=self.server.uuid,
            )
        finally:
            try:
                self._steps.hide_progress()
                self._steps.leave_open()  # unless it has an outcome
                self._waiting.close()
                leftovers = RollbackList(self.server.uuid)
                leftovers.add(self._pool.remove_marks)
                leftovers.add(self._sending.close)
                await leftovers.run()
            finally:
                self.over.callback(None)

    async def _run(self, resumed: ResumedMove | None, seed: SeedRead | None) -> None:
        try:
            if resumed is None:
                try:
                    self.coordinator.begin()
                    entry_id = await self._steps.begin()
                    await self.coordinator.save(entry_id)
                    if self._waits_until is not None:
                        await self._parts.database.add_move(self._waiting_record(entry_id))
                finally:
                    self.recorded.callback(None)
                await self._await_turn()
                await self._ask(seed)
            elif resumed[0].step == SendStep.WAIT.name:
                self.coordinator.begin()
                self._steps.resume(resumed[0], SendStep.WAIT)
                await self._await_turn()
                await self._ask(seed)
            else:
                entry, record = resumed
                self._steps.resume(entry, SendStep[entry.step])
                self._removals = entry.removals
                self._retired = not self._steps.before(SendStep.RETIRE)
                self._is_recorded, self._subject.seed = True, seed_of(record)
                self._was_asked = not self._steps.before(SendStep.AWAIT)
                await self._go_on(record)
            await self._send()
            self._complete()
        except Exception as error:
            self._steps.hide_progress()
            await self._fail(error)

    def take(self) -> None:
        """Take the server: one that runs may be used until it is stopped. Raises `ServerBusy`."""
        self._sent.take(may_follow=self._may_follow)

    def wait(self) -> None:
        """Take the server when nothing is under way any more that is waited for.

        Until then it is used as ever, but nothing of that kind begins.
        """
        self._steps.current, self._sent.is_taken = SendStep.WAIT, False
        self._waiting.enter_context(self.server.operations.during(Operation.ORDERED))
        now = self._parts.database.now()
        expires = expiry_of(self._subject.request.token) or now + TOKEN_LASTS
        self._waits_until = min(expires - BEGUN_BEFORE, now + self._parts.config.moves.patience)

    async def _await_turn(self) -> None:
        """Wait until the server can be taken, and take it. Raises `OrderWaitedTooLong`."""
        operations, began = self.server.operations, self._steps.seconds()
        if self._waits_until is None:
            return
        while running := [each for each in AWAITED if operations.runs(each)]:
            why = self._steps.detail = refusal(running[0], Operation.TRANSFER_OUT)
            self._steps.say(f"the transfer waits: {why}")
            left = self._waits_until - self._parts.database.now()
            ended = operations.ended(running[0])
            try:
                await self._steps.cancel_scope.wait(
                    ended.addTimeout(max(left, 0.0), self._parts.reactor)
                )
            except TimedOut:
                seconds = self._steps.seconds() - began
                raise OrderWaitedTooLong(why, seconds) from None
        # What is recorded for a restart meanwhile would be taken for a move that has begun.
        await self._wait(self._drop_waiting())
        self._waiting.close()
        self.take()
        await self._enter(SendStep.ASK)

    async def _drop_waiting(self) -> None:
        if self._steps.entry is not None:
            await self._parts.database.drop_move(self._steps.entry)

    def _waiting_record(self, entry: int) -> MoveRecord:
        """Return what is recorded of a transfer that waits, to go on after a restart."""
        request = self._subject.request
        asked = attrs.asdict(request, filter=lambda field, _: field.name not in ("url", "token"))
        return MoveRecord(
            transfer=entry,
            server=self.server.uuid,
            direction=Direction.OUT,
            move="",
            key="",
            token=request.token,
            url=request.url,
            family=request.family,
            request=json.dumps({"asked": asked}),
        )

    def cancel(self, *, is_deleted: bool = False) -> None:
        """Cancel the transfer in any step; `is_deleted` when the server is to be deleted next."""
        if is_deleted:
            self._sent.note_deletion()
        self._cancel(TransferCancelled())

    def abort(self, reason: WingsdError) -> None:
        """End it unless the destination has everything: it may then be moving already.

        For a server that is still being sent within a pool, the Panel is asked. If the Panel is
        being asked already, the recovery continues with that. It also goes on with one that waits,
        and with a move, but for one that is being committed there: its end is waited for.
        """
        waits = self._steps.current is SendStep.WAIT
        if waits or (self._is_recorded and not self._sending.is_asked):
            self._is_left = True
            self._cancel(reason)
        elif not self._body_sent and self._settling is None:
            self._cancel(reason)
        elif self._settling is not None and not self.coordinator.is_direct:
            self._settling.cancel()

    def confirm(self) -> None:
        """Note that the Panel deletes a server here that `is_sent`: it has moved."""
        self._complete()
        self.is_left_behind = False
        if self._settling is not None:
            self._settling.cancel()
        if self._move is not None or not self._body_sent:
            self._sending.abort()  # of what it has already

    def finish(self) -> None:
        """Clean up: the server's files are put away, so the next start has nothing to do."""
        self._in_background(self._finish())

    @property
    def progress(self) -> ProgressReport:
        """Its progress."""
        found = attrs.evolve(
            self._steps.progress(self._meter, self._total),
            until=self._waits_until,
            was_off=self._sent.was_off,
        )
        rounds = self._followed
        if rounds is None:
            return found
        return attrs.evolve(found, round=rounds.round, downtime=rounds.downtime)

    @property
    def waits_for_turn(self) -> bool:
        """True while it waits for the end of another action on the server."""
        return self._steps.current is SendStep.WAIT

    @property
    def is_waiting(self) -> bool:
        """True if it waits for a slot."""
        return self._steps.cancel_scope.is_waiting

    @property
    def is_sent(self) -> bool:
        """True if the destination may have everything; of a pooled server, from the start."""
        is_begun = isinstance(self._sending, StreamSending) and self._sending.begun
        return self._body_sent or (self._pool.name != "" and is_begun)

    @property
    def put_away(self) -> Callable[[], Coroutine[Deferred[Any], Any, None]] | None:
        """Keeps the files for a while, out of the server's place; None where they are deleted."""
        quarantine = self._parts.quarantine
        if self._move is None or not (self._move.keeps_files and quarantine.keeps_moved):
            return None
        uuid, url = self.server.uuid, self._request.url
        return lambda: quarantine.keep_moved(uuid, self._steps.inode, url)

    @property
    def is_over(self) -> bool:
        """True if the server has moved, or stays."""
        return self._steps.over

    def _cancel(self, reason: WingsdError) -> None:
        self._steps.cancel_scope.cancel(reason)
        self.coordinator.stop_waiting(reason)
        self._sending.abort()

    # The steps

    async def _ask(self, seed: SeedRead | None = None) -> None:
        # First: no server is stopped for a destination that is away, or would refuse it.
        await self._wait(self.coordinator.announce())
        await self._wait(self._query_destination())
        if seed is not None:  # which goes on where the destination is away
            reading = Deferred.fromCoroutine(seed())
            self._subject.kept = await self._steps.cancel_scope.wait(reading)
        await self._wait(self._check())
        await self._save_terms()
        await self._wait(self._begin(follows=self._sent.follows))
        self._sent.follows = self._sent.follows and self._move is not None

    async def _go_on(self, record: MoveRecord) -> None:
        await self._wait(self._sent.take_over(record))
        try:
            await self._wait(self._take_up(record, gives_up=self._sent.is_down))
        except FinalPassStalled as error:
            await self._run_again(error)
            await self._wait(self._take_up(record))

    async def _send(self) -> None:
        """Send all, and have it committed; after a halt, once more."""
        halts = Budget(self._steps.clock, most=MOST)
        while True:
            try:
                await self._deliver()
                has_moved = self.coordinator.seems_moved
                await self._sending.answered(has_moved, self._patience)
            except FinalPassStalled as error:
                halts.spend(Cause.HALTED, error)
                await self._run_again(error)
            else:
                return

    async def _deliver(self) -> None:
        if self._steps.before(SendStep.AWAIT):
            # First: no stopped server waits for transfers that hold the slots.
            slots = 1 + (0 if self._move is not None else self._subject.further)
            async with slots_held(self._parts.slots, slots, self._steps.cancel_scope):
                if self._sent.follows:
                    await self._deliver_live()
                else:
                    await self._stop()
                    await self._enter(SendStep.SEND)
                    self._steps.restart_clock()
                    await self._upload()
        if self._move is not None:
            # Recorded before the destination is asked for the commit.
            await self._enter(SendStep.AWAIT)
        elif not self._steps.over:  # The Panel may have confirmed it before.
            self._steps.advance(SendStep.AWAIT)
        if not self._steps.over:
            what = "the destination has everything, and has not answered for"
            self._steps.show_waiting(what)

    async def _stop(self) -> None:
        """Stop the server, and remove its container."""
        if self._steps.before(SendStep.SEND):
            runs = self.server.state is not PowerState.OFFLINE
            if self._move is not None and runs and not self._sent.follows:
                # It was not asked yet whether it could run at its destination.
                await self._wait(self._move.rehearse(self.coordinator.check))
            if self._left_backups is None:
                await self._wait(self._find_left())
            await self._enter(SendStep.STOP)
            await self._steps.cancel_scope.wait(self._sent.hold())
            await self._wait(self._sent.stop())
            self._history = await self._find_history()
            request = self._subject.request
            is_kept = request.family == CALAGOPUS and not request.delete_backups
            if self._move is None and not self._pool.name and not is_kept:
                # Their archives are sent; else the whole history would stay for them.
                points = (point_place(each.name.name) for each in self._subject.points)
                self._removals = tuple(dict.fromkeys((*self._removals, *points)))
            await self._wait(self._save_directory())
            await self._enter(SendStep.RETIRE)
            self._retired = True
            if not self._sent.follows:
                await self._wait(self._parts.retire(self.server.uuid))

    # A server that runs

    async def _deliver_live(self) -> None:
        """Follow it, stop it, send the rest and remove its container."""
        if self._steps.before(SendStep.STOP):
            await self._enter(SendStep.FOLLOW)
            await self._wait(self._find_left())
            await self._wait(self._follow())
            while self._sent.note_state():  # it may be used while that is recorded
                await self._wait(self._note_running(runs=self._sent.ran))
                await self._enter(SendStep.STOP)
        await self._stop()
        await self._enter(SendStep.SEND)
        self._steps.restart_clock()
        async with beside(self._parts.retire(self.server.uuid)) as retiring:
            await self._upload()
        await self._steps.cancel_scope.wait(retiring)

    async def _run_again(self, error: FinalPassStalled) -> None:
        """Start the server here again: it was down for too long, and no commit can come."""
        self._steps.hide_progress()
        self._steps.warn(f"{error}; the server is started again, and the move goes on")
        await self._steps.go_back(SendStep.FOLLOW)
        if self._move is not None:
            self._move.was_started()
        await self._wait(self._sent.run_again())
        self._retired = False

    async def _enter(self, step: SendStep) -> None:
        """Enter a step, unless an earlier daemon has."""
        if self._steps.before(step):
            await self._steps.enter(step)

    async def _save_terms(self) -> None:
        """Save what the recovery of this transfer needs."""
        request, pool = self._subject.request, self._pool.name
        if request.delete_backups and not pool and self._pool.shares_backups:
            self._steps.warn(
                "the destination has the same system.backup_directory: no backup is removed"
            )
        elif request.delete_backups and not pool:
            self._removals = tuple(backup.place for backup in self._subject.backups)
        await self._save_directory()
        if pool:
            self._parts.servers.share(self.server.uuid, pool)
            self._steps.say(f"it is in the storage pool {pool}: its files stay there")

    async def _save_directory(self) -> None:
        # A restore may put another one in its place until the server is held.
        parts, server = self._parts, self.server.uuid
        inode = None if self._pool.name else await parts.disk.run(parts.volume.inode, server)
        left = [*(self._left_backups or ()), *self._history]
        await self._steps.save_terms(self._pool.name, self._removals, inode, left)

    async def _find_history(self) -> list[LeavingBackup]:
        """Return the history that follows the server, of which no more points are made."""
        takes = self._move is not None and self._move.takes_history
        # Backups that are points wait for a node that makes no points now.
        takes = takes or any(each.is_point for each in self._following)
        finding = self._parts.left_histories.leaving(self.server.uuid, is_taken=takes)
        return await self._steps.cancel_scope.wait(Deferred.fromCoroutine(finding))

    async def _find_left(self) -> None:
        """Find the backups that the server leaves: none is made or deleted until it has moved.

        Before its stop, and no move fails by a disk of backups that cannot be read.
        """
        parts, server = self._parts, self.server.uuid
        move = self._move
        takes = move is not None and move.takes_backups
        takes_points = move is not None and move.takes_points
        request = self._subject.request
        finding = Deferred.fromCoroutine(
            parts.find_left(server, request, takes_backups=takes, takes_points=takes_points)
        )
        try:
            self._left_backups = await finding.addTimeout(FOUND_WITHIN, parts.reactor)
        except (StorageError, TimedOut) as error:
            slow = f"nothing was read within {FOUND_WITHIN:g} s"
            why = str(error) if isinstance(error, StorageError) else slow
            self._steps.warn(f"the local backups of the server do not follow it: {why}")
            self._left_backups = []

    @property
    def _backups_may_follow(self) -> bool:
        """True if local backups may follow the server, as far as this node is concerned."""
        return self._parts.config.backups_follow and self._subject.request.family != CALAGOPUS

    @property
    def _following(self) -> list[LeavingBackup]:
        """The local backups that follow the server."""
        return [each for each in self._left_backups or () if each.state is LeftState.FOLLOWS]

    async def _wait(self, work: Coroutine[Deferred[Any], Any, Any]) -> None:
        await self._steps.cancel_scope.wait(Deferred.fromCoroutine(work))

    # What is sent, and how far it is

    @property
    def _body_sent(self) -> bool:
        """True once all of it is on its way."""
        return self._was_asked or self._sending.body_sent

    @property
    def _move(self) -> MoveSending | None:
        """The move that resumes; None for streams."""
        return self._sending if isinstance(self._sending, MoveSending) else None

    @property
    def _total(self) -> int:
        """The bytes there are to read; 0 while the server is not measured."""
        backups = sum(backup.size for backup in self._subject.backups)
        if self._move is None:  # else they follow it
            backups += sum(point.name.size for point in self._subject.points)
        if self._pool.has_files:
            return backups
        measured = self.server.disk_bytes
        return 0 if measured is None else measured + backups

    async def _query_destination(self) -> None:
        """Query what the destination supports. Raises why it cannot be asked, or would do harm."""
        features = self._subject.features = await self._pool.query(self._destination.features)
        asked = self._subject.request.streams
        sent = min(asked, self._parts.max_streams)
        if features and JOINS_STREAMS not in features:  # it takes only one request
            sent = 0
        if sent < asked:
            whose = "this node sends" if sent else "the destination takes"
            self._steps.warn(
                f"{asked} streams are asked for beside the first: {whose} {sent or 'none'}"
            )
        self._subject.further = max(sent, 0)

    async def _check(self) -> None:
        """Find the backups, and check the size of the files.

        Raises `StorageError` where a backup is missing or the files cannot be measured,
        `DiskLimitExceeded` where the server has more than it may have: no node would accept it.
        """
        await self._find_backups()
        limit, known = size_limit(self.server), self.server.disk_bytes
        # Measured where the last figure is too large: files may have been deleted since.
        if limit is None or self._pool.has_files or (known is not None and known <= limit):
            return
        directory = self._parts.servers.directory(self.server.uuid)
        found = await self._parts.long.run(survey, directory)
        if found.size > limit:
            raise DiskLimitExceeded(
                f"the server's files have {readable_size(found.size)}, and its disk limit is "
                f"{readable_size(limit)}; the largest is {found.shown} with "
                f"{readable_size(found.largest_size)}. Holes of sparse files count. Raise its "
                "disk limit in the Panel, or delete files, and transfer it again"
            )

    async def _find_backups(self) -> None:
        request, directory = self._subject.request, self._parts.backups.directory
        if request.backups:
            server = self.server.uuid
            names = await self._parts.points.names(server)
            points = [names[each] for each in request.backups if each in names]
            self._subject.points = tuple(PointBackup(server, name) for name in points)
            archives = [each for each in request.backups if each not in names]
            self._subject.backups = await self._parts.disk.run(
                find_backups, directory, server, archives, request.family
            )

    async def _begin(self, *, follows: bool) -> None:
        """Begin a move, where the destination takes those; else choose streams.

        `follows` is whether the server is sent while it runs. Raises why it refuses the server, or
        cannot be asked.
        """
        subject = self._subject
        needed = {MOVES} if subject.seed is None else {MOVES, FOLLOWS}
        takes_it = self._parts.config.moves.enabled and needed <= subject.features
        if self._pool.name or not takes_it:
            return
        if subject.points and not (TAKES_POINTS in subject.features and self._backups_may_follow):
            self._steps.warn(
                "backups that are sent with it are points of its history: it is sent as one "
                "stream, with archives of them"
            )
            return
        self._is_recorded = True
        move = await self._mover.begin(follows=follows)
        if move is not None:
            self._sending = move
            return
        self._is_recorded = False
        self._steps.warn(
            "the destination does not take this kind of move: it is sent as one stream"
        )

    async def _take_up(self, record: MoveRecord, *, gives_up: bool = False) -> None:
        """Go on with the move of an earlier daemon. Raises as `_check` and `_begin`.

        With `gives_up` it raises `FinalPassStalled` where the destination does not answer for as
        long as in `_upload`.
        """
        if self._was_asked:
            await self._find_backups()
            self._sending = await self._mover.go_on_waiting(record)
            self._was_asked = False  # as it knows itself
            return
        await self._check()
        going = Deferred.fromCoroutine(self._mover.go_on(record))
        if gives_up and (within := float(self._parts.config.live.final_patience)):
            going.addTimeout(within, self._parts.reactor, _stalled)
        self._sending = await going

    async def _follow(self) -> None:
        """Send what changes of a server that runs, until the moment to stop it, or it has ended.

        Raises as `_upload` and `MoveSending.rehearse`.
        """
        move = self._move
        assert move is not None  # noqa: S101 - only moves follow servers
        rounds = self._followed = LivePolicy(
            move, self.server, self._steps, self._parts.config.live, self.coordinator.check
        )
        with self._counted(lambda: rounds.progress):
            await self._parts.measure_file_system()
            await rounds.run()

    @contextmanager
    def _counted(self, text: Callable[[], str] | None = None) -> Iterator[None]:
        """Count what is sent meanwhile; show the progress by `text`, and its figures."""
        sending = self._sending
        # Only for the progress bar, which does not wait for it.
        self.server.files.measure_if_stale()
        self._steps.count = lambda: sending.bytes_out
        if text is not None:
            self._steps.show_progress(text, figures=self._figures)
        self._meter.start()
        try:
            yield
        finally:
            self._meter.stop()
            self._steps.hide_progress()

    async def _note_running(self, *, runs: bool) -> None:
        """Record whether the server runs, which is stopped next. Raises `StorageError`."""
        if self._move is not None:
            self._move.running = runs
            await self._sent.record_running(runs=runs)

    async def _upload(self) -> None:
        """Send all; return when the last bytes are on their way, or only a commit is missing.

        Raises `FinalPassStalled` where a move comes to a halt whose server is started again then.
        """
        with self._counted(self._progress_text):
            warn = relayed(self._parts.reactor, self._steps.warn)
            await self._sending.send(warn, self._patience)
        self._sending.log_sent()

    @property
    def _patience(self) -> float:
        """The seconds without progress after which a move gives up; 0 for never.

        It does where the server was stopped for it, and is started again.
        """
        return float(self._parts.config.live.final_patience) if self._sent.starts_again else 0.0

    async def _discard(self, *, keep: bool) -> None:
        """Tell the destination of a move that it has failed; `keep` what has arrived there."""
        if self._move is not None:
            await self._move.discard(keep=keep)
        elif self._is_recorded:
            await self._mover.withdraw(keep=keep)

    def _progress_text(self) -> str:
        text = f"Uploading {progress_bar(self._meter.done, self._total)}"
        return text if self._move is None else text + self._meter.pace(self._total)

    def _figures(self) -> UploadFigures:
        sending, done = self._sending, self._meter.done
        return UploadFigures(done, sending.bytes_out, max(self._total, done), sending.files)

    # The end

    async def _fail(self, error: Exception) -> None:
        """Find out whether it has failed indeed, report that, and release the server."""
        if self._steps.over:
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
        self._publish_when_reported()

    async def _settle(self, error: WingsdError) -> None:
        """Leave the decision to the Panel: the destination may have everything."""
        lost = isinstance(error, DestinationError) and error.may_complete
        is_waited_for = lost and self.coordinator.answer_grace > 0
        if is_waited_for:
            # After a restart the rest of it is given.
            self._steps.warn(str(error))
            await self._steps.enter_if_open(SendStep.SETTLE)
            self._steps.show_grace(self.coordinator.answer_grace)
        else:
            self._steps.fail(error)
            self._steps.advance(SendStep.SETTLE)
        if self._steps.over:
            return  # The Panel has deleted the server here meanwhile.
        asking = self.coordinator.has_moved(
            lost=lost, refused=isinstance(error, DestinationError) and error.is_refusal
        )
        self._settling = Deferred.fromCoroutine(asking)
        try:
            moved = await self._settling
        except CancelledError:
            return  # The same, or this daemon stops: then the next one asks.
        finally:
            self._settling = None
        if self._steps.over:
            return
        if moved:
            self._steps.say("moved: only the destination's answer was lost")
            self._complete()
            return
        if is_waited_for:
            self._steps.fail(error)
        if moved is None:
            await self._sent.leave_off()
        else:
            self._steps.say("not moved: the server stays on this node")
        await self._stay()
        self._publish_when_reported()

    def _publish_when_reported(self) -> None:
        """Publish that the Panel knows of the failure once it has taken the queued report."""
        report = self.coordinator.failure
        if report is not None:
            when_fired(report.answer).addCallback(lambda _: self._steps.publish_reported())

    async def _stay(self) -> None:
        # Recorded: the server may run from now on, and the move must not go on after a restart.
        await self._steps.enter_if_open(SendStep.FAILED)
        if self._steps.current is not SendStep.FAILED:
            return  # The Panel has deleted the server here meanwhile.
        self._parts.servers.unshare(self.server.uuid)
        self._sent.release()
        self._in_background(self._restore())

    async def _restore(self) -> None:
        """Make again what was removed for the transfer."""
        restoring = RollbackList(self.server.uuid)
        if self._retired:
            restoring.add(self.server.restore_environment)
            await restoring.run()
        starting = self._in_background(self._sent.start_again())
        # What has arrived stays at the destination, unless this was cancelled; that of a seed
        # stays then, too.
        is_cancelled = isinstance(self._steps.cancel_scope.reason, TransferCancelled)
        is_seed = self._subject.seed is not None and not self._sent.is_deleted
        restoring.add(partial(self._discard, keep=is_seed or not is_cancelled))
        restoring.add(self._pool.remove_marks)
        await restoring.run()
        await starting
        self._steps.close()

    def _complete(self) -> None:
        if self._steps.over:
            return
        self._steps.hide_progress()
        self._sent.tell_downtime()
        self._steps.advance(SendStep.DONE)
        self.server.disown(MOVED)
        self.is_left_behind = not self.coordinator.is_direct
        if self.coordinator.is_direct:
            self._in_background(self._clean_up())

    async def _clean_up(self) -> None:
        await self.coordinator.clean_up(self.server)
        self._close()

    async def _finish(self) -> None:
        """Remove what is still here of a server that has moved, as the Panel has confirmed."""
        if not self._parts.is_replaced(self.server):  # Its backups may have come back with it.
            await self._parts.remove_attachments(self.server.uuid, self._pool.name, self._removals)
        await self._pool.remove_marks()
        self._close()

    def _close(self) -> None:
        """Record the outcome: from then on the server's backups may follow it."""
        self._steps.close()
        self._parts.left_backups.wake()

    def _in_background(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        # A daemon that stops before it is done does it at its next start.
        return Deferred.fromCoroutine(work).addErrback(self.log_failure)

    async def check_left_behind(self) -> None:
        """Ask the Panel about a server that has moved, and that it has not had deleted.

        The destination may have answered before it could report to the Panel, and be lost since.
        """
        moved = not self._parts.is_replaced(self.server) and await self.coordinator.has_moved()
        if not self.is_left_behind:
            return
        self.is_left_behind = False
        uuid = self.server.uuid
        if self._parts.is_replaced(self.server):
            await self._finish()
        elif moved:
            await self._parts.store_away(uuid, self._pool.name, self._steps.inode)
            await self._finish()
        else:
            self._log.warn(
                "{server}: the destination has received it, but the Panel has it on this node: "
                "it stays here",
                server=uuid,
            )
            await self._steps.enter_if_open(SendStep.FAILED)  # as in `_stay`
            self._parts.servers.unshare(uuid)
            self.server.release()
            self._in_background(self._restore())


class SeedTransfer(OutgoingTransfer):
    """A copy of a server that is kept up to date at another node, before a transfer is ordered.

    It is a direct transfer that holds nothing until it is due: then it goes on as one of a server
    that runs. A transfer that is ordered meanwhile takes its place: it goes on with the copy, and
    with what this node knows of the files.
    """

    _rounds: SeedPolicy | None = None
    _gives_way = False
    #: Whether that transfer still waits for what was read.
    _is_wanted = True
    _left: MoveSource | None = None

    @property
    def progress(self) -> ProgressReport:
        """Its progress."""
        return self._steps.progress(
            self._meter,
            self._total,
            None if self._rounds is None else self._rounds.figures,
        )

    @property
    def pair(self) -> str:
        """The name that this node has for the pair by which it goes; empty without one."""
        order = self._subject.seed
        return order.pair if order is not None else ""

    @property
    def gives_way(self) -> bool:
        """True if the server is used as ever, and a transfer of it may take the place of this."""
        return self._steps.before(SendStep.FOLLOW) and not self._gives_way

    def _give_way(self) -> None:
        self._gives_way = self._is_wanted = True
        if self._rounds is None:
            self._cancel(SeedAdopted())
            return
        # Not cancelled: nothing is to be under way in a thread when it is over.
        self._rounds.stop(SeedAdopted())
        self._sending.abort()

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
            closing = self._parts.packers.run(left.close)
            closing.addErrback(self.log_failure)

    async def _ask(self, seed: SeedRead | None = None) -> None:
        await super()._ask(seed)
        if self._move is None:
            raise DestinationRefused(
                "the destination node cannot follow a server",
                "it needs wingsd of this version or newer with system.transfers.moves.enabled, "
                "and must not have the server's files already, by a storage pool",
                HTTPStatus.NOT_IMPLEMENTED,
            )

    def take(self) -> None:
        """Do not take the server yet."""
        self._sent.follows, self._sent.is_taken = True, False
        self._steps.is_quiet = True

    async def _go_on(self, record: MoveRecord) -> None:
        await self._wait(self._take_up(record))

    async def _take_up(self, record: MoveRecord, *, gives_up: bool = False) -> None:
        """Go on with the move of an earlier daemon; the destination need not be there now."""
        if begun_of(record) is None:
            await super()._take_up(record)
        else:
            self._sending = await self._mover.go_on_waiting(record, is_asked=False)

    async def _send(self) -> None:
        if self._steps.before(SendStep.FOLLOW):
            await self._enter(SendStep.SEED)
            await self._seed()
        await super()._send()

    async def _seed(self) -> None:
        """Keep the copy up to date until the end is due, and take the server then."""
        move = self._move
        assert move is not None  # noqa: S101 - by `_ask`
        await self._wait(self._parts.measure_file_system())
        database, order = self._parts.database, self._subject.seed
        rounds = self._rounds = SeedPolicy(
            move,
            self.server,
            self._steps,
            self._parts.config.live,
            order.stop_at if order is not None else None,
            partial(database.seconds_since, 0.0),
            self._parts.turns,
            self.pair != "",
        )
        try:
            with self._counted():
                await self._wait(rounds.run())
                await self._wait(self._take(rounds))
        finally:
            self._rounds = None
            if self._gives_way and self._is_wanted:
                self._left = move.hand_over()
        if not self._sent.follows:
            await self._wait(self._note_running(runs=False))

    async def _take(self, rounds: SeedPolicy) -> None:
        """Take the server as soon as nothing else keeps it busy."""
        steps, is_told = self._steps, False
        while True:
            try:
                self._sent.follows = False
                self._sent.take(may_follow=True)
            except ServerBusy as error:
                if not is_told:
                    steps.say(f"the server is moved when that is over: {error}")
                is_told = True
                await rounds.pause(TAKEN_EVERY)
                await rounds.run()
            else:
                steps.speak()
                return


def _stalled(_: object, seconds: float) -> NoReturn:
    raise FinalPassStalled(seconds)
