"""The files of servers: their directories are made, measured and, in the background, deleted.

A directory to be deleted is first renamed into a directory of its own beside the servers'
(`.deleting-UUID-...`), which is found and deleted when the node starts again. On a volume that
other nodes share, its name ends with the node's: each node finishes its own deletions only.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive import measure, remove_tree
from wingsd.errors import StorageError, WingsdError
from wingsd.threadio import Workers
from wingsd.util.text import disk_advice

__all__ = ["BackgroundTasks", "Deleter", "DiskUsage", "ServerDirectories", "ServerFiles"]


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
        # The last first: none may start because another one has freed its turn.
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


class DiskUsage:
    """Measures directories, one at a time; a server that waits already is not added again."""

    def __init__(
        self, disk: Workers, tasks: BackgroundTasks, measurer: Callable[[str], int] = measure
    ) -> None:
        self._disk = disk
        self._tasks = tasks
        self._measure = measurer
        self._lock = DeferredLock()
        self._waiting: set[str] = set()

    def request(self, uuid: str, directory: str, callback: Callable[[int], None]) -> None:
        """Have the server's directory measured, and `callback` called with its bytes."""
        if uuid not in self._waiting:
            self._waiting.add(uuid)
            run = self._run(uuid, directory, callback)
            self._tasks.start("measuring its disk usage", run, uuid)

    def discard(self, uuid: str) -> None:
        """Do not measure the server if that has not begun."""
        self._waiting.discard(uuid)

    async def _run(self, uuid: str, directory: str, callback: Callable[[int], None]) -> None:
        try:
            await self._lock.acquire()
            try:
                if uuid in self._waiting:
                    callback(await self._disk.run(self._measure, directory))
            finally:
                self._lock.release()
        finally:
            self._waiting.discard(uuid)


_PREFIX = ".deleting-"
_DELETING = re.compile(
    re.escape(_PREFIX) + r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-\w+(?:\.(.+))?"
)


class ServerDirectories:
    """The directories below `data`, which is `system.data`; `owner` is their user and group id.

    `node` is the node's name, where other nodes share the volume. Blocking: methods but `path` run
    in a thread. They raise `StorageError`.
    """

    def __init__(self, data: str, owner: tuple[int, int], node: str = "") -> None:
        self._data = data
        self._owner = owner
        self._node = node

    def path(self, uuid: str) -> str:
        """Return where the server's files are, or would be."""
        return os.path.join(self._data, uuid)

    def make(self, uuid: str) -> None:
        """Make the server's directory; an existing one is kept."""
        path = self.path(uuid)
        try:
            os.makedirs(self._data, exist_ok=True)
            try:
                os.mkdir(path, 0o755)
            except FileExistsError:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    return
                raise
            os.chown(path, *self._owner)
        except OSError as error:
            raise StorageError(f"{path} cannot be made: {disk_advice(error)}") from error

    def set_aside(self, uuid: str) -> str | None:
        """Rename the server's directory for deletion; return the new path, None if there is none.

        A symlink in its place is itself renamed, not what it points to.
        """
        path = self.path(uuid)
        if not os.path.lexists(path):
            return None
        try:
            suffix = f".{self._node}" if self._node else ""
            aside = tempfile.mkdtemp(suffix, f"{_PREFIX}{uuid}-", self._data)
            try:
                os.rename(path, os.path.join(aside, uuid))
            except OSError:
                os.rmdir(aside)
                raise
        except OSError as error:
            why = disk_advice(error)
            raise StorageError(
                f"{path} cannot be moved away to be deleted: {why}; delete it by hand"
            ) from error
        return aside

    def unfinished(self) -> list[str]:
        """Return the paths that this node has set aside and not deleted.

        One without a node's name was set aside before other nodes shared the volume.
        """
        try:
            with os.scandir(self._data) as entries:
                return sorted(
                    entry.path
                    for entry in entries
                    if self._is_own(entry.name) and entry.is_dir(follow_symlinks=False)
                )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._data} cannot be read: {disk_advice(error)}") from error

    def _is_own(self, name: str) -> bool:
        found = _DELETING.fullmatch(name)
        return found is not None and found[1] in (None, self._node)

    def delete(self, aside: str) -> None:
        """Delete what was set aside; symlinks in it are removed and not followed."""
        try:
            remove_tree(aside)
        except OSError as error:
            raise StorageError(
                f"{aside} cannot be deleted: {disk_advice(error)}; the next start of the node "
                "tries again"
            ) from error


