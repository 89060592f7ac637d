"""What the kernel counts: processor time, traffic and disk accesses, and their rates.

The functions read `/proc`, which does not wait for a disk, and are called in a thread: they import
psutil, which takes 1.5 MiB that a node whose Panel does not ask saves.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import attrs

from wingsd.errors import FiguresUnavailable

__all__ = [
    "Counters",
    "MachineMemory",
    "Processor",
    "Rates",
    "hidden",
    "memory",
    "processor",
    "read_counters",
]

#: Interfaces of which the traffic is also that of another, or stays on this machine.
_INNER = re.compile(r"lo$|docker|br-|veth|ifb|tun\d|virbr|pelican0$|pterodactyl0$")


@attrs.frozen(repr=False)
class Counters:
    """What was counted since the machine's start: seconds, bytes and packets.

    `time` is when it was read, in seconds of a clock of the caller's.
    """

    time: float
    processor_time: float
    idle_time: float
    received: int
    received_packets: int
    sent: int
    sent_packets: int
    read: int
    written: int


@attrs.frozen(repr=False)
class Rates:
    """What was counted in a second on average; `cpu_percent` is of all cores, from 0 to 100."""

    cpu_percent: float
    received: float
    received_packets: float
    sent: float
    sent_packets: float
    read: float
    written: float

    @classmethod
    def between(cls, before: Counters, after: Counters) -> Rates:
        """Return the rates between two readings. What was set back counts as 0."""
        seconds = after.time - before.time
        total = after.processor_time - before.processor_time
        busy = total - (after.idle_time - before.idle_time)

        def rate(name: str) -> float:
            counted: int = getattr(after, name) - getattr(before, name)
            return max(counted, 0) / seconds if seconds > 0 else 0.0

        return cls(
            cpu_percent=min(max(100 * busy / total, 0.0), 100.0) if total > 0 else 0.0,
            received=rate("received"),
            received_packets=rate("received_packets"),
            sent=rate("sent"),
            sent_packets=rate("sent_packets"),
            read=rate("read"),
            written=rate("written"),
        )


@attrs.frozen(repr=False)
class MachineMemory:
    """The machine's memory in bytes; `used` is what programs could not get.

    `used_process` is what this daemon has of it. `load` are the averages of 1, 5 and 15 minutes.
    """

    total: int
    used: int
    free: int
    swap_total: int
    swap_used: int
    used_process: int
    load: tuple[float, float, float]


@attrs.frozen(repr=False)
class Processor:
    """The machine's processor: its name, its maker, and its frequency in MHz, 0 if unknown."""

    model: str
    vendor: str
    frequency: int


def read_counters(now: float, bridge: str) -> Counters:
    """Return what is counted; `bridge` is the interface of servers' network, left out as well.

    Raises `FiguresUnavailable`.
    """
    import psutil  # noqa: PLC0415 (see above)

    try:
        times = psutil.cpu_times()
        network = psutil.net_io_counters(pernic=True, nowrap=False)
        disk = psutil.disk_io_counters(nowrap=False)
    except (OSError, psutil.Error) as error:
        raise hidden(error) from error
    outer = [each for name, each in network.items() if name != bridge and not _INNER.match(name)]
    return Counters(
        time=now,
        # The kernel counts the time of guests as that of users, too.
        processor_time=sum(times) - times.guest - times.guest_nice,
        idle_time=times.idle + times.iowait,
        received=sum(each.bytes_recv for each in outer),
        received_packets=sum(each.packets_recv for each in outer),
        sent=sum(each.bytes_sent for each in outer),
        sent_packets=sum(each.packets_sent for each in outer),
        read=disk.read_bytes if disk else 0,
        written=disk.write_bytes if disk else 0,
    )


def memory() -> MachineMemory:
    """Return how much memory the machine has and uses. Raises `FiguresUnavailable`."""
    import psutil  # noqa: PLC0415 (see above)

    try:
        machine, swap = psutil.virtual_memory(), psutil.swap_memory()
        return MachineMemory(
            total=machine.total,
            used=machine.total - machine.available,
            free=machine.available,
            swap_total=swap.total,
            swap_used=swap.used,
            used_process=psutil.Process().memory_info().rss,
            load=os.getloadavg(),
        )
    except (OSError, psutil.Error) as error:
        raise hidden(error) from error


def hidden(error: Exception) -> FiguresUnavailable:
    """Return the error for figures that a sandbox hides."""
    return FiguresUnavailable(
        f"{error}; in a service, ProcSubset= of its unit must not be `pid`, which hides them"
    )


def processor() -> Processor:
    """Return the machine's first processor. What `/proc/cpuinfo` does not say is unknown."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    return Processor(
        model=found.get("model name") or "unknown",
        vendor=found.get("vendor_id") or "unknown",
        frequency=round(float(found.get("cpu MHz") or 0)),
    )
