"""Figures of a running daemon from the kernel: its memory and open files."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from twisted.internet.task import deferLater

from tests.support.node_process import NodeProcess, reactor

MIB = 1024 * 1024
_TICKS = os.sysconf("SC_CLK_TCK")


def memory(daemon: NodeProcess, name: str) -> int:
    """Return the daemon's memory in bytes: `VmRSS` what it has, `VmHWM` the most it ever had."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def open_files(daemon: NodeProcess) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


async def at_rest(daemon: NodeProcess) -> None:
    """Return when it takes less than a quarter of a core: one that only turns round never does."""
    for _ in range(20):
        before, began = _cpu_seconds(daemon), reactor.seconds()
        await deferLater(reactor, 0.5)
        if _cpu_seconds(daemon) - before < 0.25 * (reactor.seconds() - began):
            return
    raise AssertionError("it does not come to rest")


def _cpu_seconds(daemon: NodeProcess) -> float:
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def nice_values(daemon: NodeProcess) -> dict[str, set[int]]:
    """Return the nice values of its threads, by their names."""
    found: dict[str, set[int]] = {}
    for stat in Path(f"/proc/{daemon.pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            found.setdefault(name, set()).add(int(rest.split()[16]))
    return found
