"""Threads that rewrite egg files before a server starts, each with at most one parsing process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock

from wingsd.config import Config
from wingsd.egg_files.process import BOUNDS, RewriteBounds, RewriteJob, rewrite
from wingsd.filesystem.root import ServerRoot
from wingsd.panel.schemas import Configuration, ConfigurationFile
from wingsd.threadio import Workers

T = TypeVar("T")


class Rewriters:
    """Rewrites egg files in threads; each thread has at most one process that parses.

    The servers' users decide how long that takes, within the bounds. A server whose files turn
    out to be slow to parse gets a thread of `slow`, now and the next time, where it delays only
    similar ones.
    """

    def __init__(self, workers: Workers, slow: Workers, bounds: RewriteBounds = BOUNDS) -> None:
        self._workers = workers
        self._slow = slow
        self._bounds = bounds
        self._jobs: set[RewriteJob] = set()
        self._stopped = False

    def start(self) -> None:
        """Accept work."""
        self._workers.start()
        self._slow.start()

    def stop(self) -> None:
        """End all processes, and the threads as `Workers` does; no other process starts."""
        self._stopped = True
        for job in self._jobs:
            job.cancel()
        self._workers.stop()
        self._slow.stop()

    def begin(
        self,
        open_root: Callable[[], ServerRoot],
        files: Sequence[ConfigurationFile],
        node: Mapping[str, Any],
        *,
        slow: bool,
    ) -> tuple[RewriteJob, Deferred[list[str]]]:
        """Begin to rewrite a server's egg files, as `rewrite` does.

        Returns the job, to cancel it or to read whether it was slow, and a Deferred that fires
        with the messages when it has ended, cancelled or not.
        """
        job = RewriteJob(self._bounds, quick=not slow)
        if self._stopped:
            job.cancel()
        self._jobs.add(job)
        workers = self._slow if slow else self._workers
        working = workers.run(rewrite, open_root, files, node, job.rewrite)
        return job, working.addBoth(self._ended, job)

    def _ended(self, outcome: T, job: RewriteJob) -> T:
        self._jobs.discard(job)
        return outcome


def public_configuration(config: Config) -> dict[str, Any]:
    """Return the node's configuration without secrets, for placeholders in an egg's files.

    Values that an egg writes into a server's files are readable by the server's users.
    """
    public = attrs.asdict(config)
    del public["token"], public["token_id"], public["docker"]["registries"]
    return public


class ServerEggFiles:
    """The egg's files of one server, rewritten by one thread at a time.

    `open_root` opens the server's directory, in a thread. A cancelled start ends the process
    that parses, but not its thread at once. The next start waits for the thread, so that a server
    never has more than one thread and one process.

    `grown` is called with the bytes by which the files have grown together, negative if they
    have shrunk.
    """

    def __init__(
        self,
        rewriters: Rewriters,
        open_root: Callable[[], ServerRoot],
        config: Config,
        grown: Callable[[int], object],
    ) -> None:
        self._rewriters = rewriters
        self._open_root = open_root
        self._config = config
        self._grown = grown
        self._lock = DeferredLock()
        self._slow = False

    async def rewrite(self, configuration: Configuration) -> list[str]:
        """Rewrite the egg's files; return a line for each that could not be rewritten."""
        files = configuration.process.configs
        if not files:
            return []
        node = public_configuration(self._config)
        while True:
            await self._lock.acquire()
            job, working = self._rewriters.begin(self._open_root, files, node, slow=self._slow)
            done = Deferred[list[str]]()
            working.addBoth(self._ended, job).chainDeferred(done)
            try:
                lines = await done
            except CancelledError:
                job.cancel()
                raise
            if not job.unfinished:
                return lines

    def _ended(self, outcome: Any, job: RewriteJob) -> Any:
        # A job that was cancelled before it had a process does not show how slow the files are.
        if job.slow or not job.cancelled:
            self._slow = job.slow
        self._grown(job.growth)
        self._lock.release()
        return outcome
