"""Settings of the daemon's process: open files, malloc, the reactor's clock, thread pools."""

from __future__ import annotations

import ctypes
import resource
import time
from functools import partial

from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IReactorTime

from wingsd.config import TransfersConfig
from wingsd.egg_files.rewriters import Rewriters
from wingsd.http_client.download import LOOKUPS
from wingsd.threadio import Workers
from wingsd.util.reactor import Reactor, Timer

#: Open files that a busy node needs, for connections and for files of transfers.
RECOMMENDED_LIMIT = 4096


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard limit; return it.

    The usual limit (1,024) is for programs that use select(2), which this one does not.
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
    """Set the C library's thresholds for memory: keep freed blocks for reuse, in one heap.

    By default the library returns a large block to the kernel when it is freed, and requests it
    again for the next: measured, 0.7 of 7 seconds of CPU time for 2 GiB, and no lower peak. By
    default each thread also has a heap of its own, where a few blocks in use keep the free ones
    around them from being returned (see `trim_heap`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # the GNU C library's own
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED_FROM)
        mallopt(_M_ARENA_MAX, 1)


def use_monotonic_clock(reactor: IReactorTime) -> None:
    """Let the reactor measure time by the monotonic clock. Call it before anything is scheduled.

    Twisted uses the wall clock. When that is set forward (by NTP, or after a pause of a virtual
    machine), all transfers time out; when set back, silent peers are kept for as long. A reactor
    with a clock of its own keeps it.
    """
    if getattr(type(reactor), "seconds", None) is ReactorBase.seconds:
        vars(reactor)["seconds"] = time.monotonic


#: Seconds that the threads for archives are idle before their memory is given back.
_TRIM_AFTER = 10.0


def trim_heap() -> None:
    """Give the heap's free memory back to the kernel, malloc_trim(3). Blocks for milliseconds.

    The C library keeps it: measured, 170 MiB stayed resident after sixteen transfers at once, and
    85 MiB with this.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:  # the GNU C library's own
        malloc_trim(0)


#: Archives packed at a time; further ones wait.
PACKERS = 8
# Backups that are restored at a time; further ones wait.
RESTORERS = 2
# Servers whose egg files are rewritten at a time; and those that turn out to be slow, whose
# processes inherit the nice value of their thread.
REWRITERS = 4
SLOW_REWRITERS = 1
SLOW_NICE = 5


class Pools:
    """The thread pools, as `system.transfers` configures them.

    Each has a number of threads, which is how much of its work runs at a time; the rest waits.
    """

    def __init__(self, reactor: Reactor, transfers: TransfersConfig) -> None:
        # Renames and the like, which are short; and what takes as long as disk or tree demand,
        # such as flushing a file system, walking a server's files and deleting them.
        self.disk = Workers(reactor, "disk", 4)
        self.long = Workers(reactor, "long", 16)
        self._trimming = Timer(reactor)
        # Threads started by these inherit the nice value.
        archive_workers = partial(Workers, reactor, nice=transfers.nice, when_idle=self.trim_later)
        self.extractors = archive_workers("extract", transfers.concurrent)
        self.packers = archive_workers("pack", PACKERS)
        # They read servers which run while they are sent: all other work comes first.
        self.followers = Workers(
            reactor, "follow", PACKERS, nice=19, idle_io=True, when_idle=self.trim_later
        )
        # The same for points of histories: one that is made, one that takes long, and one history
        # that is read.
        self.historians = Workers(
            reactor, "history", 3, nice=19, idle_io=True, when_idle=self.trim_later
        )
        # Short work on the disk of histories, which may be one that hangs, such as NFS.
        self.past_disk = Workers(reactor, "pastdisk", 2)
        # Moves of which is read back what has arrived. A lower priority would keep the rest of the
        # move waiting for it, at its end.
        self.rereaders = Workers(reactor, "reread", 1, nice=transfers.nice)
        self.restorers = archive_workers("restore", RESTORERS)
        self.rewriters = Rewriters(
            Workers(reactor, "rewrite", REWRITERS),
            Workers(reactor, "slow", SLOW_REWRITERS, nice=SLOW_NICE),
        )
        # A pull, or a console that the server does not read, occupies one for some seconds.
        self.engine = Workers(reactor, "engine", 8)
        self.database = Workers(reactor, "database", 1)
        # Listings and the like of servers' files, searches, and blocks of files that are sent.
        self.files = Workers(reactor, "files", 4)
        self.searches = Workers(reactor, "search", 2)
        self.reads = Workers(reactor, "read", 4)
        # What users read of the past of servers.
        self.past = archive_workers("past", 8)
        # Large directories.
        self.listings = archive_workers("list", 1)
        # Changes of servers' files that may take long, renames, and archives that are made.
        self.changes = Workers(reactor, "change", 8)
        self.renames = Workers(reactor, "rename", 4)
        self.archivers = archive_workers("compress", 3)
        # Backups of servers, and one that is verified.
        self.backups = archive_workers("backup", 9)
        # They read archives which are uploaded: a piece at a time for each part.
        self.uploads = Workers(reactor, "upload", 2)
        # Archives that are made while a browser saves them: each has its thread until the end.
        self.downloads = archive_workers("download", 8)
        # Backups that are points, while a browser saves them: a piece at a time.
        self.senders = archive_workers("send", 4)
        # What the kernel shows in /proc, and disks of which some may hang.
        self.figures = Workers(reactor, "figures", 1)
        self.filesystems = Workers(reactor, "statvfs", 4)
        self.lookups = Workers(reactor, "lookup", LOOKUPS)

    def trim_later(self) -> None:
        """Trim the heap a little later: work that comes meanwhile uses what is free."""
        self._trimming.start(_TRIM_AFTER, self.disk.run, trim_heap)

    @property
    def _all(self) -> list[Workers | Rewriters]:
        return [each for each in vars(self).values() if isinstance(each, Workers | Rewriters)]

    def start(self) -> None:
        """Accept work."""
        for workers in self._all:
            workers.start()

    def stop(self) -> None:
        """End the threads, without waiting for one that is busy."""
        self._trimming.cancel()
        for workers in self._all:
            workers.stop()
