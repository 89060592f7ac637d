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
# Threads for renames and the like, which are short; for what takes as long as a disk or a tree
# demands, such as flushing a file system, walking a server's files and deleting them; and for the
# engine, where a pull, or a console that the server does not read, occupies one for some seconds.
DISK_WORKERS = 4
LONG_WORKERS = 16
ENGINE_WORKERS = 8
# Threads for what the kernel shows in /proc, and for disks of which some may hang.
FIGURES_WORKERS = 1
FILESYSTEM_WORKERS = 4
# The threads that read servers which run while they are sent: all other work comes first.
FOLLOWING_NICE = 19
# Moves of which is read back at a time what has arrived.
REREADERS = 1
# Backups that are restored at a time; further ones wait.
RESTORERS = 2
# Listings and the like of servers' files at a time, searches, and blocks of files that are sent.
FILE_WORKERS = 4
SEARCH_WORKERS = 2
READ_WORKERS = 4
# Listings of large directories at a time.
LISTING_WORKERS = 1
# Changes of servers' files at a time that may take long, renames, and archives that are made.
CHANGE_WORKERS = 8
RENAME_WORKERS = 4
ARCHIVE_WORKERS = 3
# Backups of servers at a time, and one that is verified.
BACKUP_WORKERS = 9
# Threads that read archives which are uploaded: a piece at a time for each part.
UPLOAD_WORKERS = 2
# Archives of files that are made while a browser saves them: each has its thread until the end.
DOWNLOAD_WORKERS = 8
# Servers whose egg files are rewritten at a time; and those that turn out to be slow, whose
# processes inherit the nice value of their thread.
REWRITERS = 4
SLOW_REWRITERS = 1
SLOW_NICE = 5


class Pools:
    """The thread pools, as `system.transfers` configures them."""

    def __init__(self, reactor: Reactor, transfers: TransfersConfig) -> None:
        # Threads started by these inherit the nice value.
        self.disk = Workers(reactor, "disk", DISK_WORKERS)
        self.long = Workers(reactor, "long", LONG_WORKERS)
        self._trimming = Timer(reactor)
        archive_workers = partial(Workers, reactor, nice=transfers.nice, when_idle=self.trim_later)
        self.extractors = archive_workers("extract", transfers.concurrent)
        self.packers = archive_workers("pack", PACKERS)
        self.followers = Workers(
            reactor,
            "follow",
            PACKERS,
            nice=FOLLOWING_NICE,
            idle_io=True,
            when_idle=self.trim_later,
        )
        # A lower priority would keep the rest of the move waiting for it, at its end.
        self.rereaders = Workers(reactor, "reread", REREADERS, nice=transfers.nice)
        self.restorers = archive_workers("restore", RESTORERS)
        self.rewriters = Rewriters(
            Workers(reactor, "rewrite", REWRITERS),
            Workers(reactor, "slow", SLOW_REWRITERS, nice=SLOW_NICE),
        )
        self.engine = Workers(reactor, "engine", ENGINE_WORKERS)
        self.database = Workers(reactor, "database", 1)
        self.files = Workers(reactor, "files", FILE_WORKERS)
        self.searches = Workers(reactor, "search", SEARCH_WORKERS)
        self.reads = Workers(reactor, "read", READ_WORKERS)
        self.listings = archive_workers("list", LISTING_WORKERS)
        self.changes = Workers(reactor, "change", CHANGE_WORKERS)
        self.renames = Workers(reactor, "rename", RENAME_WORKERS)
        self.archivers = archive_workers("compress", ARCHIVE_WORKERS)
        self.backups = archive_workers("backup", BACKUP_WORKERS)
        self.uploads = Workers(reactor, "upload", UPLOAD_WORKERS)
        self.downloads = archive_workers("download", DOWNLOAD_WORKERS)
        self.figures = Workers(reactor, "figures", FIGURES_WORKERS)
        self.filesystems = Workers(reactor, "statvfs", FILESYSTEM_WORKERS)
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
