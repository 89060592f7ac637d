"""The files of servers: their directories are made, measured, limited and deleted.

The disk usage is the sum of the sizes of a server's files, as `filesystem.measure` counts them in
threads. It is renewed when it is older than `system.disk_check_interval`, and corrected at once by
what the node itself writes or deletes there.

A directory to be deleted is first renamed into a directory of its own beside the servers'
(`.deleting-UUID-...`), which is found and deleted when the node starts again. On a volume that
other nodes share, its name ends with the node's: each node finishes its own deletions only.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from enum import Enum
from threading import Event
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.config import Config
from wingsd.errors import StorageError, TreeTooLarge, WingsdError
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.filesystem.openers import DirectoryOpener, directory_opener
from wingsd.filesystem.past import Past
from wingsd.filesystem.removal import remove_tree
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.filesystem.walk import MAX_SIZE, GivenTree, give_tree, measure
from wingsd.servers.quotas import ProjectQuotas
from wingsd.threadio import Workers
from wingsd.util.durable import storage_errors

T = TypeVar("T")


class BackgroundTasks:
    """Tasks that no caller waits for. A failure is logged, with the server's UUID if given."""

    _log = Logger()

    def __init__(self) -> None:
        self._running: list[Deferred[None]] = []

    def start(self, what: str, work: Coroutine[Any, Any, object], server: str = "") -> None:
        """Start `work`; `what` describes it in the log if it fails."""
        task = Deferred.fromCoroutine(work)
        self._running.append(task)  # type: ignore[arg-type]
        task.addErrback(self._failed, what, server)
        task.addBoth(self._done, task)

    def stop(self) -> None:
        """Cancel all of it."""
        # The last first: no task may start because another has freed its turn.
        for task in reversed(tuple(self._running)):
            task.cancel()

    def _failed(self, failure: Failure, what: str, server: str) -> None:
        subject = f"{server}: {what}" if server else what
        if failure.check(CancelledError):
            return
        if failure.check(WingsdError):
            self._log.error("{subject} failed: {error}", subject=subject, error=failure.value)
        else:
            self._log.failure("{subject} failed", failure, subject=subject)

    def _done(self, _: object, task: Deferred[Any]) -> None:
        self._running.remove(task)


_PREFIX = ".deleting-"
_DELETING = re.compile(
    re.escape(_PREFIX) + r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-\w+(?:\.(.+))?"
)


class ServerDirectories:
    """The directories below `data`, which is `system.data`; `owner` is their user and group id.

    `node` is the node's name, where other nodes share the volume. `quotas` limit what is in each,
    and `opener` opens directories below them. Blocking: methods but `path` run in a thread. They
    raise `StorageError`.
    """

    def __init__(
        self,
        data: str,
        owner: tuple[int, int],
        node: str = "",
        quotas: ProjectQuotas | None = None,
        opener: DirectoryOpener | None = None,
    ) -> None:
        #: The user and group id of every directory.
        self.owner = owner
        self.quotas = quotas or ProjectQuotas(data, enabled=False)
        self._data = data
        self._node = node
        self._opener = opener or directory_opener("auto")

    @classmethod
    def configured(
        cls, config: Config, owner: tuple[int, int], quotas: ProjectQuotas | None = None
    ) -> ServerDirectories:
        """Return those of a node.

        Raises `ConfigError` where the kernel does not support its `system.openat_mode`.
        """
        # On a shared volume the node's own directories bear its name, as in the staging area.
        node = config.uuid if config.system.transfers.storage_pool.name else ""
        opener = directory_opener(config.system.openat_mode)
        return cls(config.system.data, owner, node, quotas, opener)

    def path(self, uuid: str) -> str:
        """Return where the server's files are, or would be."""
        return os.path.join(self._data, uuid)

    def root(
        self, uuid: str, usage: UsageCounter | None = None, past: Past | None = None
    ) -> ServerRoot:
        """Open the server's directory; what is written there counts in `usage`."""
        return ServerRoot(self.path(uuid), self._opener, self.owner, usage, past)

    def make(self, uuid: str) -> None:
        """Make the server's directory; an existing one is kept."""
        path = self.path(uuid)
        with storage_errors(f"{path} cannot be made"):
            os.makedirs(self._data, exist_ok=True)
            try:
                os.mkdir(path, 0o755)
            except FileExistsError:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    return
                raise
            # By its descriptor: a file that took its place meanwhile would not be opened.
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            with closing_descriptor(os.open(path, flags)) as fd:
                os.fchown(fd, *self.owner)
            self.quotas.prepare(uuid, path)

    def set_aside(self, uuid: str) -> str | None:
        """Rename the server's directory for deletion; return the new path, None without one.

        A symlink in its place is itself renamed, not what it points to.
        """
        path = self.path(uuid)
        if not os.path.lexists(path):
            return None
        self.quotas.release(uuid, path)
        with storage_errors(f"{path} cannot be moved away to be deleted", "delete it by hand"):
            suffix = f".{self._node}" if self._node else ""
            aside = tempfile.mkdtemp(suffix, f"{_PREFIX}{uuid}-", self._data)
            try:
                os.rename(path, os.path.join(aside, uuid))
            except OSError:
                os.rmdir(aside)
                raise
        return aside

    def unfinished(self) -> list[str]:
        """Return the paths that this node has set aside and not deleted.

        One without a node's name was set aside before other nodes shared the volume.
        """
        with (
            storage_errors(f"{self._data} cannot be read"),
            suppress(FileNotFoundError),
            os.scandir(self._data) as entries,
        ):
            return sorted(
                entry.path
                for entry in entries
                if self._is_own(entry.name) and entry.is_dir(follow_symlinks=False)
            )
        return []

    def _is_own(self, name: str) -> bool:
        found = _DELETING.fullmatch(name)
        return found is not None and found[1] in (None, self._node)

    def delete(self, aside: str) -> None:
        """Delete what was set aside; symlinks in it are removed and not followed."""
        with storage_errors(
            f"{aside} cannot be deleted", "the next start of the node tries again"
        ):
            remove_tree(aside)


