"""The directories of servers: made and, in the background, deleted.

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

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.config import Config
from wingsd.errors import StorageError, WingsdError
from wingsd.filesystem import (
    DirectoryOpener,
    GivenTree,
    ServerRoot,
    Usage,
    directory_opener,
    give_tree,
    remove_tree,
)
from wingsd.servers.quotas import ProjectQuotas
from wingsd.threadio import Workers
from wingsd.util.text import disk_advice

__all__ = ["BackgroundTasks", "Deleter", "ServerDirectories", "ServerStorage"]


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

    def root(self, uuid: str, usage: Usage | None = None) -> ServerRoot:
        """Open the server's directory; what is written there counts in `usage`."""
        return ServerRoot(self.path(uuid), self._opener, self.owner, usage)

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
            self._give(path)
            self.quotas.prepare(uuid, path)
        except OSError as error:
            raise StorageError(f"{path} cannot be made: {disk_advice(error)}") from error

    def _give(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(fd, *self.owner)
        finally:
            os.close(fd)

    def give_to_user(self, uuid: str, cancelled: Callable[[], bool]) -> GivenTree:
        """Give the server's files to the owner; see `give_tree`."""
        return give_tree(self.path(uuid), self.owner, cancelled)

    def release(self, uuid: str) -> None:
        """End the limit of a server's directory that is being put away."""
        self.quotas.release(uuid, self.path(uuid))

    def set_aside(self, uuid: str) -> str | None:
        """Rename the server's directory for deletion; return the new path, None if there is none.

        A symlink in its place is itself renamed, not what it points to.
        """
        path = self.path(uuid)
        if not os.path.lexists(path):
            return None
        self.quotas.release(uuid, path)
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


@attrs.frozen(eq=False, repr=False)
class ServerStorage:
    """The directories of servers, and the threads for short and for long work on them."""

    directories: ServerDirectories
    disk: Workers
    long: Workers


class Deleter:
    """Deletes the directories of servers in the background, one at a time."""

    _log = Logger()

    def __init__(self, storage: ServerStorage, tasks: BackgroundTasks) -> None:
        self._storage = storage
        self._directories = storage.directories
        self._tasks = tasks
        self._lock = DeferredLock()

    async def delete(self, uuid: str) -> None:
        """Return when the server's path is free; deletion follows. A failure is logged."""
        try:
            await self.move_away(uuid)
        except StorageError as error:
            self._log.error("{server}: files not deleted: {error}", server=uuid, error=error)

    async def move_away(self, uuid: str) -> None:
        """Return when the server's path is free; deletion follows. Raises `StorageError`."""
        aside = await self._storage.disk.run(self._directories.set_aside, uuid)
        if aside is not None:
            self._tasks.start("deleting its files", self._delete_files(uuid, aside), uuid)

    async def _delete_files(self, uuid: str, aside: str) -> None:
        if await self._delete(aside):
            self._log.info("{server}: files deleted", server=uuid)

    async def finish(self) -> None:
        """Finish the deletions that were interrupted by the node's end."""
        for aside in await self._storage.disk.run(self._directories.unfinished):
            self._log.info("finishing the deletion of {directory}", directory=aside)
            await self._delete(aside)

    async def _delete(self, aside: str) -> bool:
        try:
            await self._lock.run(self._storage.long.run, self._directories.delete, aside)
        except StorageError as error:
            self._log.error("deleting files failed: {error}", error=error)
            return False
        return True
