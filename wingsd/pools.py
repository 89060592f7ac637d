"""The threads of a node: a pool for each kind of blocking work, so that none waits for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from wingsd.bridge import Workers
from wingsd.config import Transfers
from wingsd.eggfiles.process import BOUNDS, RewriteBounds, RewriteJob
from wingsd.eggfiles.rewriting import rewrite
from wingsd.model import ConfigurationFile

__all__ = ["PACKERS", "Pools", "Rewriters"]

T = TypeVar("T")

#: Archives packed at a time; what comes beyond them waits until it is its turn.
PACKERS = 8
#: Threads for renames, syncs and removals, whose work is short; and for the engine: a pull holds
#: one for some seconds at a time, and so does a console that its server does not read.
DISK_WORKERS = 4
ENGINE_WORKERS = 8
#: Servers whose egg files are rewritten at a time, and of those that were slow the last time.
REWRITERS = 4
SLOW_REWRITERS = 1


class Rewriters:
    """Rewrites egg files in threads; each thread has at most one process that parses.

    The servers' users decide how long that takes, within the bounds. A server for which it took
    long waits in `slow` the next time, where it delays only its like.
    """

    def __init__(self, workers: Workers, slow: Workers, bounds: RewriteBounds = BOUNDS) -> None:
        self._workers = workers
        self._slow = slow
        self._bounds = bounds
        self._jobs: set[RewriteJob] = set()

    def start(self) -> None:
        """Accept work."""
        self._workers.start()
        self._slow.start()

    def stop(self) -> None:
        """End all processes, and the threads as `Workers` does."""
        for job in self._jobs:
            job.cancel()
        self._workers.stop()
        self._slow.stop()

    def begin(
        self,
        root: str,
        owner: tuple[int, int],
        files: Sequence[ConfigurationFile],
        node: Mapping[str, Any],
        *,
        slow: bool,
    ) -> tuple[RewriteJob, Deferred[list[str]]]:
        """Begin to rewrite a server's egg files, as `wingsd.eggfiles.rewriting.rewrite` does.

        Returns the job, to be cancelled or asked whether it was slow, and what fires with the
        lines for people when it has ended, cancelled or not.
        """
        job = RewriteJob(self._bounds)
        self._jobs.add(job)
        workers = self._slow if slow else self._workers
        working = workers.run(rewrite, root, owner, files, node, job.rewrite)
        return job, working.addBoth(self._ended, job)

    def _ended(self, outcome: T, job: RewriteJob) -> T:
        self._jobs.discard(job)
        return outcome


class Pools:
    """All of them. `transfers` says how many archives are read at a time, and how nicely."""

    def __init__(self, reactor: Any, transfers: Transfers) -> None:
        # What else these threads start inherits it: they all work on archives.
        self.extractors = Workers(reactor, "extract", transfers.concurrent, nice=transfers.nice)
        self.packers = Workers(reactor, "pack", PACKERS, nice=transfers.nice)
        self.disk = Workers(reactor, "disk", DISK_WORKERS)
        self.rewriters = Rewriters(
            Workers(reactor, "rewrite", REWRITERS),
            Workers(reactor, "slow", SLOW_REWRITERS),
        )
        self.engine = Workers(reactor, "engine", ENGINE_WORKERS)
        self.journal = Workers(reactor, "journal", 1)

    @property
    def _all(self) -> tuple[Workers | Rewriters, ...]:
        return (
            self.extractors,
            self.packers,
            self.disk,
            self.rewriters,
            self.engine,
            self.journal,
        )

    def start(self) -> None:
        """Accept work."""
        for workers in self._all:
            workers.start()

    def stop(self) -> None:
        """End the threads, without waiting for one that still works."""
        for workers in self._all:
            workers.stop()
