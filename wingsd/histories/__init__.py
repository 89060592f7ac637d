"""Histories of this node's servers: points made by the clock, listed, verified and removed.

`manager` has them all. It and `wingsd.history` are imported when the first history is used: a node
that makes none saves their memory.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from wingsd.config import DEFAULT_HISTORIES, POINTS, Config
from wingsd.errors import StorageError
from wingsd.events import EventBus
from wingsd.files.tasks import Lane
from wingsd.filesystem.root import ServerRoot
from wingsd.history.names import PointName, read_names
from wingsd.moves.unchanged import MeasuredFileSystems
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.statedb import HISTORY, ArrivingBackup, ArrivingState, StateDatabase
from wingsd.threadio import Workers
from wingsd.util.durable import storage_errors
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.histories.following import HistoryFigures
    from wingsd.histories.manager import Histories

P = ParamSpec("P")
T = TypeVar("T")

_DAY = 24 * 3600
ANSWERS_WITHIN = 10.0
"""Seconds after which a disk of histories counts as hanging: less than a Panel waits, 15."""

SILENT_DAYS = 30
"""Days for which the source of a history, or of backups, that are to come may be silent."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def _histories_in(directory: str) -> list[str]:
    with storage_errors(f"{directory} cannot be read"), suppress(FileNotFoundError):
        return sorted(filter(_UUID, os.listdir(directory)))
    return []


def require_directory(directory: str) -> None:
    """Check that the directory of histories is there, unless it is one that the daemon makes."""
    if directory not in DEFAULT_HISTORIES and not os.path.isdir(directory):
        raise StorageError(
            f"{directory} (system.history.directory) does not exist: mount its file system, "
            "or make the directory"
        )


def _changed(path: str) -> float:
    """Return when the newest point of a history was made (Unix time), 0 without one."""
    with suppress(OSError):
        return os.stat(os.path.join(path, "catalogue")).st_mtime
    return 0.0


def _has(directory: str, server: str) -> bool:
    path = os.path.join(directory, server)
    with storage_errors(f"{path} cannot be read"):
        try:
            return stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError:
            require_directory(directory)
            return False


def _names(directory: str, server: str) -> dict[str, PointName]:
    return read_names(os.path.join(directory, server)) if _has(directory, server) else {}


class PastLane(Lane):
    """A lane whose work reads the past of its server, in the turn of that server's history.

    It ends when `cancelled` says so.
    """

    def __init__(
        self, lane: Lane, histories: HistoriesOnDemand, cancelled: Callable[[], bool]
    ) -> None:
        self.workers = lane.workers
        self._lane = lane
        self._histories = histories
        self._cancelled = cancelled

    @asynccontextmanager
    async def turn(self, server: str) -> AsyncIterator[None]:
        """Wait for a turn of a server, beside its other work. Raises `FilesBusy`."""
        async with self._lane.turn(server):
            yield

    async def run(
        self, server: Server, work: Callable[[ServerRoot], T], *, writes: bool = False
    ) -> T:
        """Call `work` with the open directory of a server, which has its past."""
        reading: Histories = self._histories.get()
        return await reading.read(
            server, self._lane, work, writes=writes, cancelled=self._cancelled
        )


