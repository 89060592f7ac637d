"""The figures of a server over its runs, and messages about the resources that it lacked.

They count since this daemon has the server, but for the usage, which is of the current run.
"""

from __future__ import annotations

import attrs

from wingsd.docker.cgroups import RECENT
from wingsd.docker.runtime import ContainerUsage
from wingsd.util.text import readable_size

#: The reasons by which unrequested ends of programs are counted: the program itself,
#: the kernel for the server's limit of memory or for the node's, this node for the limit of disk.
EXIT, MEMORY_LIMIT, NODE_MEMORY, DISK_LIMIT = CRASH_REASONS = (
    "exit",
    "memory_limit",
    "node_memory",
    "disk_limit",
)
#: Seconds over which the throttling of a server is looked at, the part of them from which on it is
#: said, and the seconds after which it is said again.
WINDOW = 60.0
THROTTLED = 0.1
SAY_AGAIN_AFTER = 3600.0


@attrs.frozen(repr=False)
class Rates:
    """Bytes a second, between the last two readings."""

    read: float = 0.0
    written: float = 0.0
    received: float = 0.0
    sent: float = 0.0


def rates(before: ContainerUsage, now: ContainerUsage) -> Rates:
    """Return the rates between two readings of a run; zeros without two."""
    seconds = (now.uptime - before.uptime) / 1000
    if seconds <= 0 or not before.uptime:
        return Rates()
    found = []
    for one, other, names in (
        (before.disk_io, now.disk_io, ("read_bytes", "write_bytes")),
        (before.network, now.network, ("rx_bytes", "tx_bytes")),
    ):
        for name in names:
            change = getattr(other, name, 0) - getattr(one, name, 0) if one and other else 0
            found.append(max(change, 0) / seconds)
    return Rates(*found)


class ServerFigures:
    """Counts what happens to a server, and finds out when it was throttled."""

    def __init__(self) -> None:
        #: Starts of its program by this node.
        self.starts = 0
        #: Ends that were not requested, by `CRASH_REASONS`.
        self.crashes = dict.fromkeys(CRASH_REASONS, 0)
        #: Lines that its programs have written to the console, without those that were left out.
        self.lines = 0
        self.oom_kills = 0
        #: What its program uses, as last measured; zero when it is offline.
        self.usage = ContainerUsage()
        self.rates = Rates()
        #: The kills that were counted in this run; None before the first reading of one that this
        #: daemon has not started.
        self._kills: int | None = None
        #: The milliseconds since the start at which the last of them was seen.
        self._killed_at: int | None = None
        #: The beginning of the window: seconds since the start, and those throttled until then.
        self._window = (0.0, 0.0)
        self._said: float | None = None

    def begin(self) -> None:
        """Count a start."""
        self.starts += 1
        self._kills = 0

    def take(self, usage: ContainerUsage, now: float) -> float:
        """Take a reading; return the seconds of the last minute that are to be said as throttled.

        `now` is by the reactor's clock. It is 0 where nothing is to be said.
        """
        self.rates = rates(self.usage, usage)
        self.usage = usage
        if usage.oom_kills is not None:
            # Those before this daemon saw the run are not its own to count.
            more = 0 if self._kills is None else usage.oom_kills - self._kills
            if more > 0:
                self.oom_kills += more
                self._killed_at = usage.uptime
            self._kills = usage.oom_kills
        return self._throttled(usage, now)

    def _throttled(self, usage: ContainerUsage, now: float) -> float:
        seconds, throttled = usage.uptime / 1000, usage.throttled_seconds or 0.0
        since, before = self._window
        if seconds - since < WINDOW and seconds >= since:
            return 0.0
        self._window = seconds, throttled
        found = throttled - before
        # A longer pause, or another run, is no last minute.
        if not WINDOW <= seconds - since < 2 * WINDOW or found <= THROTTLED * (seconds - since):
            return 0.0
        if self._said is not None and now - self._said < SAY_AGAIN_AFTER:
            return 0.0
        self._said = now
        return found

    def killed(self) -> None:
        """Count the kill that has ended the run, unless one of its last readings had it."""
        seen = self._killed_at
        if seen is None or self.usage.uptime - seen > 1000 * RECENT:
            self.oom_kills += 1

    def end(self) -> None:
        """End the usage of a run."""
        self.usage, self.rates = ContainerUsage(), Rates()
        self._kills = self._killed_at = None
        self._window = (0.0, 0.0)


def killed_text(last: ContainerUsage, *, of_node: bool) -> str:
    """Return the sentence about a server that was killed since memory ran out.

    `last` is its last reading.
    """
    limit = readable_size(last.memory_limit_bytes) if last.memory_limit_bytes else ""
    if of_node:
        used = f", it used {readable_size(last.memory_bytes)}" if last.memory_bytes else ""
        of = f" of {limit}" if used and limit else ""
        return (
            f"The server was killed: the memory of the node ran out{used}{of}; an administrator "
            "has to give this node's servers less, or move one away."
        )
    used = f", it used {limit} of {limit}" if limit else ""
    return (
        f"The server was killed: out of memory{used}; raise its memory limit, or have its program "
        "take less."
    )


def throttled_text(seconds: float, cpu_limit: int) -> str:
    """Return the sentence about a throttled server; `cpu_limit` in percent, 0 for none."""
    limit = f" of {cpu_limit} %" if cpu_limit > 0 else ""
    return (
        f"The server was throttled for {seconds:.0f} s of the last minute by its CPU limit"
        f"{limit}; raise the limit, or have it do less."
    )


def too_large_text(used: int, limit: int) -> str:
    """Return the sentence about a server that is stopped above its disk limit."""
    return (
        f"The server is stopped: its files take {readable_size(used)} of "
        f"{readable_size(limit)}; delete files, or raise its disk limit."
    )
