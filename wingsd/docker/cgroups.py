"""The figures of running containers, read every second from their control groups (version 2).

The kernel makes up these files when they are read: no disk is waited for, and the engine is not
asked. Where they cannot be read (version 1, an engine on another machine, a sandbox that hides the
processes of other users), `Readings.meter` returns None, and the engine's statistics are used.

A container's group is removed some milliseconds after its last process has ended. The counts of
the group above it stay, and tell whose memory ran out when the container was killed.
"""

from __future__ import annotations

import os
import re
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.docker.runtime import (
    ContainerState,
    ContainerUsage,
    DiskIo,
    NetworkUsage,
    Pressure,
)
from wingsd.threadio import Workers
from wingsd.util.reactor import Periodic

UsageListener = Callable[[ContainerUsage], object]

ROOT = "/sys/fs/cgroup"
PROC = "/proc"
#: Seconds between two readings of a container.
INTERVAL = 1.0
#: Seconds before a container's end within which the kill of a process counts as its cause: a large
#: process takes some to give its memory back.
RECENT = 30.0
#: The exit status of a program that SIGKILL has ended, or of a shell around it.
KILLED = 137
#: Seconds of a period, in each of which a container may use its share of CPU time: Docker's, and
#: that of `container.resources`.
PERIOD = 0.1
#: Bytes of a file that are read.
_MOST = 64 * 1024

# A number of 64 bits.
_N = rb"(\d{1,20})"
_SOME = re.compile(rb"^some avg10=(\d{1,3}\.\d{1,2}) .*total=%b$" % _N, re.MULTILINE)
_IO = re.compile(rb" rbytes=%b wbytes=%b rios=%b wios=%b" % (_N, _N, _N, _N))
#: Of proc_net_dev(5): bytes and packets received, and sent.
_INTERFACE = re.compile(
    rb"^ *(?!lo:)[^:\s]+: *%b +%b(?: +\d+){6} +%b +%b " % (_N, _N, _N, _N), re.MULTILINE
)
_DIGITS = 20


def read_file(path: str) -> bytes | None:
    """Return the content of a file of the kernel; None where it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        return os.read(file, _MOST)
    except OSError:  # of a group that was removed meanwhile
        return None
    finally:
        os.close(file)


class _Directory:
    """Files of the kernel in one directory, such as those of a control group.

    They stay open: opening and closing cost most of a reading.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        #: Descriptors by names, None of files that do not exist.
        self._files: dict[str, int | None] = {}
        weakref.finalize(self, _close, self._files)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None where it cannot be read."""
        try:
            if name not in self._files:
                path = f"{self.directory}/{name}"
                self._files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            file = self._files[name]
            return None if file is None else os.pread(file, _MOST, 0)
        except FileNotFoundError:
            self._files[name] = None
        except (OSError, ValueError):  # of a group that was removed meanwhile
            pass
        return None

    def number(self, name: str, line: bytes = b"") -> int | None:
        """Return a number of a file, as `_number` does."""
        return _number(self.read(name), line)

    def close(self) -> None:
        """Close the files."""
        _close(self._files)

    def events(self) -> Events:
        """Return what is counted of the group and those in it; zeros where it cannot be read."""
        data = self.read("memory.events")
        return Events(_number(data, b"oom") or 0, _number(data, b"oom_kill") or 0)


def _close(files: dict[str, int | None]) -> None:
    while files:
        _, file = files.popitem()
        if file is not None:
            os.close(file)


def _number(data: bytes | None, name: bytes = b"") -> int | None:
    """Return the number in the line that begins with a name; without one, in the first line."""
    start = b"\n" + name + b" " if name else b"\n"
    _, found, rest = (b"\n" + (data or b"")).partition(start)
    word = rest.partition(b"\n")[0]
    return int(word) if found and word.isdigit() and len(word) <= _DIGITS else None


def _sums(rows: Iterable[tuple[bytes, ...]]) -> list[int]:
    """Return the sums of four columns of numbers."""
    sums = [0] * 4
    for row in rows:
        sums = [total + int(each) for total, each in zip(sums, row, strict=True)]
    return sums


def pressures(read: Callable[[str], bytes | None]) -> dict[str, Pressure]:
    """Return the pressure by resource: `cpu`, `memory` and `io`, as far as there are such files.

    `read` is given the names of the resources.
    """
    found = {}
    for resource in ("cpu", "memory", "io"):
        some = _SOME.search(read(resource) or b"")
        if some is not None:
            found[resource] = Pressure(float(some[1]), int(some[2]) / 1e6)
    return found


@cache
def machine_memory() -> int:
    """Return the bytes of memory that the machine had when it was first asked."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def throttled_seconds(seconds: float, periods: int) -> float:
    """Return for how long a container was throttled, at most, by the kernel's two counts.

    The kernel adds up the `seconds` of all processors, and counts the `periods` in which one of
    them was throttled.
    """
    return min(seconds, periods * PERIOD)


