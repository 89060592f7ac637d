"""What the daemon sets for its own process: open files, memory, the clock, and thread pools.

The clock: Twisted measures its timeouts by the wall clock. Set an hour forward (by NTP, or since a
virtual machine was paused), it ends every transfer as stalled; set back, it keeps every silent
peer for as long. `steady` makes the reactor use a monotonic one.
"""

from __future__ import annotations

import ctypes
import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wingsd.config import TransfersConfig
from wingsd.egg_files.rewriters import Rewriters
from wingsd.threadio import Workers

__all__ = ["ENOUGH", "PACKERS", "Pools", "raise_limit", "set_thresholds", "steady"]

#: What a node wants that is asked for much at once: connections, and files of transfers.
ENOUGH = 4096


def raise_limit() -> int:
    """Allow this process as many open files as it may allow itself; return how many these are.

    The usual limit (1,024) is that of programs that hand descriptors to select(2), which this
    one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: Bytes. All blocks of a transfer are smaller.
_MAPPED_FROM = 1 << 20
_TRIMMED_FROM = 16 << 20


def set_thresholds() -> None:
    """Have the heap keep what it will need again in a moment.

    By itself it gives the memory of a block back when that is freed, and is given it anew, page by
    page and full of zeros, for the next: measured, 0.7 of 7 seconds of processor time for 2 GiB,
    and no lower peak. All threads share one heap: in heaps of their own, blocks in use lie between
    free ones, which then cannot be given back (see `trim_heap`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # the GNU C library's own
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED_FROM)
        mallopt(_M_ARENA_MAX, 1)


def steady(reactor: Any) -> None:
    """Have the reactor measure by a clock that nobody sets.

    To be called before anything waits for it. `seconds()` is then no time of day. A reactor with
    a clock of its own keeps it.
    """
    if getattr(type(reactor), "seconds", None) is ReactorBase.seconds:
        reactor.seconds = time.monotonic


#: Seconds that the threads for archives are idle before their memory is given back.
_TRIM_AFTER = 10.0


class HeapTrimmer:
    """Calls `trim` once archives have not been worked on for ten seconds."""

    def __init__(self, reactor: IReactorTime, trim: Callable[[], object]) -> None:
        self._reactor = reactor
        self._trim = trim
        self._scheduled: IDelayedCall | None = None

    def schedule(self) -> None:
        """Trim the heap a little later: work that comes meanwhile uses what is free."""
        self.cancel()
        self._scheduled = self._reactor.callLater(_TRIM_AFTER, self._trim)

    def cancel(self) -> None:
        """Trim no more."""
        if self._scheduled is not None and self._scheduled.active():
            self._scheduled.cancel()


def trim_heap() -> None:
    """Give the heap's free memory back to the kernel, malloc_trim(3). Blocks for milliseconds.

    The C library keeps it: measured, 170 MiB stayed resident after sixteen transfers at once, and
    85 MiB with this.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:  # the GNU C library's own
        malloc_trim(0)


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


class Pools:
    """All of them. `transfers` says how many archives are read at a time, and how nicely."""

    def __init__(self, reactor: Any, transfers: TransfersConfig) -> None:
        # What else these threads start inherits it: they all work on archives.
        self.disk = Workers(reactor, "disk", DISK_WORKERS)
        self._trimmer = HeapTrimmer(reactor, lambda: self.disk.run(trim_heap))
        archives: Any = {"nice": transfers.nice, "when_idle": self._trimmer.schedule}
        self.extractors = Workers(reactor, "extract", transfers.concurrent, **archives)
        self.packers = Workers(reactor, "pack", PACKERS, **archives)
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
        self._trimmer.cancel()
        for workers in self._all:
            workers.stop()
