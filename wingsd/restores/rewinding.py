"""Rewinds: a server's files become what they were at a point of its history.

What differs is prepared while the server runs. Then it is stopped as its egg says, not killed, and
a point is made of its files, by which the rewind can be undone. What differs now is exchanged by
names, everything is compared with the point, and the server is started again if it ran: it is off
for what has changed, not for its size. `wingsd.history.rewriting` prepares and exchanges.

A daemon that dies before the exchange leaves the files as they are, and after that has begun the
next start completes it, before it does anything else. It starts the server if it was stopped.

A backup that is a point of the history is restored in the same way: the server gets the files that
the backup has, alone or laid over the present ones. The end is reported to the Panel, and shown as
that of any other restore.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.archive.quota import require_free_space
from wingsd.backups.points import PointBackup
from wingsd.callbacks import PendingReport
from wingsd.errors import (
    DaemonStopping,
    DiskLimitExceeded,
    HistoryDamaged,
    NoSuchPoint,
    RestoreFailed,
    RewindFailed,
    RewindNotActive,
    ServerBusy,
    ServerNotFound,
    StateDatabaseError,
    StorageError,
    WingsdError,
)
from wingsd.events import BACKUP_RESTORE_PROGRESS, BACKUP_RESTORE_STARTED
from wingsd.filesystem.walk import opened
from wingsd.histories import HistoriesOnDemand
from wingsd.histories.manager import Histories
from wingsd.history.format import Point, PointLabel
from wingsd.history.names import PointName
from wingsd.history.rewriting import Difference, Rewriting, difference
from wingsd.history.store import HistoryStore
from wingsd.history.wanted import Wanted
from wingsd.restores.held import STOP_WITHIN, HeldServer, cancelled
from wingsd.restores.manager import (
    FIRST_MOMENT,
    PROGRESS_EVERY,
    RESTORING,
    Restores,
    restore_progress,
    say_failed,
)
from wingsd.servers import Server
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import Hold, Operation, refusal
from wingsd.servers.power_states import PowerState
from wingsd.servers.registry import BACKOFF
from wingsd.statedb import Outcome, RewindRecord
from wingsd.transfers.cancellation import CancelScope
from wingsd.util.reactor import Periodic
from wingsd.util.text import display_all, readable_time

#: For how long a rewind can be undone, whatever `system.history.keep` says.
UNDO_KEPT = 7 * 24 * 3600.0
#: Preparing is repeated while the server runs, so that little is left to prepare after its stop:
#: so often, as long as it took longer than so many seconds.
ROUNDS, SHORT = 3, 5.0
#: Seconds for which the points of a history are waited for.
TURN_TIMEOUT = 10.0
#: Rewinds of servers whose end is remembered.
_REMEMBERED = 100
#: Seconds for one path that is exchanged, for a prediction.
_EACH = 0.00005
_SECOND = 1_000_000_000
_MIB = 1 << 20
_REWOUND = "the server is being rewound to an earlier point in time"
_RESTARTED = (
    "The server was not rewound, and its files are as before: this node was restarted meanwhile; "
    "rewind it again"
)


class RewindState(Enum):
    """The state of a rewind."""

    PREPARING = "preparing"
    STOPPING = "stopping"
    #: A point is made of the stopped server, and what differs is prepared.
    COMPARING = "comparing"
    EXCHANGING = "exchanging"
    #: The files are compared with the point.
    CHECKING = "checking"
    STARTING = "starting"
    DONE = "done"
    FAILED = "failed"


OVER = (RewindState.DONE, RewindState.FAILED)


def shown_time(seconds: float) -> str:
    """Return a time in the node's time zone, as in the list of points."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