class Events(NamedTuple):
    """How often a group's limit of memory was reached for good, and processes killed."""

    limit_reached: int
    kills: int


@attrs.define(eq=False, repr=False)
class Meter:
    """Reads the figures of one container. All methods block, for some 0.1 ms.

    `group` is the directory of its control group, `network` that of the file `dev` with the
    figures of its interfaces, None for a container in the machine's own network.
    """

    _group: _Directory = attrs.field(converter=_Directory)
    _network: _Directory | None = attrs.field(converter=attrs.converters.optional(_Directory))
    _started: datetime | None
    #: When it was started, by the monotonic clock.
    _began: float | None = attrs.field(default=None, init=False)
    #: When it was last read, by the monotonic clock, and the CPU seconds then.
    _before: tuple[float, float] | None = attrs.field(default=None, init=False)
    _own: Events = attrs.field(init=False)
    _above: Events = attrs.field(init=False)
    #: When a kill was last seen, and whether the container's own limit was the reason.
    _killed: float | None = attrs.field(default=None, init=False)
    _by_limit: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._above, self._own = _Directory(self.directory_above).events(), self._group.events()
        if self._started is not None:
            age = (datetime.now(UTC) - self._started).total_seconds()
            self._began = time.monotonic() - max(age, 0.0)

    @property
    def directory_above(self) -> str:
        """The group that the container's is in."""
        return os.path.dirname(self._group.directory)

    def read(self, above: Events | None = None) -> ContainerUsage | None:
        """Return the usage; None when the container has ended.

        `above` are the counts of the group above it. They are older than its own: what happens
        meanwhile is in these.
        """
        above = above or _Directory(self.directory_above).events()
        group = self._group
        cpu = group.read("cpu.stat")
        used, memory = _number(cpu, b"usage_usec"), group.number("memory.current")
        network = self._read_network()
        if used is None or memory is None or (self._network and network is None):
            group.close()
            if self._network:
                self._network.close()
            return None
        seconds, percent = used / 1e6, 0.0
        now = time.monotonic()
        if self._before is not None and now > self._before[0]:
            percent = 100 * (seconds - self._before[1]) / (now - self._before[0])
        self._before = now, seconds
        own = group.events()
        if own.kills > self._own.kills:
            self._killed, self._by_limit = now, own.limit_reached > self._own.limit_reached
        self._above, self._own = above, own
        inactive = group.number("memory.stat", b"inactive_file") or 0
        limit, most = group.number("memory.max"), machine_memory()
        moved = self._read_disk()
        throttled, periods = _number(cpu, b"throttled_usec"), _number(cpu, b"nr_throttled")
        return ContainerUsage(
            memory_bytes=memory - inactive if inactive < memory else memory,
            memory_limit_bytes=most if limit is None else min(limit, most),
            cpu_absolute=round(max(percent, 0.0), 3),
            network=network,
            disk_io=DiskIo(*moved[:2]) if moved else None,
            uptime=0 if self._began is None else int((now - self._began) * 1000),
            cpu_seconds=seconds,
            throttled_seconds=(
                None
                if throttled is None or periods is None
                else throttled_seconds(throttled / 1e6, periods)
            ),
            memory_peak_bytes=group.number("memory.peak"),
            pressure=pressures(lambda resource: group.read(f"{resource}.pressure")),
            oom_kills=own.kills,
            disk_operations=(moved[2], moved[3]) if moved else None,
            processes=group.number("pids.current"),
        )

    def _read_network(self) -> NetworkUsage | None:
        data = self._network.read("dev") if self._network else None
        if data is None:
            return None
        received, received_packets, sent, sent_packets = _sums(_INTERFACE.findall(data))
        return NetworkUsage(received, sent, received_packets, sent_packets)

    def _read_disk(self) -> list[int] | None:
        data = self._group.read("io.stat")
        return None if data is None else _sums(_IO.findall(data))

    def cause(self, status: int | None, *, reported: bool) -> tuple[bool, bool]:
        """Return why a container has ended: since memory ran out, and since that of the node did.

        `status` is its exit status, `reported` whether the engine says that memory ran out: it
        says so of each container of which a process was killed at any time.
        """
        if self._killed is not None and time.monotonic() - self._killed < RECENT:
            return True, not self._by_limit
        above = _Directory(self.directory_above).events()
        if above.kills > self._above.kills and (reported or status == KILLED):
            return True, above.limit_reached <= self._above.limit_reached
        return reported and not self._own.kills, False