@attrs.define(eq=False, repr=False, slots=False)
class HistoriesOnDemand:
    """The node's `Histories`, made at its first use, and what they are made of.

    `workers` read and write histories; `disk` are for short work on their disk, and for nothing
    else: it may hang, as NFS does. `scratch` returns a directory on the file system of the
    servers, in which this is measured. `now` returns the seconds since the epoch.
    """

    _log = Logger()

    config: Config
    servers: Servers
    database: StateDatabase
    bus: EventBus
    file_systems: MeasuredFileSystems
    scratch: Callable[[], str]
    workers: Workers
    disk: Workers
    reactor: Reactor
    now: Callable[[], float]
    #: None as long as no history was used.
    made: Histories | None = attrs.field(default=None, init=False)
    #: The transfers after which the source of a history has asked since the last `clear`.
    asked: set[str] = attrs.field(factory=set, init=False)
    _is_started: bool = attrs.field(default=False, init=False)

    def get(self) -> Histories:
        """Return them; make them if this was not done yet."""
        if self.made is None:
            # Here, since a node without histories saves their memory.
            from wingsd.histories.manager import Histories  # noqa: PLC0415

            self.made = Histories(self)
            if self._is_started:
                self.made.start()
        return self.made

    async def all(self) -> list[str]:
        """Return the UUIDs of the servers of which there are histories. Raises StorageError."""
        return await self.look(_histories_in, self.config.system.history.directory)

    def totals(self) -> dict[str, Any] | None:
        """Return the figures of all histories; None where no points are made."""
        if self.made is None or not self.config.system.has_histories:
            return None
        return attrs.asdict(self.made.totals())

    async def clear(self) -> None:
        """Remove histories of servers that are not here any more, after the days they are kept.

        To be called daily, when the servers are loaded.
        """
        left = [each for each in await self.all() if not self.servers.knows(each)]
        ages = await self.database.ages(left, "history")
        days = max(self.config.system.transfers.live.keep_source_days, 1)
        for uuid in left:
            if ages[uuid] <= days * _DAY:
                continue
            changed = await self.disk.run(_changed, self.path(uuid))
            if changed > self.now() - ages[uuid]:
                self._log.warn(
                    "{server}: the history that it has left is not removed, since another node "
                    "makes points in it: let each have a system.history.directory of its own",
                    server=uuid,
                )
            else:
                await self.get().forget(uuid)
        await self._end_coming()

    async def _end_coming(self) -> None:
        """Wait no longer for histories whose sources have not asked for long."""
        found = await self.database.coming_histories()
        coming = {str(each.transfer): each for each in found if each.state is ArrivingState.COMING}
        silent = coming.keys() - self.asked
        self.asked.clear()
        for transfer, seconds in (await self.database.ages(silent, "coming")).items():
            if seconds > SILENT_DAYS * _DAY:
                # Here, since a node without histories saves their memory.
                from wingsd.histories.following import drop_arriving  # noqa: PLC0415

                each = coming[transfer]
                await self.database.forget_arriving(each.transfer, HISTORY)
                self.get().note_come(each)
                self._log.warn(
                    "{server}: its older points are not waited for any more: the node that it has "
                    "left did not send them for {days} days",
                    server=each.server,
                    days=SILENT_DAYS,
                )
                with suppress(StorageError):  # what has come of a delta stays then
                    if await self.has(each.server):
                        await self.get().use(each.server, drop_arriving)

    def use(self, config: Config) -> None:
        """Go on with a changed configuration."""
        self.config = config
        if self.made is not None:
            self.made.changed()
        elif config.system.has_histories:
            self.get()

    def start(self) -> None:
        """Begin to make points, where that is configured. Call it when the servers are loaded."""
        self._is_started = True
        if self.made is not None:
            self.made.start()
        elif self.config.system.has_histories:
            self.get()

    def path(self, server: str) -> str:
        """Return the directory of a server's history."""
        return os.path.join(self.config.system.history.directory, server)

    # Histories that follow their servers

    def takes(self, server: str) -> bool:
        """Return whether a history may follow a server to this node: points are made of it."""
        is_for_backups = self.config.system.backups.wings.kind == POINTS
        return is_for_backups or self.config.system.history.terms(server).every > 0

    async def load_coming(self) -> None:
        """Note which histories are to come to this node, from an earlier daemon."""
        for each in reversed(await self.database.coming_histories()):
            # Also where no points are made now: that may change.
            if each.state is ArrivingState.COMING or self.takes(each.server):
                self.get().note_coming(each)

    async def expect(self, transfer: int, server: str, newest: int, size: int) -> None:
        """Record that a history follows a server, which comes by a transfer.

        Its points have numbers up to `newest`, its deltas so many bytes. The server does not wait
        for the disk of histories.
        """
        try:
            figures = await self.figures(server)
            floor = 0 if figures is None else figures.newest
        except StorageError:
            floor = -1
        coming = ArrivingBackup(
            HISTORY, transfer, server, "", size, 0.0, newest=newest, floor=floor
        )
        await self.database.add_arriving([coming])
        self.get().note_coming(coming)

    async def names(self, server: str) -> dict[str, PointName]:
        """Return the names of a history's points: its backups.

        Raises StorageError, HistoryDamaged where they cannot be read.
        """
        return await self.look(_names, self.config.system.history.directory, server)

    async def has(self, server: str) -> bool:
        """Return whether there is a history of a server. Raises StorageError if not known."""
        return await self.look(_has, self.config.system.history.directory, server)

    async def look(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do short work on the disk of histories, which changes nothing.

        Raises what the work raises, and StorageError where the disk does not answer.
        """
        looking = self.disk.run(work, *args, **kwargs)
        try:
            return await looking.addTimeout(ANSWERS_WITHIN, self.reactor)
        except DeferredTimeout:
            raise StorageError(
                f"{self.config.system.history.directory} (system.history.directory) does not "
                "answer: check its disk, or the server that it is mounted from"
            ) from None

    async def figures(self, server: str) -> HistoryFigures | None:
        """Return the figures of a server's history, None without one. Raises StorageError."""
        if not await self.has(server):
            return None
        # Here, since a node without histories saves their memory.
        from wingsd.histories.following import history_figures  # noqa: PLC0415

        found: HistoryFigures | None = await self.disk.run(history_figures, self.path(server))
        return found

    async def stop(self) -> None:
        """End what is under way: a point that is not complete is undone at its next use."""
        self._is_started = False
        if self.made is not None:
            await self.made.stop()