class ServerQuota:
    """The quota of one server.

    The files of one server at a time get a project. Limits of servers that have one do not wait
    for that.
    """

    def __init__(self, uuid: str, storage: ServerStorage) -> None:
        self._uuid = uuid
        self._directory = storage.directories.path(uuid)
        self._quotas = storage.directories.quotas
        self._storage = storage
        self._limit: int | None = None
        self._running = False
        self._renewed = False

    def request(self, limit: int | None) -> None:
        """Request a limit of `limit` bytes for the directory, None for no limit."""
        self._limit, self._renewed = limit, True
        if self._quotas.active and not self._running:
            self._storage.tasks.start("setting its project quota", self._run(), self._uuid)

    async def used(self) -> int:
        """Return the bytes that its blocks take, 0 without quotas. Raises `StorageError`."""
        if not self._quotas.active:
            return 0
        return await self._storage.long.run(self._quotas.used, self._directory)

    async def _run(self) -> None:
        long = self._storage.long
        self._running = True
        try:
            while self._renewed:
                self._renewed = False
                if not await self._apply():
                    await self._storage.assigning.run(
                        long.run, self._quotas.assign, self._uuid, self._directory
                    )
                    await self._apply()
        finally:
            self._running = False

    async def _apply(self) -> bool:
        run = self._storage.long.run
        return await run(self._quotas.apply, self._uuid, self._directory, self._limit)


class DiskWalks:
    """Measures directories, one at a time; a server that waits already is not added again.

    Those that a start waits for are measured beside the others, one at a time as well.
    """

    def __init__(self, disk: Workers, tasks: BackgroundTasks) -> None:
        self._disk = disk
        self._tasks = tasks
        self._background = DeferredLock()
        self._urgent = DeferredLock()
        #: A mark of the walk that each server waits for.
        self._waiting: dict[str, object] = {}

    def request(self, uuid: str, directory: str, callback: Callable[[int], None]) -> None:
        """Measure the server's directory in the background, then call `callback` with its bytes.

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
        return await self._urgent.run(self._disk.run, measure, directory)

    async def _run(self, uuid: str, directory: str, callback: Callable[[int], None]) -> None:
        mark = self._waiting[uuid] = object()
        try:
            await self._background.acquire()
            try:
                if self._waiting.get(uuid) is not mark:
                    return
                size = await self._disk.run(measure, directory)
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


class ServerStorage:
    """The directories of servers, and the threads for short and for long work on them.

    Directories are deleted in the background, one at a time. One server at a time gets its
    project, by the lock `assigning`.
    """

    _log = Logger()

    def __init__(self, directories: ServerDirectories, disk: Workers, long: Workers) -> None:
        self.directories = directories
        self.disk = disk
        self.long = long
        self.tasks = BackgroundTasks()
        self.walks = DiskWalks(long, self.tasks)
        self.assigning = DeferredLock()
        self._deleting = DeferredLock()

    async def delete(self, uuid: str) -> None:
        """Return when the server's path is free; deletion follows. A failure is logged."""
        try:
            await self.move_away(uuid)
        except StorageError as error:
            self._log.error("{server}: files not deleted: {error}", server=uuid, error=error)

    async def move_away(self, uuid: str) -> None:
        """Return when the server's path is free; deletion follows. Raises `StorageError`."""
        aside = await self.disk.run(self.directories.set_aside, uuid)
        if aside is not None:
            self.tasks.start("deleting its files", self._delete(aside, uuid), uuid)

    async def finish_deletions(self) -> None:
        """Finish the deletions that were interrupted by the node's end."""
        for aside in await self.disk.run(self.directories.unfinished):
            self._log.info("finishing the deletion of {directory}", directory=aside)
            await self._delete(aside)

    async def _delete(self, aside: str, uuid: str = "") -> None:
        try:
            await self._deleting.run(self.long.run, self.directories.delete, aside)
        except StorageError as error:
            self._log.error("deleting files failed: {error}", error=error)
        else:
            if uuid:
                self._log.info("{server}: files deleted", server=uuid)


