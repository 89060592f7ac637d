"""Work on the files of servers in threads, and changes of them that may take long.

Short work, such as a listing, and long work, such as a search, have threads of their own, so that
neither waits for the other, nor for transfers. One server has a part of them at most: its users
wait for each other, and not those of other servers.

A Panel waits 15 seconds for an answer. A change that takes longer goes on behind an answer that
says so, and its end is shown in the server's console. Calagopus' page also shows its progress.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.errors import FilesBusy, FileWorkCancelled, TooManyFileTasks, WingsdError
from wingsd.events import (
    OPERATION_ABORTED,
    OPERATION_COMPLETED,
    OPERATION_ERROR,
    OPERATION_PROGRESS,
)
from wingsd.files.denylist import Denylist, denylist_lines
from wingsd.files.entries import time_text
from wingsd.files.guard import Progress
from wingsd.filesystem.root import ServerRoot
from wingsd.servers.operations import Operation
from wingsd.servers.server import Server
from wingsd.threadio import Workers
from wingsd.util.deferreds import fires_within
from wingsd.util.reactor import Periodic

T = TypeVar("T")


class Lane:
    """Threads for one kind of work. At most `each` works of a server run at a time.

    At most `waiting` others wait, of one server a quarter of that.
    """

    def __init__(self, workers: Workers, *, each: int, waiting: int) -> None:
        self.workers = workers
        self._each = each
        self._waiting = waiting
        #: Those of the servers that work or wait.
        self._turns: WeakValueDictionary[str, DeferredSemaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, server: str) -> AsyncIterator[None]:
        """Wait for a turn of a server. Raises `FilesBusy`."""
        turns = self._turns.setdefault(server, DeferredSemaphore(self._each))
        if not turns.tokens:
            waiting = sum(len(each.waiting) for each in self._turns.values())
            if len(turns.waiting) >= self._waiting // 4 or waiting >= self._waiting:
                raise FilesBusy
        async with turns:
            yield

    async def run(
        self, server: Server, work: Callable[[ServerRoot], T], *, writes: bool = False
    ) -> T:
        """Call `work` with the open directory of a server in a thread; return its result.

        Raises what `work` raises, `FilesBusy`, and StorageError.
        """
        async with self.turn(server.uuid):
            return await server.files.run(work, writes=writes, workers=self.workers)


@attrs.define(eq=False, repr=False)
class FileWork:
    """The lanes of work on the files of servers, `short` and `long`; `reads` is for downloads.

    `large` is for listings of directories that take much memory, `past` for work that reads the
    past of servers. Changes have threads of their
    own: `renames`, which are short; `archives`, which take processors; `writes` of files as their
    bytes arrive, each for a block at a time; and `changes`, all others.
    """

    short: Lane
    long: Lane
    large: Lane
    past: Lane
    changes: Lane
    renames: Lane
    archives: Lane
    writes: Lane
    reads: Workers
    #: The denylist of each server, which is compiled once, and the lines that it is made of.
    _denylists: WeakKeyDictionary[Server, tuple[tuple[str, ...], Denylist]] = attrs.field(
        factory=WeakKeyDictionary, init=False
    )

    def denylist(self, server: Server) -> Denylist:
        """Return the denylist of a server's egg."""
        lines = denylist_lines(server.configuration.settings.egg.file_denylist)
        known = self._denylists.get(server)
        if known is None or known[0] != lines:
            known = self._denylists[server] = (lines, Denylist(lines))
        return known[1]


#: Seconds after which a change goes on behind its answer; a Panel waits 15.
PATIENCE = 10.0
#: Changes of one server's files at a time, those that wait for their turn included.
MAX_TASKS = 16
#: Seconds between two events of progress, as Calagopus' nodes send them.
_PROGRESS_EVERY = 1.0
_NANO = 1_000_000_000


@attrs.define(eq=False, repr=False)
class FileTask(Generic[T]):
    """One change that is under way, or over.

    `title` says what is done, for the console. `details` are the fields of Calagopus' events,
    without those of progress; None for a change that has no such events.
    """

    server: Server
    title: str
    details: Mapping[str, Any] | None
    _started: float
    #: Whether the caller has its answer already: then the console shows the end.
    is_detached: bool = False
    identifier: str = attrs.field(factory=lambda: str(uuid4()), init=False)
    progress: Progress = attrs.field(factory=Progress, init=False)
    value: T | None = attrs.field(default=None, init=False)
    failure: Failure | None = attrs.field(default=None, init=False)
    #: Fires at its end.
    over: Deferred[None] = attrs.field(factory=Deferred, init=False)

    def data(self) -> dict[str, Any]:
        """Return it as Calagopus' events and `GET operations` have it."""
        target = self.progress.target
        made = {} if target is None else {"destination_path": f"/{target}"}
        return {
            **(self.details or {}),
            **made,
            "start_time": time_text(int(self._started * _NANO)),
            "bytes_processed": self.progress.bytes_done,
            "bytes_total": self.progress.bytes_total,
            "files_processed": self.progress.files_done,
        }