def _places(state: ContainerState, root: str, table: str) -> Iterator[str]:
    """Yield the directories that may be the group of a container: its id is in the name.

    `table` is the file with the groups of its process. A program in it may be in a group below.
    """
    for line in (read_file(table) or b"").decode("utf-8", "replace").splitlines():
        version, _, path = line.partition("::")
        above, found, within = path.partition(state.id)
        if version == "0" and found and ".." not in above:
            yield f"{root}{above}{found}{within.partition('/')[0]}"
    yield f"{root}/system.slice/docker-{state.id}.scope"
    yield f"{root}/docker/{state.id}"


def find_meter(state: ContainerState, root: str = ROOT, proc: str = PROC) -> Meter | None:
    """Return the meter of a running container; None where its figures cannot be read. Blocking.

    Its group is named in `/proc`; where that is hidden, it is one of Docker's two usual places.
    """
    network = None if state.has_machine_network else f"{proc}/{state.pid}/net"
    for place in _places(state, root, f"{proc}/{state.pid}/cgroup"):
        meter = Meter(place, network, state.started)
        if meter.read() is not None:
            return meter
    return None


class Readings:
    """Reads all running containers every second, in one call in a thread of `workers`."""

    _log = Logger()

    def __init__(
        self, workers: Workers, reactor: IReactorTime, root: str = ROOT, proc: str = PROC
    ) -> None:
        self._workers = workers
        self._places = (root, proc)
        #: What takes the readings, and what fires when the container has ended.
        self._followed: dict[Meter, tuple[UsageListener, Deferred[None]]] = {}
        self._loop = Periodic(reactor, self._read)

    def meter(self, state: ContainerState) -> Deferred[Meter | None]:
        """Return the meter of a running container; None where its figures cannot be read."""
        return self._workers.run(find_meter, state, *self._places)

    def follow(self, meter: Meter, take: UsageListener) -> Deferred[None]:
        """Call `take` with each reading; return what fires when the container has ended.

        Cancelling that ends the readings.
        """

        def cancelled(_: object) -> None:
            self._followed.pop(meter, None)

        ended: Deferred[None] = Deferred(cancelled)
        self._followed[meter] = (take, ended)
        if not self._loop.running:
            self._loop.start(INTERVAL, now=False)
        return ended

    def cause(
        self, meter: Meter, status: int | None, *, reported: bool
    ) -> Deferred[tuple[bool, bool]]:
        """Return why a container has ended; see `Meter.cause`."""
        return self._workers.run(meter.cause, status, reported=reported)

    async def _read(self) -> None:
        meters = list(self._followed)
        if not meters:
            self._loop.stop()
            return
        try:
            found = await self._workers.run(read_all, meters)
        except Exception:
            self._log.failure("the control groups of servers were not read")
            return
        for meter, usage in zip(meters, found, strict=True):
            if meter not in self._followed:
                continue
            take, ended = self._followed[meter]
            if usage is not None:
                take(usage)
            else:
                del self._followed[meter]
                ended.callback(None)


def read_all(meters: Sequence[Meter]) -> list[ContainerUsage | None]:
    """Return the usage of each container, None of those that have ended. Blocking."""
    # Most are in one group.
    above = {
        each: _Directory(each).events() for each in {meter.directory_above for meter in meters}
    }
    return [meter.read(above[meter.directory_above]) for meter in meters]