class Presence(Enum):
    """The directory of a server on this node."""

    ABSENT = "to be made, or received"
    #: It was counted, and its files have the right owner. Until the first start.
    RECEIVED = "as this daemon has received it"
    PRESENT = "there"
    LEAVING = "about to be deleted, and measured no more"


#: Seconds after which a figure is stale that a client requests, or that changed while it was
#: counted: a multiple of the seconds that the last walk took, waiting for its turn included, and a
#: minimum of seconds. A node that is busy measuring thus measures less often.
REQUESTED_AGE_FACTOR = 1000.0
LEAST_REQUESTED_AGE = 15.0


class ServerFiles:
    """The directory of one server, its disk usage, and its `quota` in the file system.

    `interval` are the seconds after which a figure is stale; with 0 nothing is ever counted.
    `changed` is called when `disk_bytes` has changed, which is shown as 0 before the first count.
    """

    def __init__(
        self,
        uuid: str,
        storage: ServerStorage,
        clock: IReactorTime,
        interval: float,
        changed: Callable[[], object],
    ) -> None:
        self.directory = storage.directories.path(uuid)
        self.quota = ServerQuota(uuid, storage)
        self.presence = Presence.PRESENT
        #: Whether the server has points in time of its files, which users may read.
        self.has_past = False
        #: The bytes that the files may take, None for no limit.
        self.limit: int | None = None
        self._changed = changed
        self._usage = UsageCounter()
        self._uuid = uuid
        self._storage = storage
        self._walks = storage.walks
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
        async with self.counting(writes=writes):
            return await (workers or self._storage.disk).run(self.with_root, work)

    @asynccontextmanager
    async def counting(self, *, writes: bool) -> AsyncIterator[None]:
        """Count what is written and deleted by `with_root` in this context; see `run`."""
        limit = self.limit
        if writes and limit is not None and self.disk_bytes is None:
            with suppress(TreeTooLarge):  # it is above any limit then, and files can be deleted
                await self.measured()
        self._usage.limit = limit
        before = self.disk_bytes
        try:
            yield
        finally:
            if self.disk_bytes != before:
                self._corrected = True
                self._changed()

    def with_root(self, work: Callable[[ServerRoot], T], past: Past | None = None) -> T:
        """Call `work` with the open directory, which has this past. Blocking.

        Without one, the past of a server that has it is not read.
        """
        if past is None and self.has_past:
            past = Past()
        with self._storage.directories.root(self._uuid, self._usage, past) as root:
            return work(root)

    @property
    def exists(self) -> bool:
        """True if the directory exists."""
        return self.presence is not Presence.ABSENT

    def apply_limit(self) -> None:
        """Set the limit in the file system, if it has quotas. Call it when the limit is new."""
        if self.exists:
            self.quota.request(self.limit)

    @property
    def is_counted(self) -> bool:
        """True if this node counts the files of servers at all."""
        return self._interval > 0

    async def make(self) -> None:
        """Make the directory; an existing one is kept. Raises `StorageError`."""
        await self._storage.disk.run(self._storage.directories.make, self._uuid)
        self._arrive(Presence.PRESENT)
        self.apply_limit()
        self.measure()

    async def give_to_user(self) -> GivenTree:
        """Give the files to the user of servers, where they have another owner.

        Raises `StorageError`. Cancelled, it ends after the directory that it is at.
        """
        stop = Event()
        try:
            return await self._storage.long.run(
                give_tree, self.directory, self._storage.directories.owner, stop.is_set
            )
        except CancelledError:
            stop.set()
            raise

    async def empty(self) -> None:
        """Make the directory again, empty; what was in it is deleted in the background.

        Raises `StorageError`.
        """
        await self._storage.move_away(self._uuid)
        await self.make()

    def received(self, size: int | None) -> None:
        """Note that the directory has been received, with files of `size` bytes if known."""
        self._arrive(Presence.PRESENT if size is None else Presence.RECEIVED)
        self.apply_limit()
        if size is None:
            self.measure()
            return
        if self.is_counted:
            self._walks.discard(self._uuid)
            self._requested()
            self._measured(size)  # It took no time.

    def _arrive(self, presence: Presence) -> None:
        if self.presence is not Presence.LEAVING:  # a deletion may have begun meanwhile
            self.presence = presence

    def add(self, size: int) -> None:
        """Correct the figure by bytes that the node has written, negative for deleted ones."""
        if size and self.disk_bytes is not None:
            self._corrected = True
            self._set(max(self.disk_bytes + size, 0))

    def measure(self) -> None:
        """Measure the files in the background, if they exist."""
        if self._may_be_measured:
            self._requested()
            self._walks.request(self._uuid, self.directory, self._measured)

    def measure_if_stale(self) -> None:
        """Measure the files in the background, if the last figure is too old."""
        self._measure_if_older(self._requested_age if self._corrected else self._interval)

    def measure_on_request(self) -> None:
        """Measure the files for a client's next request, within a budget of time."""
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
        self.presence = Presence.LEAVING
        self._walks.discard(self._uuid)

    @property
    def _may_be_measured(self) -> bool:
        return self.is_counted and self.presence in (Presence.RECEIVED, Presence.PRESENT)

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
            self._changed()
