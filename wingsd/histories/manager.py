"""All histories of this node: points are made by the clock, listed, verified and removed.

A server's `HistoryStore` is opened for each piece of work, in a thread, and closed after it: so
nothing of it is in memory in between, and another process can use it. The work of one server comes
one after another; points by the clock are made of one server at a time, so no two of them read the
same disk, but one that takes long may go on beside others. Threads have the idle I/O class.

A server that is held by an installation, a restore or a transfer gets no point, and a hold that
begins cancels the point that is being made. One that is off, and unchanged, is looked at each
hour.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext, suppress
from enum import Enum
from functools import partial
from math import ceil
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from wingsd.archive.quota import ArchiveLimits, kept_free, require_free_space
from wingsd.config import DEFAULT_HISTORIES, POINTS, HistoryTerms
from wingsd.errors import (
    Conflict,
    DaemonStopping,
    EnvironmentFailed,
    FileMissing,
    FileWorkCancelled,
    HistoryDamaged,
    HistoryFull,
    HistoryVersionUnknown,
    NoSuchPoint,
    PastInUse,
    PointNamed,
    ServerBusy,
    ServerNotFound,
    StorageError,
    WingsdError,
)
from wingsd.events import DELETED, STATUS, Event
from wingsd.files.tasks import Lane
from wingsd.filesystem.removal import remove_tree
from wingsd.filesystem.root import ServerRoot
from wingsd.histories import HistoriesOnDemand, require_directory
from wingsd.histories.past import HistoryPast, OpenCopies, past_errors
from wingsd.history.capture import HistorySource
from wingsd.history.format import Point, PointLabel
from wingsd.history.names import PointName
from wingsd.history.rebuilding import EVERYTHING_DAMAGED
from wingsd.history.store import HistoryStore
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import Hold, Operation, refusal
from wingsd.servers.power_states import PowerState
from wingsd.servers.server import Server
from wingsd.statedb import HISTORY, ArrivingBackup, ArrivingState, LeftBackup
from wingsd.threadio import Workers, relayed
from wingsd.util.deferreds import Changes, failure_logger, fires_within, when_fired
from wingsd.util.durable import storage_errors, sync_directory, time_stamp
from wingsd.util.reactor import Periodic
from wingsd.util.text import display_all

T = TypeVar("T")
Paths = Sequence[bytes]

_SECOND = 1_000_000_000
_HOUR, _DAY = 3600.0, 24 * 3600.0
#: Seconds between two looks at a server that is off, and had not changed at the last one.
QUIET_PAUSE = _HOUR
#: Seconds until a server is looked at again that is held, or whose point was cancelled.
HELD_PAUSE = 30.0
#: Seconds after its stop until a point is made of a server, and between two points at least then.
STOPPED_PAUSE, LEAST_PAUSE = 5.0, 60.0
#: Seconds after which new servers are noticed.
NOTICED_WITHIN = 60.0
#: Seconds after which a look goes on beside those at other servers, and a second one does.
LONG_AFTER = (60.0, 600.0)
#: A history is late that was not brought up to date for twice its pause, and so many seconds.
LATE_AFTER = 600.0
#: Points that are removed at a look, so that a wrong clock does not take all of them at once: each
#: look makes one.
THINNED = 4
#: Seconds for which users wait for a history that is in use: less than a Panel waits, 15.
WAIT_WITHIN = 10.0
#: Seconds that threads have to end at the end of the daemon.
STOP_WITHIN = 3.0
_REMOVING = ".removing-"


@attrs.frozen
class PointInfo:
    """A point, with the bytes that its delta takes, its damaged files, and its names.

    `stored` is None for the newest point, which is the copy. `damaged` is `EVERYTHING_DAMAGED`
    where no file of it can be used. The names are those of backups.
    """

    point: Point
    stored: int | None
    damaged: tuple[bytes, ...]
    names: tuple[str, ...]


@attrs.define(eq=False)
class HistoryState:
    """The figures of a server's history, empty before it was looked at.

    Times are Unix time. `newest` is that of the newest point, `looked` when the history was last
    as the server. `names` is how many backups are points of it. `seconds`, `cpu_seconds` and
    `unsettled` are those of the last look; `lost` are the unsettled files that the server's disk
    has lost a part of. `trouble` is why the history does not advance, empty where it does.
    """

    newest: float | None = None
    looked: float | None = None
    points: int = 0
    names: int = 0
    bytes: int = 0
    damaged: int = 0
    unreadable: Sequence[int] = ()
    unsettled: Paths = ()
    lost: Paths = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    trouble: str = ""


class TaskKind(Enum):
    """The kinds of work on a history that operators order."""

    MAKE = "make"
    DELETE = "delete"
    VERIFY = "verify"


@attrs.define(eq=False)
class HistoryTask:
    """Work on a history that an operator has ordered, and how it has ended.

    `point` is the point that was made, None where nothing had changed. `damaged` are the damaged
    files by the numbers of points.
    """

    kind: TaskKind
    is_over: bool = False
    error: Exception | None = None
    point: Point | None = None
    damaged: Mapping[int, tuple[bytes, ...]] = attrs.field(factory=dict)


@attrs.frozen
class HistoryTotals:
    """The figures of all histories of which points are made.

    `oldest` is when the one that was not brought up to date for longest was last as its server,
    None where none was. `late` and `failing` are how many do not advance.
    """

    count: int
    late: int
    failing: int
    damaged: int
    points: int
    bytes: int
    oldest: float | None


@attrs.define(eq=False, repr=False)
class _Work:
    """A piece of work with a server's store, in a thread, or before that in its turn."""

    #: Whether no program of the server ran at its beginning, and whether one has run since.
    is_off: bool = False
    has_run: bool = False
    is_cancelled: bool = False
    #: Until when it may wait to read files for users, by the reactor's clock; None for all else.
    until: float | None = None
    #: Whether it verifies the history. No user waits for that.
    is_check: bool = False
    #: Whether it is done later as well: the clock makes a point, or a point is removed.
    is_repeated: bool = False
    #: Whether points that are kept no longer are removed after one was made.
    thins: bool = True
    #: When its turn began, by the reactor's clock.
    began: float | None = None
    store: HistoryStore | None = None
    #: Fires at the end of its turn.
    result: Deferred[Any] = attrs.field(factory=Deferred)
    #: Taken by the thread that begins it, or by who ends it before that.
    _beginning: Lock = attrs.field(factory=Lock)

    @property
    def reads(self) -> bool:
        """True if it reads files for users. That neither waits for long, nor delays points."""
        return self.until is not None

    def label(self) -> PointLabel:
        """Return the label of a point that is made now."""
        return PointLabel.STOPPED if self.is_off and not self.has_run else PointLabel.RUNNING

    def cancel(self) -> None:
        """Let it end soon, by FileWorkCancelled. It does not wait for a thread any more."""
        self.is_cancelled = True
        store = self.store
        if store is not None:
            store.stop()
        self.give_up(FileWorkCancelled())

    def give_up(self, error: WingsdError) -> None:
        """End its turn by an error, unless that has not come yet or a thread has begun it."""
        if self.began is not None and self.begins():
            self.result.errback(error)

    def begins(self) -> bool:
        """Return whether it is begun by this call, as it was neither begun nor ended before."""
        return self._beginning.acquire(blocking=False)

    def opened(self, store: HistoryStore) -> None:
        """Note the store. In the thread."""
        self.store = store
        if self.is_cancelled:
            store.stop()


