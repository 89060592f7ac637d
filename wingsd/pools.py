"""The threads of a node: a pool for each kind of blocking work, so that none waits for another."""

from __future__ import annotations

from typing import Any

from wingsd.bridge import Workers
from wingsd.config import Transfers

__all__ = ["PACKERS", "Pools"]

#: Archives packed at a time; what comes beyond them waits until it is its turn.
PACKERS = 8
#: Threads for renames, syncs and removals, whose work is short; for the eggs' files, which may
#: take long; and for the engine: a pull holds one for some seconds at a time, and so does a
#: console that its server does not read.
DISK_WORKERS = 4
REWRITERS = 4
ENGINE_WORKERS = 8


class Pools:
    """All of them. `transfers` says how many archives are read at a time, and how nicely."""

    def __init__(self, reactor: Any, transfers: Transfers) -> None:
        # What else these threads start inherits it: they all work on archives.
        self.extractors = Workers(reactor, "extract", transfers.concurrent, nice=transfers.nice)
        self.packers = Workers(reactor, "pack", PACKERS, nice=transfers.nice)
        self.disk = Workers(reactor, "disk", DISK_WORKERS)
        self.rewriters = Workers(reactor, "rewrite", REWRITERS)
        self.engine = Workers(reactor, "engine", ENGINE_WORKERS)
        self.journal = Workers(reactor, "journal", 1)

    @property
    def _all(self) -> tuple[Workers, ...]:
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