@attrs.frozen(eq=False, repr=False)
class FileTasks:
    """The changes of all servers' files that are under way. `now` is Unix time."""

    _reactor: IReactorTime
    _now: Callable[[], float]
    _patience: float = PATIENCE
    _tasks: dict[str, FileTask[Any]] = attrs.field(factory=dict, init=False)
    _log = Logger()

    def start(
        self,
        server: Server,
        lane: Lane,
        change: Callable[[ServerRoot, Progress], T],
        title: str,
        details: Mapping[str, Any] | None = None,
    ) -> FileTask[T]:
        """Begin a change in a thread of `lane`.

        Raises `ServerBusy` where what is under way excludes it, and `TooManyFileTasks`.
        """
        server.operations.check(Operation.CHANGE_FILES)
        if len(self._of(server.uuid)) >= MAX_TASKS:
            raise TooManyFileTasks(MAX_TASKS)
        task: FileTask[T] = FileTask(server, title, details, self._now())
        self._tasks[task.identifier] = task
        Deferred.fromCoroutine(self._run(task, lane, change))
        return task

    async def wait(self, task: FileTask[T]) -> bool:
        """Return whether a change ends within the patience of a Panel; else it is detached.

        Raises what has made it fail.
        """
        is_over = False
        with suppress(CancelledError):
            is_over = await fires_within(task.over, self._patience, self._reactor)
        if task.failure is not None:
            task.failure.raiseException()
        task.is_detached = not is_over
        return is_over

    def of(self, server: str) -> list[FileTask[Any]]:
        """Return those of a server that Calagopus' page shows."""
        return [task for task in self._of(server) if task.details is not None]

    def cancel(self, server: str, identifier: str) -> bool:
        """End a change of a server soon; return whether there is one of that identifier."""
        task = self._tasks.get(identifier)
        if task is None or task.server.uuid != server:
            return False
        task.progress.cancel()
        return True

    def _of(self, server: str) -> list[FileTask[Any]]:
        return [task for task in self._tasks.values() if task.server.uuid == server]

    async def _run(
        self, task: FileTask[T], lane: Lane, change: Callable[[ServerRoot, Progress], T]
    ) -> None:
        server, progress = task.server, task.progress
        telling = Periodic(self._reactor, self._tell_progress, task)
        if task.details is not None:
            telling.start(_PROGRESS_EVERY, now=True)

        def work(root: ServerRoot) -> T:
            progress.check()
            return change(root, progress)

        try:
            with server.operations.during(Operation.CHANGE_FILES, progress.cancel):
                task.value = await lane.run(server, work, writes=True)
        except Exception:
            task.failure = Failure()
        finally:
            telling.stop()
            del self._tasks[task.identifier]
            self.tell_end(task)
            task.over.callback(None)

    def _tell_progress(self, task: FileTask[Any]) -> None:
        self._publish(task, OPERATION_PROGRESS, json.dumps(task.data()))

    def tell_end(self, task: FileTask[Any]) -> None:
        """Publish how a change has ended, and show it in the console where it is detached."""
        failure = task.failure
        if failure is None:
            self._publish(task, OPERATION_COMPLETED)
            end = f"{task.title} is complete."
        elif failure.check(FileWorkCancelled):
            self._publish(task, OPERATION_ABORTED)
            end = f"{task.title} was cancelled."
        elif failure.check(WingsdError):
            self._publish(task, OPERATION_ERROR, str(failure.value))
            end = f"{task.title} failed: {failure.value}"
        else:
            self._publish(task, OPERATION_ERROR, "unknown error")
            end = f"{task.title} failed unexpectedly; see the node's log."
            if task.is_detached:  # else the request logs it
                self._log.failure(
                    "{server}: a change of its files failed", failure, server=task.server.uuid
                )
        if task.is_detached:
            task.server.say(end)

    def _publish(self, task: FileTask[Any], event: str, *args: str) -> None:
        if task.details is not None:
            task.server.publish(event, task.identifier, *args)
