"""The directories of servers: made, measured, and deleted in the background.

What is to be deleted is first moved, by one rename, below a directory of its own beside the
servers' (`.deleting-UUID-...`). That is found and finished when the node starts anew. On a volume
that other nodes have, too, its name ends with the node's: each finishes its own deletions, and
gets in the way of no other's. Blocking: run it in a thread.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive import measure, remove_tree
from wingsd.errors import StorageError, WingsdError
from wingsd.threadio import Workers
from wingsd.util.os_errors import disk_advice

__all__ = ["DiskUsage", "Disposal", "ServerDirectories", "Tasks"]


class Tasks:
    """What is under way. What fails is logged, with a server's UUID where there is one."""

    _log = Logger()

    def __init__(self) -> None:
        self._under_way: list[Deferred[None]] = []

    def start(self, what: str, work: Coroutine[Any, Any, object], server: str = "") -> None:
        """Begin `work`; `what` it is stands in the log when it fails."""
        task = Deferred.fromCoroutine(work)
        self._under_way.append(task)  # type: ignore[arg-type]
        task.addErrback(self._failed, what, server)
        task.addBoth(self._done, task)

    def stop(self) -> None:
        """Cancel all of it."""
        # The last first: none may begin because another has made room.
        for task in reversed(tuple(self._under_way)):
            task.cancel()

    def _failed(self, failure: Failure, what: str, server: str) -> None:
        about = f"{server}: {what}" if server else what
        if failure.check(CancelledError):
            return
        if failure.check(WingsdError):
            self._log.error("{about} failed: {error}", about=about, error=failure.value)
        else:
            self._log.failure("{about} failed", failure, about=about)

    def _done(self, _: object, task: Deferred[Any]) -> None:
        self._under_way.remove(task)


class DiskUsage:
    """Measures directories. Who asks again before it is his turn is measured once."""

    def __init__(
        self, disk: Workers, tasks: Tasks, measurer: Callable[[str], int] = measure
    ) -> None:
        self._disk = disk
        self._tasks = tasks
        self._measure = measurer
        self._turn = DeferredLock()
        self._waiting: set[str] = set()

    def ask(self, uuid: str, directory: str, tell: Callable[[int], None]) -> None:
        """Have the server's directory measured, and `tell` called with its bytes."""
        if uuid not in self._waiting:
            self._waiting.add(uuid)
            self._tasks.start("measuring its disk usage", self._run(uuid, directory, tell), uuid)

    def forget(self, uuid: str) -> None:
        """Do not measure a server whose turn has not come yet."""
        self._waiting.discard(uuid)

    async def _run(self, uuid: str, directory: str, tell: Callable[[int], None]) -> None:
        try:
            await self._turn.acquire()
            try:
                if uuid in self._waiting:
                    tell(await self._disk.run(self._measure, directory))
            finally:
                self._turn.release()
        finally:
            self._waiting.discard(uuid)


_PREFIX = ".deleting-"
_DELETING = re.compile(
    re.escape(_PREFIX) + r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-\w+(?:\.(.+))?"
)


class ServerDirectories:
    """Those below `data`, which is `system.data`; `owner` is their user and group id.

    `node` is the node's name, where others have the same directory. Every method raises
    `StorageError`.
    """

    def __init__(self, data: str, owner: tuple[int, int], node: str = "") -> None:
        self._data = data
        self._owner = owner
        self._node = node

    def path(self, uuid: str) -> str:
        """Return where the server's files are, or would be."""
        return os.path.join(self._data, uuid)

    def make(self, uuid: str) -> None:
        """Make the server's directory; one that is there is kept."""
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

    def set_apart(self, uuid: str) -> str | None:
        """Move the server's directory away to be deleted; return where to, None without one.

        Where a symlink stands in its place, that is what is moved, and nothing it points to.
        """
        path = self.path(uuid)
        if not os.path.lexists(path):
            return None
        try:
            suffix = f".{self._node}" if self._node else ""
            apart = tempfile.mkdtemp(suffix, f"{_PREFIX}{uuid}-", self._data)
            try:
                os.rename(path, os.path.join(apart, uuid))
            except OSError:
                os.rmdir(apart)
                raise
        except OSError as error:
            why = disk_advice(error)
            raise StorageError(
                f"{path} cannot be moved away to be deleted: {why}; delete it by hand"
            ) from error
        return apart

    def unfinished(self) -> list[str]:
        """Return what this node has set apart and not deleted yet.

        What bears no node's name is from before others had the directory.
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

    def delete(self, apart: str) -> None:
        """Delete what was set apart; symlinks in it are removed and not followed."""
        try:
            remove_tree(apart)
        except OSError as error:
            raise StorageError(
                f"{apart} cannot be deleted: {disk_advice(error)}; it is tried again when the "
                "node starts anew"
            ) from error


class Disposal:
    """Deletes what was set apart. The disk has other things to do: never two at once."""

    _log = Logger()

    def __init__(self, disk: Workers, directories: ServerDirectories, tasks: Tasks) -> None:
        self._disk = disk
        self._directories = directories
        self._tasks = tasks
        self._turn = DeferredLock()

    async def dispose(self, uuid: str) -> None:
        """Return when the server's place is free; its files go later. A failure is logged."""
        try:
            apart = await self._disk.run(self._directories.set_apart, uuid)
        except StorageError as error:
            self._log.error("{server}: its files stay: {error}", server=uuid, error=error)
            return
        if apart is not None:
            self._tasks.start("deleting its files", self._dispose(uuid, apart), uuid)

    async def _dispose(self, uuid: str, apart: str) -> None:
        if await self._delete(apart):
            self._log.info("{server}: its files are deleted", server=uuid)

    async def finish(self) -> None:
        """Delete what a node that ended too early left."""
        for apart in await self._disk.run(self._directories.unfinished):
            self._log.info("finishing the deletion of {directory}", directory=apart)
            await self._delete(apart)

    async def _delete(self, apart: str) -> bool:
        try:
            await self._turn.run(self._disk.run, self._directories.delete, apart)
        except StorageError as error:
            self._log.error("deleting files failed: {error}", error=error)
            return False
        return True
