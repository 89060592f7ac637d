"""Threads that rewrite egg files, each with at most one process that parses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from wingsd.egg_files.process import BOUNDS, RewriteBounds, RewriteJob
from wingsd.egg_files.rewrite import rewrite
from wingsd.panel.schemas import ConfigurationFile
from wingsd.threadio import Workers

__all__ = ["Rewriters"]

T = TypeVar("T")


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
        """Begin to rewrite a server's egg files, as `wingsd.egg_files.rewrite.rewrite` does.

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