@attrs.define(eq=False, repr=False)
class _History:
    """One server's history: what is known of it, and when it is looked at next."""

    uuid: str
    #: By the reactor's clock, as `advanced`, when it was last as the server, or could not be.
    due: float
    advanced: float
    state: HistoryState = attrs.field(factory=HistoryState)
    lock: DeferredLock = attrs.field(factory=DeferredLock)
    #: What is done with it, or waits for its turn.
    works: list[_Work] = attrs.field(factory=list)
    #: Points that have lost a name, and are removed where nothing else keeps them.
    unnamed: list[int] = attrs.field(factory=list)
    server: Server | None = None
    #: Whether its points were read since the daemon's start.
    is_known: bool = False
    #: Seconds until the look that is planned.
    pause: float = 0.0
    last_point: float | None = None
    verified: float | None = None
    #: Why all of its files are read, as it was last logged.
    reading: str = ""

    def cancel(self, is_meant: Callable[[_Work], bool]) -> None:
        """Cancel some of its works."""
        # The last first: none may begin because another has freed its turn.
        for work in filter(is_meant, self.works[::-1]):
            work.cancel()


class Histories:
    """The histories of a node's servers, as `system.history` configures them."""

    _log = Logger()

    def __init__(self, parts: HistoriesOnDemand) -> None:
        self._parts = parts
        self._servers = parts.servers
        self._reactor = parts.reactor
        self._histories: dict[str, _History] = {}
        self._changes = Changes()
        self._running: Deferred[None] | None = None
        #: Looks that take long, at disks that may not answer any more.
        self._long: list[Deferred[None]] = []
        self._is_stopping = False
        self._is_measured = False
        self._checking = Periodic(parts.reactor, self._check_some)
        self._random = Random()  # noqa: S311 - nothing is to be kept secret
        self._tasks = BackgroundTasks()
        self._tasks_of: dict[str, HistoryTask] = {}
        #: Points that neither `keep` nor `max_size` removes, by server.
        self.pinned: dict[str, set[int]] = {}
        #: The least number of a server's next point.
        self.least: dict[str, int] = {}
        #: Of servers whose histories arrive, the numbers above which the oldest points stay: other
        #: points go before these. Read by threads.
        self.floors: dict[str, frozenset[int]] = {}
        #: Copies of files that users read, or download with a backup.
        self.copies = OpenCopies()
        #: How many points were made, and the seconds and those of CPU that all looks took.
        self.made = 0
        self.seconds = self.cpu_seconds = 0.0
        parts.bus.subscribe_to_all(self._note)

    # Start and end

    def start(self) -> None:
        """Begin to make points, and to verify histories. The servers are loaded."""
        if self._running is not None or self._is_stopping:
            return
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(failure_logger(self._log, "no more points are made"))
        self._checking.start(_HOUR, now=False)
        clearing = self._parts.workers.run(self._clear)
        clearing.addErrback(failure_logger(self._log, "removed histories are not deleted"))
        looking = self._parts.disk.run(self._is_on_the_same_disk)
        looking.addCallback(self._warn)
        looking.addErrback(failure_logger(self._log, "the disk of histories is not known"))

    def _warn(self, is_on_the_same_disk: bool) -> None:
        if is_on_the_same_disk:
            has_backups = self._parts.config.system.backups.wings.kind == POINTS
            self._log.warn(
                "{directory} (system.history.directory) is on the file system of system.data: one "
                "disk that fails takes the servers and their histories{backups}",
                directory=self.directory,
                backups=" and backups" if has_backups else "",
            )

    def changed(self) -> None:
        """Go on with a changed configuration."""
        now = self._reactor.seconds()
        for history in self._histories.values():
            history.due = min(history.due, now + self._terms(history.uuid).every)
            self._show(history)
        self._changes.changed()

    async def stop(self) -> None:
        """End what is under way, within some seconds."""
        self._is_stopping = True
        self._checking.stop()
        self._tasks.stop()
        for history in tuple(self._histories.values()):
            history.cancel(lambda work: True)
        if self._running is not None:
            self._running.cancel()
        turns = [each.lock.run(lambda: None) for each in self._histories.values()]
        ending = DeferredList(turns)
        if not await fires_within(ending, STOP_WITHIN, self._reactor):
            self._log.warn(
                "the disk of histories does not answer: the point that is being made is undone at "
                "the next start"
            )

    # What others use

    @property
    def directory(self) -> str:
        """The directory of all histories."""
        return self._parts.config.system.history.directory

    def path(self, uuid: str) -> str:
        """Return the directory of a server's history."""
        return os.path.join(self.directory, uuid)

    def makes_points(self, uuid: str) -> bool:
        """Return whether points of a server are made by the clock."""
        return self._terms(uuid).every > 0

    async def has(self, uuid: str) -> bool:
        """Return whether there is a history of a server. Raises StorageError if not known."""
        return await self._parts.has(uuid)

    def state(self, uuid: str) -> HistoryState | None:
        """Return what is known of a server's history, None where nothing is."""
        history = self._histories.get(uuid)
        return None if history is None else history.state

    def unsettled(self, uuid: str) -> tuple[Paths, Paths]:
        """Return the files that `make` has found unsettled the last time.

        First come those that are written all the time, then those that cannot be read.
        """
        state = self._of(uuid).state
        lost = frozenset(state.lost)
        return [path for path in state.unsettled if path not in lost], state.lost

    def states(self) -> Mapping[str, HistoryState]:
        """Return what is known of the histories of servers of which points are made.

        By the clock, or as backups.
        """
        known = self._histories.values()
        return {each.uuid: each.state for each in known if self._is_used(each)}

    def busy(self, uuid: str) -> float | None:
        """Return for how many seconds a server's history is in use; None where it is not."""
        history = self._histories.get(uuid)
        began = [] if history is None else [each.began for each in history.works]
        since = min((each for each in began if each is not None), default=None)
        return None if since is None else self._reactor.seconds() - since

    def is_late(self, uuid: str) -> bool:
        """Return whether a server's history should have advanced, and has not."""
        history = self._histories.get(uuid)
        if history is None or not self._is_on(history):
            return False
        late = 2 * max(history.pause, self._terms(uuid).every) + LATE_AFTER
        return self._reactor.seconds() - history.advanced > late

    def totals(self) -> HistoryTotals:
        """Return the figures of all histories of which points are made."""
        found = self.states()
        looked = [each.looked for each in found.values() if each.looked is not None]
        return HistoryTotals(
            count=len(found),
            late=sum(map(self.is_late, found)),
            failing=sum(each.trouble != "" for each in found.values()),
            damaged=sum(each.damaged > 0 for each in found.values()),
            points=sum(each.points for each in found.values()),
            bytes=sum(each.bytes for each in found.values()),
            oldest=min(looked, default=None),
        )

    async def use(
        self, uuid: str, work: Callable[[HistoryStore], T], workers: Workers | None = None
    ) -> T:
        """Do some work with the store of a server's history, in the turn of that server.

        It runs in the idle threads, or in those of `workers`. The history is made if there is
        none. Cancelled, it ends soon, by FileWorkCancelled in the thread. Raises StorageError,
        DaemonStopping, and what the work raises.
        """
        return await self._in_turn(self._of(uuid), _Work(), lambda _, store: work(store), workers)

    def interrupt(self, uuid: str, *, only_checks: bool = False) -> None:
        """Let what is done with a history, or waits for that, end soon by FileWorkCancelled.

        A server is not off, or a user kept waiting, for hours while it is verified.
        """
        self._of(uuid).cancel(lambda work: work.is_check or not only_checks)

    async def _in_turn(
        self,
        history: _History,
        doing: _Work,
        work: Callable[[_Work, HistoryStore], T],
        workers: Workers | None = None,
    ) -> T:
        workers = workers or self._parts.workers
        history.works.append(doing)
        turn = history.lock.acquire()
        if doing.until is not None:
            turn.addTimeout(max(doing.until - self._reactor.seconds(), 0), self._reactor)
        try:
            await turn
        except (CancelledError, DeferredTimeout) as error:
            history.works.remove(doing)
            if isinstance(error, DeferredTimeout):
                raise PastInUse from error
            raise
        outcome: Deferred[T] = Deferred()
        doing.began = self._reactor.seconds()
        # The turn ends with the thread, also where its outcome is not waited for any more.
        result = doing.result
        result.addBoth(self._over, history, doing)
        result.addBoth(outcome.callback)
        if doing.is_cancelled:
            doing.cancel()
        else:
            running = workers.run(self._with_store, history, doing, work)
            running.addBoth(lambda found: None if result.called else result.callback(found))
        if doing.until is not None and not result.called:
            # It does not keep the history from others while all threads are in use.
            left = max(doing.until - self._reactor.seconds(), 1.0)
            self._reactor.callLater(left, doing.give_up, PastInUse())
        try:
            return await outcome
        except CancelledError:
            doing.cancel()
            raise

    def _over(self, found: Any, history: _History, doing: _Work) -> Any:
        history.works.remove(doing)
        history.lock.release()
        self._show(history)
        return found

    def _show(self, history: _History) -> None:
        """Show the points of a server to its users, or show no past."""
        if self._servers.knows(history.uuid):
            files = self._servers.get(history.uuid).files
            files.has_past = self._parts.takes(history.uuid) and history.state.points > 0

    async def read(
        self,
        server: Server,
        lane: Lane,
        work: Callable[[ServerRoot], T],
        *,
        writes: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> T:
        """Call `work` with the directory of a server and its past, in a thread of a lane.

        It has its turn in the lane and in the history. Raises PastInUse where it would wait for
        long; what `writes` goes on behind its answer, and waits for the lane as others do. Raises
        what the work raises, `FilesBusy`, and StorageError.
        """
        history = self._of(server.uuid)

        def read(_: _Work, store: HistoryStore) -> T:
            owner = self._parts.config.system.user
            reserve = ArchiveLimits.configured(self._parts.config.system.transfers).reserve
            ids = (owner.uid, owner.gid)
            with HistoryPast(store, ids, reserve, cancelled, self.copies) as past:
                return server.files.with_root(work, past)

        async with AsyncExitStack() as stack:
            began = self._reactor.seconds()
            turn = Deferred.fromCoroutine(stack.enter_async_context(lane.turn(server.uuid)))
            if not writes:
                turn.addTimeout(WAIT_WITHIN, self._reactor)
            try:
                await turn
            except DeferredTimeout as error:
                raise PastInUse from error
            await stack.enter_async_context(server.files.counting(writes=writes))
            until = (self._reactor.seconds() if writes else began) + WAIT_WITHIN
            return await self._in_turn(history, _Work(until=until), read, lane.workers)

    async def make(
        self,
        server: Server,
        label: PointLabel | None = None,
        workers: Workers | None = None,
        then: Callable[[HistoryStore], object] = lambda store: None,
        *,
        is_repeated: bool = False,
        thins: bool = True,
    ) -> Point | None:
        """Make a point of a server's files now; return None where nothing has changed.

        Its label is `stopped` where no program of the server runs during the whole of it; with a
        `label` the caller knows at the beginning. It is made in the idle threads, or in those of
        `workers`, and `then` is called before another point is made or removed. One that
        `is_repeated` gives way to users. Unless it `thins`, no older points are removed, which
        takes time. Raises StorageError, FileWorkCancelled where something else takes the server's
        files, and DaemonStopping.
        """
        history = self._of(server.uuid)
        work = _Work(is_repeated=is_repeated, thins=thins)
        with server.operations.during(Operation.POINT, work.cancel):
            if label is None:
                work.is_off = await self._is_off(server)
            else:
                work.is_off = label is PointLabel.STOPPED
            await self._measure()
            began = self._reactor.seconds()
            history.server = server
            # Points that are backups, and get their names when these follow.
            coming = await self._parts.database.coming(server.uuid)
            awaited = {each.newest for each in coming if each.is_point}
            make = partial(self._make, history, server.directory, then, awaited)
            found = await self._in_turn(history, work, make, workers)
        now = self._reactor.seconds()
        state = history.state
        if state.trouble:
            self._log.info("{server}: its history goes on", server=server.uuid)
        state.seconds, state.looked, state.trouble = now - began, self._parts.now(), ""
        self.seconds += state.seconds
        self.cpu_seconds += state.cpu_seconds
        history.advanced, history.is_known = now, True
        if found is not None:
            if server.uuid in self.pinned and state.points == 1 and not state.unreadable:
                await self._forget_undo(server.uuid)
            self.made += 1
            history.last_point = now
        return found

    async def points(self, uuid: str) -> list[PointInfo]:
        """Return the points of a server's history, the newest first; none without a history."""
        if not await self.has(uuid):
            return []
        return await self.use(uuid, _listed)

    async def verify(self, uuid: str) -> Mapping[int, tuple[bytes, ...]]:
        """Read all of a history; return the damaged files by the numbers of points.

        Raises NoSuchPoint where there is none, and StorageError.
        """
        if not await self.has(uuid):
            raise NoSuchPoint(f"{uuid} has no history on this node")
        history = self._of(uuid)
        work = _Work(is_check=True)
        found = await self._in_turn(history, work, lambda _, store: store.verify())
        history.verified = self._reactor.seconds()
        for number, files in sorted(found.items()):
            self._log.error(
                "{server}: point {number} of its history is DAMAGED: {files}",
                server=uuid,
                number=number,
                files="all of it" if files == EVERYTHING_DAMAGED else display_all(files),
            )
        return found

    async def delete(self, uuid: str, number: int) -> None:
        """Remove a point but the newest. Raises NoSuchPoint, PointNamed and StorageError."""
        if not await self.has(uuid):
            raise NoSuchPoint(f"{uuid} has no history on this node")

        def remove(store: HistoryStore) -> int:
            store.remove(number)
            return store.size

        self._of(uuid).state.bytes = await self.use(uuid, remove)

    async def unname(self, uuid: str, name: str, workers: Workers) -> bool:
        """Remove a name; return whether it was there. It is gone only if this does not fail.

        Its point goes afterwards, where nothing else keeps that, and with its last name the
        history of a server that is not here. Raises StorageError, and ServerBusy where it would
        wait for long.
        """
        if name not in await self._parts.names(uuid):
            return False
        history, doing, deciding = self._of(uuid), _Work(), Lock()
        history.cancel(lambda work: work.is_check or work.is_repeated)

        def unname(_: _Work, store: HistoryStore) -> PointName | None:
            if not deciding.acquire(blocking=False):
                raise FileWorkCancelled
            return store.unname(name)

        unnaming = Deferred.fromCoroutine(self._in_turn(history, doing, unname, workers))
        is_late = not await fires_within(unnaming, WAIT_WITHIN, self._reactor)
        if is_late and deciding.acquire(blocking=False):
            unnaming.cancel()
        try:
            found = await unnaming
        except (CancelledError, FileWorkCancelled) as error:
            raise ServerBusy(
                "the server's history is in use", "delete the backup again in a minute"
            ) from error
        if found is None:
            return False
        history.unnamed.append(found.number)
        if not self._is_stopping:
            self._tasks.start("removing the point of a backup", self._drop_unnamed(history), uuid)
        return True

    async def _drop_unnamed(self, history: _History) -> None:
        """Remove the points that have lost their names. `thin` removes those that stay."""
        uuid = history.uuid
        is_loaded = self._running is not None
        if is_loaded and not self._servers.knows(uuid) and not await self._parts.names(uuid):
            await self.forget(uuid)
            return
        # The next node may have the newest of these points, and get the older ones by it.
        if await self._parts.database.histories_left(uuid):
            return
        terms = self._terms(uuid)
        keep, now = terms.keep if terms.every else {}, int(self._parts.now() * _SECOND)

        log = relayed(self._reactor, partial(self._say, uuid))

        def drop(_: _Work, store: HistoryStore) -> None:
            store.pinned = self.pinned.get(uuid, ())
            while history.unnamed:
                number = history.unnamed[0]
                try:
                    store.drop(number, keep, now)
                except StorageError as error:
                    log(f"point {number} of the history is removed later: {error}")
                history.unnamed.pop(0)

        # The next deletion goes on with it.
        with suppress(FileWorkCancelled, DaemonStopping):
            await self._in_turn(history, _Work(is_repeated=True), drop)

    async def forget(self, uuid: str) -> None:
        """Remove the history of a server that was deleted here.

        It stays as long as it follows its server, or has backups.
        """
        database = self._parts.database
        if await database.histories_left(uuid):
            return
        await database.end_coming(ArrivingState.DELETED, HISTORY, uuid)
        try:
            has_backups = bool(await self._parts.names(uuid))
        except (HistoryDamaged, HistoryVersionUnknown) as error:
            has_backups = True
            self._log.error("{server}: its history stays here: {error}", server=uuid, error=error)
        if not has_backups:
            await self.remove(uuid)

    def note_coming(self, coming: ArrivingBackup) -> None:
        """Note that a history is to come, or was: points that are made have higher numbers."""
        least = self.least.get(coming.server, 1)
        self.least[coming.server] = max(least, coming.newest + 1)
        if coming.state is ArrivingState.COMING:
            known = self.floors.get(coming.server, frozenset())
            self.floors[coming.server] = known | {coming.floor}

    def note_come(self, coming: ArrivingBackup) -> None:
        """Note that no more of a history is to come."""
        known = self.floors.get(coming.server, frozenset())
        self.floors[coming.server] = known - {coming.floor}

    async def remove(
        self, uuid: str, left: LeftBackup | None = None, followed: Collection[str] = ()
    ) -> None:
        """Remove a server's history with all its points. Raises StorageError.

        One that the server has `left` here only if the server is not coming back, and has no
        backups but those that have `followed` the server.
        """
        history = self._of(uuid)
        self.interrupt(uuid)
        async with history.lock:
            # Not later than this, and at once: a server that comes back counts on its points.
            if left is not None and not await self._parts.database.is_being_removed(left):
                return
            if left is not None and not (await self._parts.names(uuid)).keys() <= set(followed):
                self._log.warn(
                    "{server}: its history stays here, since it has backups of the server",
                    server=uuid,
                )
                return
            await self._parts.disk.run(self._put_aside, uuid)
            await self._forget_undo(uuid)
            await self._parts.workers.run(self._remove_aside, uuid)
        self._drop(history)
        self._show(history)
        self._log.info("{server}: its history is removed", server=uuid)

    async def _forget_undo(self, uuid: str) -> None:
        """Undo no rewind: a point of a new history may get the number of the one that is kept."""
        await self._parts.database.set_undo(uuid, None)
        self.pinned.pop(uuid, None)

    # What operators order

    def task(self, uuid: str) -> HistoryTask | None:
        """Return what was last ordered for a server's history, None where nothing was."""
        return self._tasks_of.get(uuid)

    def begin_make(self, server: Server) -> HistoryTask:
        """Begin to make a point, or join that. Raises ServerBusy where the server is held."""
        hold = server.operations.hold
        if hold is not None and _is_held(server):
            raise ServerBusy(refusal(hold.operation, Operation.POINT), hold.why)

        async def make(task: HistoryTask) -> None:
            task.point = await self.make(server)

        return self._begin(server.uuid, TaskKind.MAKE, make)

    def begin_delete(self, uuid: str, number: int | None) -> HistoryTask:
        """Begin to remove a point, or with None the whole history.

        Raises ServerBusy where the server is rewound, and Conflict for a point that is kept: its
        rewind could not be undone.
        """
        self._check_not_restoring(uuid)
        if number in self.pinned.get(uuid, ()):
            raise Conflict(
                f"point {number} is kept for a week to undo the last rewind of this server",
                "to remove the whole history at once, use `wingsctl history delete UUID --all`",
            )

        async def delete(_: HistoryTask) -> None:
            if number is not None:
                await self.delete(uuid, number)
                return
            await self.remove(uuid)
            with suppress(WingsdError):  # its server is not here
                text = "The server's history was removed by an operator of this node."
                self._servers.get(uuid).explain("history.removed", text)

        return self._begin(uuid, TaskKind.DELETE, delete)

    def begin_verify(self, uuid: str) -> HistoryTask:
        """Begin to verify a history, or join that. Raises ServerBusy where it is rewound."""
        self._check_not_restoring(uuid)

        async def verify(task: HistoryTask) -> None:
            task.damaged = await self.verify(uuid)

        return self._begin(uuid, TaskKind.VERIFY, verify)

    def _begin(
        self,
        uuid: str,
        kind: TaskKind,
        work: Callable[[HistoryTask], Coroutine[Any, Any, None]],
    ) -> HistoryTask:
        if self._is_stopping:
            raise DaemonStopping
        known = self._tasks_of.get(uuid)
        if known is not None and not known.is_over:
            if known.kind is kind and kind is not TaskKind.DELETE:
                return known
            raise ServerBusy(
                f"`wingsctl history {known.kind.value}` of this server is under way",
                "try again when it is over",
            )
        task = self._tasks_of[uuid] = HistoryTask(kind)
        self._tasks.start(f"history {kind.value}", self._ordered(task, work), uuid)
        return task

    async def _ordered(
        self, task: HistoryTask, work: Callable[[HistoryTask], Coroutine[Any, Any, None]]
    ) -> None:
        try:
            await work(task)
        except Exception as error:
            task.error = error
            if not isinstance(error, (NoSuchPoint, PointNamed)):
                raise
        finally:
            task.is_over = True

    # The clock

    async def _run(self) -> None:
        # Users need not wait for the points of others to see their own.
        for server in tuple(self._servers.all()):
            history = self._of(server.uuid)
            if self._parts.takes(server.uuid) and not history.works:
                with suppress(WingsdError):
                    self._plan(history, await self._left(history))
        while True:
            self._notice()
            now = self._reactor.seconds()
            waiting = [each for each in self._histories.values() if self._is_on(each)]
            first = min(waiting, key=lambda each: each.due, default=None)
            if first is not None and first.due <= now:
                await self._begin_look(first)
                continue
            pause = NOTICED_WITHIN if first is None else min(first.due - now, NOTICED_WITHIN)
            with suppress(DeferredTimeout):
                await self._changes.next().addTimeout(pause, self._reactor)

    async def _begin_look(self, history: _History) -> None:
        """Make the point that is due; one that takes long goes on beside the next ones."""
        looking = Deferred.fromCoroutine(self._attempt(history))
        looking.addErrback(failure_logger(self._log, "a point was not made"))
        self._long = [each for each in self._long if not each.called]
        if len(self._long) == len(LONG_AFTER):
            await when_fired(looking)
        elif not await fires_within(looking, LONG_AFTER[len(self._long)], self._reactor):
            self._long.append(looking)

    def _notice(self) -> None:
        """Note new servers."""
        for server in self._servers.all():
            if self._terms(server.uuid).every:
                self._of(server.uuid).server = server

    async def _attempt(self, history: _History) -> None:
        """Make the point that is due, and plan the next one."""
        began, every = self._reactor.seconds(), self._terms(history.uuid).every
        try:
            server = self._servers.get(history.uuid)
        except ServerNotFound:
            self._drop(history)
            return
        if _is_held(server):
            history.advanced = began
        if _is_held(server) or not all(each.reads for each in history.works):
            # Other servers do not wait for what is long with this one.
            self._plan(history, HELD_PAUSE)
            return
        try:
            pause = await self._look(history, server, every)
        except FileWorkCancelled:
            pause = HELD_PAUSE
        except CancelledError:
            raise
        except Exception as error:
            self.note_failure(server, error)
            pause = max(float(every), HELD_PAUSE)
        self._plan(history, pause)

    async def _look(self, history: _History, server: Server, every: int) -> float:
        """Make the point that is due; return the seconds until the next one."""
        if not history.is_known and (left := await self._left(history)) > 0:
            return left
        began = self._reactor.seconds()
        found = await self.make(server, is_repeated=True)
        took = self._reactor.seconds() - began
        pause = max(every - took, took)
        is_quiet = found is None and server.state is PowerState.OFFLINE
        return max(pause, QUIET_PAUSE) if is_quiet else pause

    def _plan(self, history: _History, pause: float) -> None:
        history.pause = pause
        history.due = self._reactor.seconds() + pause

    async def _left(self, history: _History) -> float:
        """Read what there is of a history; return the seconds until its next point is due."""
        if not await self.has(history.uuid):
            return 0.0
        history.state.bytes = await self.use(history.uuid, lambda store: store.size)
        history.is_known = True
        newest, every = history.state.newest, self._terms(history.uuid).every
        if newest is None:
            return 0.0
        # Not more than usual, where the clock was set back.
        return min(newest + every - self._parts.now(), float(every))

    def _note(self, event: Event) -> None:
        if event.name not in (DELETED, STATUS):
            return
        history = self._histories.get(event.server)
        if history is None:
            return
        now = self._reactor.seconds()
        if event.name == DELETED:
            if history.server is not None and not history.server.disowned:
                removing = self.forget(event.server)
                self._tasks.start("removing its history", removing, event.server)
        elif event.args[0] == PowerState.OFFLINE.value:
            since = LEAST_PAUSE if history.last_point is None else now - history.last_point
            history.due = min(history.due, now + max(STOPPED_PAUSE, LEAST_PAUSE - since))
            self._changes.changed()
        else:
            for work in history.works:
                work.has_run = True
            history.due = min(history.due, now + self._terms(event.server).every)

    def note_failure(self, server: Server, error: Exception) -> None:
        """Note why no point was made, and say so once."""
        state, is_known = self._of(server.uuid).state, isinstance(error, WingsdError)
        text = str(error) if is_known else "an unexpected error; see the node's log"
        known, state.trouble = state.trouble, text
        if not is_known:
            self._log.failure("{server}: no point of its history was made", server=server.uuid)
        elif text != known:
            self._log.error(
                "{server}: no point of its history was made: {error}",
                server=server.uuid,
                error=text,
            )
        if not known:
            entry = "history.full" if isinstance(error, HistoryFull) else "history.failed"
            server.explain(entry, f"No point of the server's history could be made: {text}")

    # Verification

    def _check_some(self) -> Deferred[None]:
        checking = Deferred.fromCoroutine(self._check())
        return checking.addErrback(failure_logger(self._log, "histories are not verified"))

    async def _check(self) -> None:
        days = self._parts.config.system.history.check_interval
        if not days:
            return
        now, interval = self._reactor.seconds(), days * _DAY
        known = [each for each in self._histories.values() if self._is_used(each)]
        known = [each for each in known if each.is_known]
        due = [each for each in known if self._restoring(each.uuid) is None]
        due = [each for each in due if each.verified is None or now - each.verified >= interval]
        # By chance, so that each has its turn, however often the daemon is restarted.
        count = min(len(due), ceil(len(known) * _HOUR / interval))
        for history in self._random.sample(due, count):
            if self._restoring(history.uuid) is not None:  # since then
                continue
            try:
                await self.verify(history.uuid)
            except (FileWorkCancelled, NoSuchPoint):  # its first point is still to be made
                continue
            except DaemonStopping:
                return
            except StorageError as error:
                history.verified = now
                self._log.error(
                    "{server}: its history is not verified: {error}",
                    server=history.uuid,
                    error=error,
                )

    # What is known

    def _of(self, uuid: str) -> _History:
        history = self._histories.get(uuid)
        if history is None:
            now = self._reactor.seconds()
            history = self._histories[uuid] = _History(uuid, now, now)
        return history

    def _drop(self, history: _History) -> None:
        """Forget what is known of a history. Who waits for its turn goes on with the same lock."""
        history.state, history.is_known = HistoryState(), False
        if not history.lock.locked:
            self._histories.pop(history.uuid, None)

    def _terms(self, uuid: str) -> HistoryTerms:
        return self._parts.config.system.history.terms(uuid)

    def _is_used(self, history: _History) -> bool:
        """Return whether points are made of a server of this node, by the clock or as backups."""
        state = history.state
        is_for_backups = state.names > 0 or state.trouble != ""
        return self._is_on(history) or (is_for_backups and self._servers.knows(history.uuid))

    def _is_on(self, history: _History) -> bool:
        return self._terms(history.uuid).every > 0 and self._servers.knows(history.uuid)

    def _restoring(self, uuid: str) -> Hold | None:
        """Return the hold of a server that is restored or rewound."""
        hold = self._servers.get(uuid).operations.hold if self._servers.knows(uuid) else None
        return hold if hold is not None and hold.operation is Operation.RESTORE else None

    def _check_not_restoring(self, uuid: str) -> None:
        if (hold := self._restoring(uuid)) is not None:
            raise ServerBusy(refusal(hold.operation, Operation.POINT), hold.why)

    async def _is_off(self, server: Server) -> bool:
        """Return whether no program of a server runs, as far as that is sure."""
        if server.state is not PowerState.OFFLINE or server.operations.starts:
            return False
        try:
            await server.adopt()
        except EnvironmentFailed:  # it has not said whether one runs
            return False
        return server.state is PowerState.OFFLINE and not server.operations.starts

    async def _measure(self) -> None:
        """Find out once whether the servers' file system shows changes of files."""
        if not self._is_measured:
            self._is_measured = True
            parts = self._parts
            await parts.workers.run(parts.file_systems.measure_in, parts.scratch())

    # In a thread

    def _with_store(
        self, history: _History, doing: _Work, work: Callable[[_Work, HistoryStore], T]
    ) -> T:
        if not doing.begins():
            raise FileWorkCancelled
        if self._is_stopping:
            raise DaemonStopping
        log = relayed(self._reactor, partial(self._say, history.uuid))
        with past_errors() if doing.reads else nullcontext():
            self._require_directory()
            if doing.reads and not os.path.isdir(self.path(history.uuid)):
                raise FileMissing("the history was removed")
            store = HistoryStore(self.path(history.uuid), log)
        limits = ArchiveLimits.configured(self._parts.config.system.transfers)
        store.reserve, store.inode_reserve = limits.reserve, limits.inode_reserve
        try:
            doing.opened(store)
            found = work(doing, store)
            with suppress(StorageError):
                _learn(history.state, store)
            return found
        finally:
            doing.store = None
            store.close()

    def _make(
        self,
        history: _History,
        directory: str,
        then: Callable[[HistoryStore], object],
        awaited: Collection[int],
        doing: _Work,
        store: HistoryStore,
    ) -> Point | None:
        began = time.thread_time()
        store.max_size = self._max_size(history.uuid, store)
        store.pinned = {*self.pinned.get(history.uuid, ()), *awaited}
        log = relayed(self._reactor, partial(self._explain_reading, history))
        source = HistorySource(directory, self._parts.file_systems, log)
        # Of a server that runs, what has changed since would be read twice.
        source.shares_flushes = doing.is_off
        try:
            found = store.make(source, doing.label, self.least.get(history.uuid, 1))
        finally:
            source.close()
        history.state.unsettled = sorted(source.hot)
        history.state.lost = sorted(source.lost)
        then(store)
        if doing.thins:
            kept = set(store.pinned)
            for floor in self.floors.get(history.uuid, ()):
                above = [each.number for each in store.points() if each.number > floor]
                kept.update(above[-1:])
            store.pinned = kept
            now = int(self._parts.now() * _SECOND)
            store.thin(self._terms(history.uuid).keep, now, THINNED)
        history.state.bytes = store.size
        history.state.cpu_seconds = time.thread_time() - began
        return found

    def _max_size(self, uuid: str, store: HistoryStore) -> int:
        """Return the bytes that a history may take, so that the disk's reserve stays free.

        Copies that users have open take no space from points: they go soon. Raises StorageError
        where less than the reserve is free.
        """
        limits = ArchiveLimits.configured(self._parts.config.system.transfers)
        with storage_errors(f"{self.directory} cannot be read"):
            found = os.statvfs(self.directory)
        require_free_space(
            found, limits.reserve, "a point of its history", 0, limits.inode_reserve
        )
        free = found.f_bavail * found.f_frsize + self.copies.taken
        room = free - kept_free(found, limits.reserve)
        most = store.size + max(room, 0)
        given = self._terms(uuid).max_bytes
        return most if given is None else min(most, given)

    def _require_directory(self) -> None:
        directory = self.directory
        if directory in DEFAULT_HISTORIES:
            with storage_errors(f"{directory} cannot be made"):
                os.makedirs(directory, 0o700, exist_ok=True)
        require_directory(directory)

    def _put_aside(self, uuid: str) -> None:
        """Take a history from its place; what an earlier removal has left is removed with it."""
        path = self.path(uuid)
        with (
            storage_errors(f"the history in {path} cannot be removed"),
            suppress(FileNotFoundError),
        ):
            aside = Path(self.directory, f"{_REMOVING}{uuid}")
            aside.mkdir(mode=0o700, exist_ok=True)
            os.rename(path, aside / time_stamp())
            sync_directory(Path(self.directory))

    def _remove_aside(self, uuid: str) -> None:
        """Remove what was taken from its place: wholly, or that is done at the next attempt."""
        aside = os.path.join(self.directory, f"{_REMOVING}{uuid}")
        with storage_errors(f"{aside} cannot be removed"):
            remove_tree(aside)

    def _is_on_the_same_disk(self) -> bool:
        with suppress(OSError, StorageError):
            self._require_directory()
            data = self._parts.config.system.data
            return os.stat(self.directory).st_dev == os.stat(data).st_dev
        return False

    def _clear(self) -> None:
        """Delete what is left of removals that a kill has interrupted."""
        with suppress(OSError):  # there is no such directory yet, or the disk says so with a point
            for name in os.listdir(self.directory):
                if name.startswith(_REMOVING):
                    remove_tree(os.path.join(self.directory, name))

    def _say(self, uuid: str, line: str) -> None:
        self._log.info("{server}: history: {line}", server=uuid, line=line)

    def _explain_reading(self, history: _History, line: str) -> None:
        """Log why all files of a server are read, once for each reason."""
        if line != history.reading:
            history.reading = line
            self._say(history.uuid, line)


def _is_held(server: Server) -> bool:
    """Return whether another operation uses or replaces a server's files."""
    hold = server.operations.hold
    is_held = hold is not None and hold.operation not in (Operation.FOLLOW, Operation.ORDERED)
    return is_held or not server.files.exists


def _listed(store: HistoryStore) -> list[PointInfo]:
    found, names = store.points(), (store.names or {}).values()
    return [
        PointInfo(
            point,
            store.stored(point.number) if at else None,
            store.damaged.get(point.number, ()),
            tuple(each.name for each in names if each.number == point.number),
        )
        for at, point in enumerate(found)
    ]


def _learn(state: HistoryState, store: HistoryStore) -> None:
    """Note what there is in a history."""
    points = store.points()
    state.points, state.damaged = len(points), len(store.damaged)
    state.names = len(store.names or ())
    state.newest = points[0].time / _SECOND if points else None
    state.unreadable = sorted(store.damaged.keys() - {point.number for point in points})
