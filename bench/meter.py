"""Measures a process: CPU, memory over time, and the time of each thread."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from attrs import define, field, frozen

__all__ = ["Cost", "Meter", "ThreadTime"]

_TICKS = os.sysconf("SC_CLK_TCK")
#: Seconds between two readings; a thread that ends is seen until then.
_EVERY = 0.05
_KIB_PER_MIB = 1024


@frozen
class ThreadTime:
    """Seconds of the threads of one name: user mode, kernel, waiting for a core."""

    name: str
    user: float
    system: float
    queued: float


@frozen
class Cost:
    """The cost of a process and its children: seconds, CPU seconds, MiB.

    `memory` is resident memory by time since the beginning, `peak` the highest that the kernel
    has seen since the process was started.
    """

    seconds: float
    cpu: float
    peak: float
    memory: list[tuple[float, float]]
    threads: list[ThreadTime]


@define
class Meter:
    """Measures the process `pid` from `begin` to `end`."""

    pid: int
    _began: float = 0
    _cpu: float = 0
    _memory: list[tuple[float, float]] = field(factory=list)
    #: By thread id: the first and the last reading.
    _first: dict[str, ThreadTime] = field(factory=dict)
    _last: dict[str, ThreadTime] = field(factory=dict)
    _done: threading.Event = field(factory=threading.Event)
    _reader: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to measure, in a thread."""
        self._began = time.monotonic()
        self._cpu = self.cpu()
        self._first = self._threads()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> Cost:
        """Return what was measured."""
        seconds = time.monotonic() - self._began
        self._done.set()
        assert self._reader is not None
        self._reader.join()
        return Cost(
            seconds=seconds,
            cpu=self.cpu() - self._cpu,
            peak=self.peak(),
            memory=self._memory,
            threads=self._sums(),
        )

    def resident(self) -> float:
        """Return the resident memory now, in MiB."""
        return sum(_status(pid, "VmRSS") for pid in self._family())

    def peak(self) -> float:
        """Return the highest resident memory since the process was started, in MiB."""
        return sum(_status(pid, "VmHWM") for pid in self._family())

    def _read(self) -> None:
        while not self._done.wait(_EVERY):
            now = time.monotonic() - self._began
            self._memory.append((now, self.resident()))
            self._last |= self._threads()

    def _family(self) -> list[int]:
        family = [self.pid]
        for pid in family:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with suppress(OSError):  # a thread that has ended
                    family += map(int, children.read_text().split())
        return family

    def cpu(self) -> float:
        """Return the CPU seconds that the process and its children have used since they began."""
        total = 0
        for pid in self._family():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # a child, for which its parent has waited
                if pid == self.pid:
                    raise
            else:
                # in user and system mode, and the same of children that were waited for
                total += sum(map(int, fields[11:15]))
        return total / _TICKS

    def _threads(self) -> dict[str, ThreadTime]:
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
                queued = int((task / "schedstat").read_text().split()[1]) / 1e9
            except OSError:
                continue  # it has ended
            user, system = (int(ticks) / _TICKS for ticks in rest.split()[11:13])
            found[task.name] = ThreadTime(name, user, system, queued)
        return found

    def _sums(self) -> list[ThreadTime]:
        sums: dict[str, list[float]] = {}
        for thread, last in self._last.items():
            first = self._first.get(thread, ThreadTime("", 0, 0, 0))
            total = sums.setdefault(last.name, [0.0, 0.0, 0.0])
            total[0] += last.user - first.user
            total[1] += last.system - first.system
            total[2] += last.queued - first.queued
        busy = [ThreadTime(name, *total) for name, total in sums.items() if sum(total) > _EVERY]
        return sorted(busy, key=lambda one: one.name)


def _status(pid: int, name: str) -> float:
    """Return a figure of /proc/PID/status in MiB; 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0) / (
        _KIB_PER_MIB
    )