class Deleter:
    """Deletes the directories of servers in the background, one at a time."""

    _log = Logger()

    def __init__(
        self, disk: Workers, directories: ServerDirectories, tasks: BackgroundTasks
    ) -> None:
        self._disk = disk
        self._directories = directories
        self._tasks = tasks
        self._lock = DeferredLock()

    async def delete(self, uuid: str) -> None:
        """Return when the server's path is free; deletion follows. A failure is logged."""
        try:
            aside = await self._disk.run(self._directories.set_aside, uuid)
        except StorageError as error:
            self._log.error("{server}: files not deleted: {error}", server=uuid, error=error)
            return
        if aside is not None:
            self._tasks.start("deleting its files", self._delete_files(uuid, aside), uuid)

    async def _delete_files(self, uuid: str, aside: str) -> None:
        if await self._delete(aside):
            self._log.info("{server}: files deleted", server=uuid)

    async def finish(self) -> None:
        """Finish the deletions that were interrupted by the node's end."""
        for aside in await self._disk.run(self._directories.unfinished):
            self._log.info("finishing the deletion of {directory}", directory=aside)
            await self._delete(aside)

    async def _delete(self, aside: str) -> bool:
        try:
            await self._lock.run(self._disk.run, self._directories.delete, aside)
        except StorageError as error:
            self._log.error("deleting files failed: {error}", error=error)
            return False
        return True


#: Seconds after which a measured disk usage is stale; Wings' figure.
DISK_AGE = 150.0
#: The same for a measurement that a client requests: a multiple of the seconds that the last one
#: took, waiting for its turn included, and a minimum of seconds. A node that is busy measuring
#: thus measures less often.
REQUESTED_AGE_FACTOR = 1000.0
LEAST_REQUESTED_AGE = 15.0


class ServerFiles:
    """The directory of one server, and its disk usage."""

    def __init__(
        self,
        uuid: str,
        directories: ServerDirectories,
        disk: Workers,
        disk_usage: DiskUsage,
        clock: IReactorTime,
    ) -> None:
        self.directory = directories.path(uuid)
        #: Whether the directory exists: that of a server that is created or received does not yet.
        self.exists = True
        #: Bytes, as last measured; None before the first measurement.
        self.disk_bytes: int | None = None
        self._uuid = uuid
        self._directories = directories
        self._disk = disk
        self._disk_usage = disk_usage
        self._clock = clock
        self._measured_at = float("-inf")
        #: The seconds that the last measurement took; infinite while it runs.
        self._duration = float("inf")
        #: Whether the files may be measured: not when they are about to be deleted.
        self.measurable = True

    async def make(self) -> None:
        """Make the directory; an existing one is kept. Raises `StorageError`."""
        await self._disk.run(self._directories.make, self._uuid)
        self.exists = True
        self.measure()

    def received(self, size: int | None) -> None:
        """Note that the directory has been received, with files of `size` bytes if known."""
        self.exists = True
        if size is None:
            self.measure()
        else:
            self._measured_at = self._clock.seconds()
            self._measured(size)  # It took no time.

    def measure(self) -> None:
        """Have the files measured in the background, if they exist."""
        if self.measurable and self.exists:
            self._measured_at, self._duration = self._clock.seconds(), float("inf")
            self._disk_usage.request(self._uuid, self.directory, self._measured)

    def measure_if_stale(self, age: float = DISK_AGE) -> None:
        """Have the files measured if the last measurement is more than `age` seconds ago."""
        if self._clock.seconds() - self._measured_at > age:
            self.measure()

    def measure_on_request(self) -> None:
        """Have the files measured for a client's next request, within a budget of time."""
        age = max(self._duration * REQUESTED_AGE_FACTOR, LEAST_REQUESTED_AGE)
        self.measure_if_stale(min(age, DISK_AGE))

    def _measured(self, size: int) -> None:
        self._duration = self._clock.seconds() - self._measured_at
        self.disk_bytes = size

    def close(self) -> None:
        """Measure nothing any more."""
        self.measurable = False
        self._disk_usage.discard(self._uuid)
