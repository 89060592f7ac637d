"""The disk usage of servers: counted by walks in threads, cached, and corrected in between.

A figure is the sum of the sizes of a server's files, as `filesystem.measure` counts them. It is
renewed when it is older than `system.disk_check_interval`, and corrected at once by what the node
itself writes or deletes there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import TypeVar

from twisted.internet.defer import CancelledError, DeferredLock
from twisted.internet.interfaces import IReactorTime

from wingsd.errors import TreeTooLarge
from wingsd.filesystem import MAX_SIZE, GivenTree, ServerRoot, UsageCounter, measure
from wingsd.servers.files import BackgroundTasks, Deleter, ServerDirectories, ServerStorage
from wingsd.threadio import Workers

__all__ = ["LEAST_REQUESTED_AGE", "DiskWalks", "ServerFiles", "ServerQuota"]


class ServerQuota:
    """The quota of one server.

    The files of one server at a time get a project, by the lock `assigning`. Limits of servers
    that have one do not wait for that.
    """

    def __init__(
        self,
        uuid: str,
        directories: ServerDirectories,
        disk: Workers,
        tasks: BackgroundTasks,
        assigning: DeferredLock,
    ) -> None:
        self._uuid = uuid
        self._directory = directories.path(uuid)
        self._quotas = directories.quotas
        self._disk = disk
        self._tasks = tasks
        self._assigning = assigning
        self._limit: int | None = None
        self._running = False
        self._renewed = False

    def request(self, limit: int | None) -> None:
        """Request a limit of `limit` bytes for the directory, None for no limit."""
        self._limit, self._renewed = limit, True
        if self._quotas.active and not self._running:
            self._tasks.start("setting its project quota", self._run(), self._uuid)

    async def used(self) -> int:
        """Return the bytes that its blocks take, 0 without quotas. Raises `StorageError`."""
        if not self._quotas.active:
            return 0
        return await self._disk.run(self._quotas.used, self._directory)

    async def _run(self) -> None:
        self._running = True
        try:
            while self._renewed:
                self._renewed = False
                if not await self._apply():
                    await self._assigning.run(
                        self._disk.run, self._quotas.assign, self._uuid, self._directory
                    )
                    await self._apply()
        finally:
            self._running = False

    async def _apply(self) -> bool:
        return await self._disk.run(self._quotas.apply, self._uuid, self._directory, self._limit)


T = TypeVar("T")


class DiskWalks:
    """Measures directories, one at a time; a server that waits already is not added again.

    Those that a start waits for are measured beside the others, one at a time as well.
    """

    def __init__(
        self, disk: Workers, tasks: BackgroundTasks, measurer: Callable[[str], int] = measure
    ) -> None:
        self._disk = disk
        self._tasks = tasks
        self._measure = measurer
        self._background = DeferredLock()
        self._urgent = DeferredLock()
        #: A mark of the walk that each server waits for.
        self._waiting: dict[str, object] = {}

    def request(self, uuid: str, directory: str, callback: Callable[[int], None]) -> None:
        """Have the server's directory measured, and `callback` called with its bytes.

        A tree that is too large to be counted has `MAX_SIZE`: more than any limit.
        """
        if uuid not in self._waiting:
            run = self._run(uuid, directory, callback)
            self._tasks.start("measuring its disk usage", run, uuid)

    def discard(self, uuid: str) -> None:
        """Call no callback for the server; do not measure it if that has not begun."""
        self._waiting.pop(uuid, None)

    async def measured(self, directory: str) -> int:
        """Return the bytes of a directory, from a walk that begins now. Raises `StorageError`."""
        return await self._urgent.run(self._disk.run, self._measure, directory)

    async def _run(self, uuid: str, directory: str, callback: Callable[[int], None]) -> None:
        mark = self._waiting[uuid] = object()
        try:
            await self._background.acquire()
            try:
                if self._waiting.get(uuid) is not mark:
                    return
                size = await self._disk.run(self._measure, directory)
            except TreeTooLarge:
                if self._waiting.get(uuid) is mark:
                    callback(MAX_SIZE)
                raise
            finally:
                self._background.release()
            if self._waiting.get(uuid) is mark:
                callback(size)
        finally:
            if self._waiting.get(uuid) is mark:
                del self._waiting[uuid]


#: Seconds after which a figure is stale that a client requests, or that changed while it was
#: counted: a multiple of the seconds that the last walk took, waiting for its turn included, and a
#: minimum of seconds. A node that is busy measuring thus measures less often.
REQUESTED_AGE_FACTOR = 1000.0
LEAST_REQUESTED_AGE = 15.0


class ServerFiles:
    """The directory of one server, its disk usage, and its `quota` in the file system.

    `interval` are the seconds after which a figure is stale; with 0 nothing is ever counted.
    """

    def __init__(
        self,
        uuid: str,
        storage: ServerStorage,
        walks: DiskWalks,
        deleter: Deleter,
        clock: IReactorTime,
        interval: float,
        quota: ServerQuota,
    ) -> None:
        self.directory = storage.directories.path(uuid)
        self.quota = quota
        #: Whether the directory exists: that of a server that is created or received does not yet.
        self.exists = True
        #: Returns the bytes that the files may take, None for no limit.
        self.limit: Callable[[], int | None] = lambda: None
        #: Called when `disk_bytes` has changed, which is shown as 0 before the first count.
        self.when_changed: Callable[[], object] = lambda: None
        #: Called when the directory has been made or received.
        self.when_present: Callable[[], object] = lambda: None
        #: Whether the directory is as this daemon has received it: it was counted, and its files
        #: have the right owner. Until the first start.
        self.as_received = False
        #: Whether the files may be measured: not when they are about to be deleted.
        self.measurable = True
        self._usage = UsageCounter()
        self._uuid = uuid
        self._directories = storage.directories
        self._storage = storage
        self._walks = walks
        self._deleter = deleter
        self._clock = clock
        self._interval = interval
        self._measured_at = float("-inf")
        #: The seconds that the last measurement took; infinite while it runs.
        self._duration = float("inf")
        #: Whether the node has written or deleted files since the last walk was requested: it may
        #: have seen that or not.
        self._corrected = False

    @property
    def disk_bytes(self) -> int | None:
        """The bytes, as last counted; None before the first count."""
        return self._usage.used

    async def run(
        self,
        work: Callable[[ServerRoot], T],
        *,
        writes: bool = False,
        workers: Workers | None = None,
    ) -> T:
        """Call `work` with the open directory in a thread; return its result.

        What it writes and deletes counts at once. With `writes`, the files of a server with a
        limit are counted before, if they never were. `workers` are those of the disk for None.
        Raises what `work` raises, and `StorageError` where the directory cannot be opened.
        """
        limit = self.limit()
        if writes and limit is not None and self.disk_bytes is None:
            with suppress(TreeTooLarge):  # it is above any limit then, and files can be deleted
                await self.measured()
        self._usage.limit = limit
        before = self.disk_bytes
        try:
            return await (workers or self._storage.disk).run(self._with_root, work)
        finally:
            if self.disk_bytes != before:
                self._corrected = True
                self.when_changed()

    def _with_root(self, work: Callable[[ServerRoot], T]) -> T:
        with self._directories.root(self._uuid, self._usage) as root:
            return work(root)

    @property
    def is_counted(self) -> bool:
        """Whether this node counts the files of servers at all."""
        return self._interval > 0

    async def make(self) -> None:
        """Make the directory; an existing one is kept. Raises `StorageError`."""
        await self._storage.disk.run(self._directories.make, self._uuid)
        self.exists = True
        self.when_present()
        self.measure()

    async def give_to_user(self) -> GivenTree:
        """Give the files to the user of servers, where they have another owner.

        Raises `StorageError`. Cancelled, it ends after the directory that it is at.
        """
        stop = Event()
        try:
            return await self._storage.long.run(
                self._directories.give_to_user, self._uuid, stop.is_set
            )
        except CancelledError:
            stop.set()
            raise

    async def empty(self) -> None:
        """Make the directory again, empty; what was in it is deleted in the background.

        Raises `StorageError`.
        """
        await self._deleter.move_away(self._uuid)
        await self.make()

    def received(self, size: int | None) -> None:
        """Note that the directory has been received, with files of `size` bytes if known."""
        self.exists = True
        self.when_present()
        if size is None:
            self.measure()
            return
        self.as_received = True
        if self.is_counted:
            self._walks.discard(self._uuid)
            self._requested()
            self._measured(size)  # It took no time.

    def add(self, size: int) -> None:
        """Correct the figure by bytes that the node has written, negative for deleted ones."""
        if size and self.disk_bytes is not None:
            self._corrected = True
            self._set(max(self.disk_bytes + size, 0))

    def measure(self) -> None:
        """Have the files measured in the background, if they exist."""
        if self._may_be_measured:
            self._requested()
            self._walks.request(self._uuid, self.directory, self._measured)

    def measure_if_stale(self) -> None:
        """Have the files measured if the last figure is too old."""
        self._measure_if_older(self._requested_age if self._corrected else self._interval)

    def measure_on_request(self) -> None:
        """Have the files measured for a client's next request, within a budget of time."""
        self._measure_if_older(self._requested_age)

    async def measured(self) -> int | None:
        """Return the bytes of the files, counted now; None where they are not counted.

        Raises `StorageError`; after `TreeTooLarge` they count as `MAX_SIZE`.
        """
        if not self._may_be_measured:
            return self.disk_bytes
        self._walks.discard(self._uuid)
        self._requested()
        try:
            size = await self._walks.measured(self.directory)
        except TreeTooLarge:
            self._measured(MAX_SIZE)
            raise
        self._measured(size)
        return size

    def close(self) -> None:
        """Measure nothing any more."""
        self.measurable = False
        self._walks.discard(self._uuid)

    @property
    def _may_be_measured(self) -> bool:
        return self.is_counted and self.measurable and self.exists

    @property
    def _requested_age(self) -> float:
        age = max(self._duration * REQUESTED_AGE_FACTOR, LEAST_REQUESTED_AGE)
        return min(age, self._interval)

    def _measure_if_older(self, age: float) -> None:
        if self._clock.seconds() - self._measured_at > age:
            self.measure()

    def _requested(self) -> None:
        self._measured_at, self._duration = self._clock.seconds(), float("inf")
        self._corrected = False

    def _measured(self, size: int) -> None:
        self._duration = self._clock.seconds() - self._measured_at
        self._set(size)

    def _set(self, size: int) -> None:
        previous, self._usage.used = self._usage.used, size
        if size != (previous or 0):
            self.when_changed()