@attrs.define(eq=False, repr=False)
class Rewind:
    """The rewind of a server to a point, which was made at `time`; `run` does it.

    With `is_dry_run` nothing of the server is changed or held. Read `_rewind` from top to bottom.
    """

    server: Server
    point: int
    time: float
    is_dry_run: bool
    _rewinds: Rewinds
    #: The backup that is restored, None where an operator has ordered the rewind.
    restored: PointBackup | None = None
    #: The files that the server is to have.
    wanted: Wanted = attrs.field(init=False)
    state: RewindState = RewindState.PREPARING
    #: What differs, once it is known, and the bytes that were prepared so far.
    found: Difference | None = None
    prepared: int = 0
    #: The bytes that are to be prepared, as far as is known.
    size: int = 0
    #: Whether files stay as they are that are damaged in the history.
    skips_damaged: bool = False
    #: Files that are written all the time, of which it is not known yet whether they differ.
    unsettled: Sequence[bytes] = ()
    #: Files that cannot be read now: they are replaced, and what they have is kept nowhere.
    lost: Sequence[bytes] = ()
    #: The point by which it can be undone.
    undo: int | None = None
    #: The seconds that the server was off, or will be as far as is known.
    seconds_off: float | None = None
    #: What was not as at the point in the end.
    differing: list[bytes] = attrs.field(factory=list)
    error: WingsdError | None = None
    #: Fires when nothing more is done with the server's files.
    over: Deferred[None] = attrs.field(factory=Deferred)
    scope: CancelScope = attrs.field(factory=CancelScope)
    _held: HeldServer = attrs.field(init=False)
    _stopped: float = 0.0
    #: Whether the exchange has begun: it is completed then, whatever happens.
    _is_committed: bool = False
    _moment: Deferred[None] = attrs.field(factory=lambda: succeed(None))
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.wanted = Wanted(self.point)

    def restore(self, found: PointBackup, *, truncate: bool) -> None:
        """Restore a backup, without the rest of its point; without `truncate` laid over."""
        leaves_out = found.ignore.leaves_out
        self.restored = found
        self.wanted = Wanted(self.point, leaves_out, keeps_present=not truncate)

    def hold(self) -> None:
        """Hold the server, so that it is stopped, and started again."""
        restores = self._rewinds.restores
        record_start = restores.database.start_after_rewind
        ended = "it is rewound" if self.restored is None else "its backup is restored"
        self._held = HeldServer(self.server, record_start, ended, restores, self.scope)

    def cancel(self, reason: WingsdError) -> None:
        """Let it fail for this reason. An exchange that has begun goes on as long as it can."""
        self.scope.cancel(reason)

    def _enter(self, state: RewindState) -> None:
        self.state = state
        self._log.info("{server}: its rewind: {state}", server=self.server.uuid, state=state.value)

    async def predict(self) -> None:
        """Find out what differs, and for how long the server would be off."""
        uuid = self.server.uuid
        self._rewinds.pin(uuid, self.point)
        try:
            await self._caught(self.scope.wait(Deferred.fromCoroutine(self._predict())))
            await self._rewinds.settle_pins(uuid)
        finally:
            self._enter(RewindState.FAILED if self.error else RewindState.DONE)
            self.over.callback(None)

    async def _caught(self, work: Awaitable[None]) -> None:
        """Do some work, and note its error."""
        try:
            await work
        except CancelledError:
            raise
        except WingsdError as error:
            self.error = error
        except Exception:
            self._log.failure("{server}: its rewind failed", server=self.server.uuid)
            self.error = RewindFailed("an unexpected error; see the node's log")

    async def _predict(self) -> None:
        histories, restores = self._rewinds.histories, self._rewinds.restores
        uuid, seconds = self.server.uuid, restores.reactor.seconds
        await self._rewinds.point(uuid, self.point)
        await histories.make(self.server)
        began = seconds()
        # as after the stop: a moment after another one
        await histories.make(self.server, None, restores.workers, thins=False)
        self.unsettled, self.lost = histories.unsettled(uuid)
        made = seconds()
        compare = partial(difference, wanted=self.wanted, lost=self.lost)
        self.found = await histories.use(uuid, compare, restores.workers)
        self._check_limit(self.found)
        compared = seconds() - made  # mostly less is compared after the stop
        expected = made - began + compared + self.found.entries * _EACH
        self.seconds_off = expected if self.found.entries else 0.0

    async def run(self) -> None:
        """Rewind the server, and start it again if it ran."""
        self._moment = deferLater(self._rewinds.restores.reactor, FIRST_MOMENT)
        with self._shown():
            outcome = await self._attempt()
        if outcome is None:
            self.over.callback(None)
        else:
            await self._end(outcome)

    async def complete(self, *, starts: bool) -> None:
        """Go on with the exchange that an earlier daemon has begun."""
        self._is_committed, self._held.was_stopped = True, starts
        await self.run()

    async def _attempt(self) -> Outcome | None:
        """Return the outcome, None where the next start of the daemon completes the rewind."""
        if not self._is_committed:
            await self._caught(self._rewind())
        if self._is_committed and self.error is None:
            await self._caught(self._finish())
        if self.error is None:
            return Outcome.SUCCESS
        return None if isinstance(self.scope.reason, DaemonStopping) else Outcome.FAILURE

    # The steps

    async def _rewind(self) -> None:
        """Do all up to the exchange, or nothing where nothing differs."""
        server, scope = self.server, self.scope
        self._enter(RewindState.PREPARING)
        what = f"The server is being rewound to {shown_time(self.time)}."
        if self.restored is not None:
            what = f"A backup of the server, made {shown_time(self.time)}, is being restored."
        server.say(f"{what} What differs is prepared first; it is stopped after that.")
        await self._prepare()
        # An unsettled file is in the newest point as before it: it may differ.
        if self.found is not None and not self.found.entries and not self.unsettled:
            if self.restored is None:
                server.say(
                    f"The server's files are as they were at {shown_time(self.time)}."
                    f"{self._left_out()}"
                )
            return
        await self._stop()
        await scope.wait(server.operations.ended(Operation.CHANGE_FILES))
        self._enter(RewindState.COMPARING)
        restores, histories = self._rewinds.restores, self._rewinds.histories
        making = histories.make(server, PointLabel.STOPPED, restores.workers, thins=False)
        await scope.wait(Deferred.fromCoroutine(making))
        self.unsettled, self.lost = histories.unsettled(server.uuid)
        if self.unsettled:
            raise self._failed(
                f"something writes to {display_all(self.unsettled)} although the server is "
                "stopped, or it is larger than 16 TiB; end that, or move it away, and "
                f"{self._again}"
            )
        scope.check()
        self.found = await histories.use(server.uuid, self._commit, restores.workers)
        self._note_committed(self.found.newest)
        with suppress(StateDatabaseError):  # the end records it, too
            await restores.database.set_undo(server.uuid, self.found.newest)
        # Where files are only laid over the others, or are damaged, one may stay.
        if lost := sorted({*self.lost}.intersection(self.found.paths)):
            server.say(
                f"{display_all(lost)} cannot be read: its present contents are not kept, and do "
                "not come back when this is undone.",
                keep=True,
            )

    async def _prepare(self) -> None:
        """Prepare what differs, while the server runs."""
        histories, reactor = self._rewinds.histories, self._rewinds.restores.reactor
        scope = self.scope
        histories.interrupt(self.server.uuid)
        for _ in range(ROUNDS):
            scope.check()
            began = reactor.seconds()
            await scope.wait(Deferred.fromCoroutine(histories.make(self.server)))
            self.unsettled, self.lost = histories.unsettled(self.server.uuid)
            prepare, workers = self._prepared, self._rewinds.restores.workers
            self.found = await histories.use(self.server.uuid, prepare, workers)
            if reactor.seconds() - began < SHORT or self.server.state is PowerState.OFFLINE:
                return

    def _note_committed(self, undo: int) -> None:
        """Note that the exchange has begun, which that point undoes.

        Until then it is the former rewind that can be undone. The plan has the number, too.
        """
        self.undo, self._is_committed = undo, True
        self._rewinds.pin(self.server.uuid, undo)

    def _check_limit(self, found: Difference) -> None:
        limit = self.server.files.limit
        if limit is not None and found.total > limit:
            raise DiskLimitExceeded(
                f"the server's files would have {-(-found.total // _MIB)} MiB, its disk limit is "
                f"{limit // _MIB} MiB; raise its disk limit in the Panel, and {self._again}"
            )

    @property
    def _again(self) -> str:
        return "rewind it again" if self.restored is None else "restore the backup again"

    def _failed(self, detail: str) -> WingsdError:
        return RewindFailed(detail) if self.restored is None else RestoreFailed(detail)

    def _prepared(self, store: HistoryStore) -> Difference:
        """Prepare what differs from the newest point. In a thread."""
        restores = self._rewinds.restores
        with self._rewriting() as rewriting:
            found = difference(store, self.wanted, self.lost)
            self._check_limit(found)
            self.size = found.size
            with opened(rewriting.new) as fd:
                more = max(found.size - self.prepared, 0)
                require_free_space(
                    os.fstatvfs(fd),
                    restores.limits.reserve,
                    "what differs",
                    more,
                    restores.limits.inode_reserve,
                    found.entries,
                )
            return rewriting.prepare(store, self.wanted, self.lost)

    def _rewriting(self) -> Rewriting:
        uuid, skips = self.server.uuid, self.skips_damaged
        return self._rewinds.rewriting(uuid, self._count, skips_damaged=skips)

    def _count(self, size: int) -> None:
        """Count what is prepared. In a thread."""
        self.prepared += size
        self.scope.check()

    async def _stop(self) -> None:
        """Stop the server if it runs. Raises `RewindFailed` when it does not stop in time."""
        self._enter(RewindState.STOPPING)
        why = "What differs is prepared. The server is stopped to exchange it."
        if not await self._held.stop(why):
            raise self._failed(
                f"the server has not stopped within {readable_time(STOP_WITHIN)}; stop it, or "
                f"kill it, and {self._again}"
            )
        self._stopped = self._rewinds.restores.reactor.seconds()
        self._rewinds.histories.interrupt(self.server.uuid)

    def _commit(self, store: HistoryStore) -> Difference:
        """Prepare the rest, and begin the exchange. In a thread."""
        with self._rewriting() as rewriting:
            self._rewinds.restores.storage.quotas.adopt(
                self.server.uuid, self.server.directory, rewriting.new
            )
            return rewriting.commit(store, self.wanted, self.lost, self.found)

    async def _finish(self) -> None:
        """Exchange what differs, until it has succeeded, and compare that with the point."""
        await self._exchange()
        self._enter(RewindState.CHECKING)
        server = self.server
        try:
            self.differing = await self._rewinds.restores.workers.run(self._compared)
        except StorageError as error:
            server.say(
                f"The server is rewound, but it was not compared with the point: {error}",
                keep=True,
            )
        if self.differing:
            server.say(
                f"The server is rewound, but {display_all(self.differing)} is not as it was then. "
                "Undo it by wingsctl rewind --undo if that matters.",
                keep=True,
            )

    async def _exchange(self) -> None:
        restores, server = self._rewinds.restores, self.server
        self._enter(RewindState.EXCHANGING)
        said = ""
        for pause in BACKOFF:
            try:
                undo = await restores.workers.run(self._rewinds.undo_of, server.uuid)
                if undo is None:
                    # The disk had failed when this was to be found out at the daemon's start.
                    self._is_committed, self.undo = False, None
                    raise self._failed(f"this node was restarted meanwhile; {self._again}")
                self._note_committed(undo)
                await restores.workers.run(self._rewinds.apply, server.uuid)
            except HistoryDamaged:
                raise
            except StorageError as error:
                if str(error) != said:
                    said = str(error)
                    self._log.critical(
                        "{server}: its rewind stopped halfway, and is tried again: {error}",
                        server=server.uuid,
                        error=error,
                    )
                    server.say(
                        f"The rewind has stopped halfway, and is tried again: {said}. wingsctl "
                        "rewind --cancel gives it up."
                    )
                await self.scope.wait(deferLater(restores.reactor, pause))
            else:
                return

    def _compared(self) -> list[bytes]:
        with self._rewinds.rewriting(self.server.uuid) as rewriting:
            return rewriting.differing()

    async def _end(self, outcome: Outcome) -> None:
        server, restores = self.server, self._rewinds.restores
        is_halfway = self._is_committed and self.error is not None
        if is_halfway:
            self._held.was_stopped = False
        if self.restored is not None:
            await self._moment
        report = await self._record_end(outcome, starts=not is_halfway)
        await self._rewinds.settle_pins(server.uuid)
        await restores.withdraw(server.uuid)
        if self._stopped:
            self.seconds_off = restores.reactor.seconds() - self._stopped
        self._held.release()
        if self.restored is None:
            self._say_end(is_halfway=is_halfway)
        else:
            self._say_restored(is_halfway=is_halfway)
        self._fire_over()
        if report is not None:
            await restores.show_end(server, outcome, report)
        self._enter(RewindState.STARTING)
        try:
            await self._held.start()
        finally:
            self._enter(RewindState.DONE if outcome is Outcome.SUCCESS else RewindState.FAILED)
        await restores.long.run(restores.storage.discard, server.uuid)
        # After what was replaced is deleted, which counts for the server's quota until then.
        server.files.received(None)

    async def _record_end(self, outcome: Outcome, *, starts: bool) -> PendingReport | None:
        """Record the end, as soon as the state database can be written, and report a restore.

        Until then the server stays held: the next start of the daemon would complete the rewind,
        whatever has become of the files since. Neither a deletion nor the daemon's end waits.
        """
        server, restores = self.server, self._rewinds.restores
        for pause in BACKOFF:
            try:
                if self.undo is not None:
                    await restores.database.set_undo(server.uuid, self.undo)
                report = await restores.database.end_rewind(server.uuid, outcome, starts=starts)
            except StateDatabaseError as error:
                if not self.over.called:
                    self._log.critical(
                        "{server}: the end of its rewind cannot be recorded; it is held until "
                        "that succeeds: {error}",
                        server=server.uuid,
                        error=error,
                    )
                    server.say(
                        f"The end of the rewind cannot be recorded, and is tried again: {error}"
                    )
                self._fire_over()
                await deferLater(restores.reactor, pause)
            else:
                return None if report is None else restores.callbacks.add_recorded(report)
        return None

    def _fire_over(self) -> None:
        if not self.over.called:
            self.over.callback(None)

    def _left_out(self) -> str:
        said = ""
        if self.found is not None and self.found.damaged:
            damaged = display_all(self.found.damaged)
            said = f" {damaged} is damaged in the history, and is left as before."
        if self.found is not None and self.found.kept:
            said += (
                f" {display_all(self.found.kept)} is not in this point, since it was written all "
                "the time then, and is left as before."
            )
        return said

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Show the page that a backup is restored, and now and then how far that is."""
        if self.restored is None:
            yield
            return
        server = self.server
        server.publish(BACKUP_RESTORE_STARTED)

        def show() -> None:
            progress = restore_progress(self.prepared, max(self.size, self.prepared), 0)
            server.publish(BACKUP_RESTORE_PROGRESS, progress)

        repeating = Periodic(self._rewinds.restores.reactor, show)
        repeating.start(PROGRESS_EVERY, now=False)
        try:
            yield
        finally:
            repeating.stop()

    def _say_restored(self, *, is_halfway: bool) -> None:
        server = self.server
        if is_halfway:
            server.say(
                f"The restoring of the backup stopped halfway: {self.error}. Some files are those "
                "of the backup, and others as before. The server is not started. An administrator "
                "brings all back as before by wingsctl rewind --undo.",
                keep=True,
            )
        elif self.error is not None:
            say_failed(server, self.error)
        else:
            server.say(f"Completed server restoration from local backup.{self._left_out()}")
            if self._is_committed:
                server.say("wingsctl rewind --undo undoes it for a week.")

    def _say_end(self, *, is_halfway: bool) -> None:
        server = self.server
        if is_halfway:
            server.explain(
                "rewind.failed",
                f"The rewind stopped halfway: {self.error}. Some files are as they were at "
                f"{shown_time(self.time)}, and others as before. The server is not started. "
                "wingsctl rewind --undo brings all back as before.",
            )
        elif self.error is not None:
            server.explain(
                "rewind.failed",
                f"The server was not rewound, and its files are as before: {self.error}",
            )
        elif self._is_committed:
            off = "" if self.seconds_off is None else f", and was off for {self.seconds_off:.1f} s"
            how = ". This node was restarted meanwhile."
            if self.found is not None:
                entries = self.found.entries
                how = f": {entries} files and directories were changed{off}.{self._left_out()}"
            server.explain(
                "rewind.completed",
                f"The server is rewound to {shown_time(self.time)}{how} wingsctl rewind --undo "
                "undoes it.",
            )


class Rewinds:
    """All rewinds under way, and the last ones. They share what `restores` have."""

    _log = Logger()

    def __init__(self, histories: HistoriesOnDemand, restores: Restores) -> None:
        self._on_demand = histories
        self.restores = restores
        #: The rewind of each server that is under way, or was the last one.
        self.known: dict[str, Rewind] = {}
        self._tasks = BackgroundTasks()
        #: Rewinds that an earlier daemon has not ended, and whether their exchange had begun.
        self._left: list[tuple[RewindRecord, bool]] = []
        self._is_stopping = False

    @property
    def histories(self) -> Histories:
        """The histories of the servers."""
        return self._on_demand.get()

    # Beginning and end

    async def begin(
        self,
        server: Server,
        number: int | None,
        *,
        is_dry_run: bool,
        at: float | None = None,
        skips_damaged: bool = False,
    ) -> Rewind:
        """Rewind a server to a point, in the background; None to undo its last rewind.

        With `at` it is the newest point at or before that time; with `skips_damaged` files stay as
        they are that are damaged in the history. What else is done with the history is cancelled,
        as is a look at what would change. Raises NoSuchPoint, `ServerBusy`, `ServerNotFound`,
        StorageError and `DaemonStopping`.
        """
        uuid = server.uuid
        self._check(server, is_dry_run=is_dry_run)
        self.histories.interrupt(uuid)
        point = await self._wanted(uuid, number, at)
        if not is_dry_run:
            await self._end_look(uuid)
        self._check(server, is_dry_run=is_dry_run)
        rewind = Rewind(server, point.number, point.time / _SECOND, is_dry_run, self)
        rewind.skips_damaged = skips_damaged
        if is_dry_run:
            self._remember(rewind)
            self._tasks.start("comparing it with a point", rewind.predict(), uuid)
            return rewind
        return await self._start(rewind)

    async def restore(self, server: Server, found: PointBackup, *, truncate: bool) -> Rewind:
        """Restore a backup of a server, which is a point, in the background.

        With `truncate` it replaces all files of the server, else it is laid over them. Raises as
        `begin`, and `StorageError` where its point is not there any more.
        """
        uuid, name = server.uuid, found.name
        self._check(server, is_dry_run=False)
        self.histories.interrupt(uuid)
        await self._end_look(uuid)
        try:
            point = await self.point(uuid, name.number)
        except NoSuchPoint:
            point = None
        if point is None or point.root.hex() != name.root:
            raise HistoryDamaged(f"point {name.number}", "it is not there any more")
        self._check(server, is_dry_run=False)
        rewind = Rewind(server, name.number, name.made, False, self)
        rewind.restore(found, truncate=truncate)
        return await self._start(rewind)

    async def _start(self, rewind: Rewind) -> Rewind:
        """Hold the server, and rewind it in the background."""
        server, uuid, number = rewind.server, rewind.server.uuid, rewind.point
        backup = "" if rewind.restored is None else rewind.restored.name.name
        server.place_hold(Operation.RESTORE, RESTORING if backup else _REWOUND)
        try:
            self.pin(uuid, number)
            # Before the record: a restart would complete an earlier rewind in place of this one.
            await self.restores.long.run(self.restores.storage.withdraw, uuid)
            self._check_held(server)
            truncate = not rewind.wanted.keeps_present
            await self.restores.database.begin_rewind(
                uuid, number, rewind.time, backup, truncate=truncate
            )
            try:
                self._check_held(server)
            except ServerBusy:
                await self._end_unbegun(uuid)
                raise
        except BaseException as error:
            if isinstance(error, WingsdError):
                await self.settle_pins(uuid)
            server.operations.release(Operation.RESTORE)
            raise
        rewind.hold()
        self._remember(rewind)
        self._tasks.start("rewinding it", rewind.run(), uuid)
        return rewind

    async def _end_unbegun(self, uuid: str) -> PendingReport | None:
        """Record that a rewind has changed nothing; report that of a backup."""
        report = await self.restores.database.end_rewind(uuid, Outcome.FAILURE)
        return None if report is None else self.restores.callbacks.add_recorded(report)

    def _check_held(self, server: Server) -> None:
        if self._is_stopping or not server.operations.runs(Operation.RESTORE):
            raise ServerBusy(refusal(Operation.DELETE, Operation.RESTORE))

    def _remember(self, rewind: Rewind) -> None:
        self.known.pop(rewind.server.uuid, None)
        self.known[rewind.server.uuid] = rewind
        for uuid in [uuid for uuid, each in self.known.items() if each.over.called]:
            if len(self.known) > _REMEMBERED:
                del self.known[uuid]

    def _check(self, server: Server, *, is_dry_run: bool) -> None:
        if self._is_stopping:
            raise DaemonStopping
        self.restores.check(server)
        if is_dry_run and self._look(server.uuid) is not None:
            raise ServerBusy(_REWOUND, "wait for the look at what would change to end")

    def _look(self, uuid: str) -> Rewind | None:
        """Return the look at what would change of a server that is under way, if there is one."""
        known = self.known.get(uuid)
        is_look = known is not None and known.is_dry_run and not known.over.called
        return known if is_look else None

    async def _end_look(self, uuid: str) -> None:
        while (look := self._look(uuid)) is not None:
            await cancelled((look,), RewindFailed("the server is being rewound now"))

    async def _wanted(self, uuid: str, number: int | None, at: float | None) -> Point:
        """Return the newest point at or before a time, that of a number, or that of an undo.

        Raises NoSuchPoint, and ServerBusy as `_points`.
        """
        if at is None:
            return await self.point(uuid, await self._undo(uuid) if number is None else number)
        found = await self._points(uuid)
        for point in found:
            if point.time <= at * _SECOND:
                return point
        if not found:
            raise NoSuchPoint("this server has no history")
        oldest = shown_time(found[-1].time / _SECOND)
        raise NoSuchPoint(f"the oldest point of this server is of {oldest}")

    def last(self, uuid: str) -> Rewind:
        """Return the rewind of a server that is under way, or was the last one since the start.

        Raises `RewindNotActive`.
        """
        if uuid not in self.known:
            raise RewindNotActive("it was not rewound since this node's start")
        return self.known[uuid]

    async def point(self, uuid: str, number: int) -> Point:
        """Return a point of a server. Raises NoSuchPoint, and ServerBusy as `_points`."""
        for each in await self._points(uuid):
            if each.number == number:
                return each
        raise NoSuchPoint(
            f"there is no point {number} of this server; wingsctl history {uuid} lists them"
        )

    async def _points(self, uuid: str) -> list[Point]:
        """Return the points of a server. Raises ServerBusy where they cannot be read soon."""
        reading = Deferred.fromCoroutine(self.histories.points(uuid))
        reading.addTimeout(TURN_TIMEOUT, self.restores.reactor)
        try:
            return [each.point for each in await reading]
        except DeferredTimeout:
            raise ServerBusy("the server's history is in use", "try again in a minute") from None

    async def _undo(self, uuid: str) -> int:
        record = await self.record(uuid)
        if record is not None and record.undo is not None and record.outcome is not None:
            return record.undo
        raise NoSuchPoint("this server was not rewound in the last days, so nothing can be undone")

    async def record(self, uuid: str) -> RewindRecord | None:
        """Return what is recorded of a server's last rewind. Raises StateDatabaseError."""
        found = await self.restores.database.rewinds()
        return next((each for each in found if each.server == uuid), None)

    async def cancel(self, uuid: str) -> Rewind:
        """Cancel a rewind whose exchange has not begun, or that cannot be completed, or a look.

        Raises `Conflict` where none is under way.
        """
        rewind = self.known.get(uuid)
        if rewind is None or rewind.state in (RewindState.STARTING, *OVER):
            raise RewindNotActive
        if rewind.over.called:
            raise RewindNotActive("its end cannot be recorded yet: see the server's console")
        await cancelled((rewind,), RewindFailed("it was cancelled"))
        return rewind

    async def release(self, uuid: str) -> None:
        """End the rewind of a server that is to be deleted; return when that is over."""
        while True:
            rewind = self.known.pop(uuid, None)
            if rewind is not None:
                reason = ServerBusy(refusal(Operation.DELETE, Operation.RESTORE))
                await cancelled((rewind,), reason)
            await self.restores.database.forget_rewind(uuid)
            if uuid not in self.known:  # Or another one has begun meanwhile.
                break
        self.histories.pinned.pop(uuid, None)

    async def stop(self) -> None:
        """End what is not being exchanged. The next start settles what is not over."""
        self._is_stopping = True
        await cancelled(tuple(self.known.values()), DaemonStopping())
        self._tasks.stop()

    # Points that stay

    def pin(self, uuid: str, *numbers: int) -> None:
        """Keep points of a server until `settle_pins`."""
        self.histories.pinned.setdefault(uuid, set()).update(numbers)

    async def settle_pins(self, uuid: str) -> None:
        """Keep the point alone by which the last rewind of a server can be undone.

        If the state database does not say which one that is, all stay until the next start.
        """
        try:
            record = await self.record(uuid)
        except StateDatabaseError as error:
            self._log.error(
                "{server}: more points of its history are kept: {error}", server=uuid, error=error
            )
            return
        if record is not None and record.undo is not None:
            self.histories.pinned[uuid] = {record.undo}
        else:
            self.histories.pinned.pop(uuid, None)

    async def clean(self) -> None:
        """Keep points no more by which rewinds of some days ago could be undone. Daily."""
        for record in await self.restores.database.rewinds():
            age = self.restores.database.seconds_since(record.begun)
            if record.outcome is not None and age > UNDO_KEPT:
                await self.restores.database.forget_rewind(record.server)
                self.histories.pinned.pop(record.server, None)

    # What is on the disk. In threads, but for `recover`

    def rewriting(
        self,
        uuid: str,
        count: Callable[[int], None] = lambda size: None,
        *,
        skips_damaged: bool = False,
    ) -> Rewriting:
        """Return what prepares and exchanges the files of a server."""
        storage = self.restores.storage
        return Rewriting(
            str(storage.data / uuid),
            storage.rewind_place(uuid),
            storage.owner,
            count,
            durable=storage.durable,
            skips_damaged=skips_damaged,
        )

    def undo_of(self, uuid: str) -> int | None:
        """Return the point that undoes the exchange that has begun, None for none.

        Raises StorageError.
        """
        return Rewriting.undo_of(self.restores.storage.rewind_place(uuid))

    def apply(self, uuid: str) -> None:
        """Exchange the files of a server."""
        with self.rewriting(uuid) as rewriting:
            rewriting.apply()

    # After a restart

    async def _drop(self, uuid: str) -> None:
        """Delete what a rewind has prepared, which has changed nothing."""
        await self.restores.withdraw(uuid)
        self.restores.delete(uuid)

    def recover(self, records: Sequence[RewindRecord]) -> list[str]:
        """Complete the exchanges that an earlier daemon has begun, and drop what was prepared.

        Return the servers that were stopped for a rewind that has not begun to change anything.
        Blocking, at the daemon's start. Raises StateDatabaseError.
        """
        stopped = []
        for record in records:
            if record.undo is not None:
                self.pin(record.server, record.undo)
            if record.outcome is not None:
                continue
            uuid = record.server
            try:
                undo = self.undo_of(uuid)
                is_committed = undo is not None
                if undo is not None:
                    self.pin(uuid, undo)
                    self.apply(uuid)
            except StorageError as error:
                # It is tried again when the servers are loaded; until then no user may start it.
                is_committed = True
                self._log.critical(
                    "{server}: its rewind stopped halfway: {error}", server=uuid, error=error
                )
            # Until the end of a restore is queued, the Panel does not hear of the restart.
            if is_committed or record.backup:
                why = RESTORING if record.backup else _REWOUND
                self._on_demand.servers.hold_later(uuid, Hold(Operation.RESTORE, why))
            if not is_committed and record.start:
                stopped.append(uuid)
            self._left.append((record, is_committed))
        return stopped

    async def settle(self) -> set[str]:
        """Settle the rewinds of an earlier daemon, when the servers are loaded.

        Return those that are completed now, and started by that.
        """
        left, self._left = self._left, []
        completed = set()
        for record, is_committed in left:
            uuid = record.server
            try:
                server = self._on_demand.servers.get(uuid)
            except ServerNotFound:
                await self._end_unbegun(uuid)
                await self.restores.database.forget_rewind(uuid)
                await self._drop(uuid)
                continue
            if not is_committed:
                report = await self._end_unbegun(uuid)
                server.operations.release(Operation.RESTORE)
                await self._drop(uuid)
                if report is None:
                    server.explain("rewind.failed", _RESTARTED)
                else:
                    announcing = self.restores.announce(server, Outcome.FAILURE, report)
                    self._tasks.start("showing its state", announcing, uuid)
                continue
            rewind = Rewind(server, record.point, record.time, False, self)
            rewind.undo = record.undo
            if record.backup:
                # What it takes is in the plan: not which files belong to the backup.
                name = PointName(record.backup, record.point, "", record.time, "")
                rewind.restore(PointBackup(uuid, name), truncate=record.truncate)
            rewind.hold()
            self._remember(rewind)
            completing = rewind.complete(starts=record.start)
            self._tasks.start("completing its rewind", completing, uuid)
            completed.add(uuid)
        return completed
