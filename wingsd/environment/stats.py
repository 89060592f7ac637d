"""What a container uses, from the engine's statistics.

Pure: the Engine API's JSON in, values out. The arithmetic is that of Wings (its `environment/
docker/stats.go`), which is that of `docker stats`, so that a Panel shows the figures its users
know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from wingsd.environment.interface import Usage
from wingsd.environment.state import moment

__all__ = ["Samples", "usage"]

#: Bytes that a sample may have; one of a host with many cores has some ten thousand.
LONGEST = 1024 * 1024


class Samples:
    """The samples in a stream of lines of JSON, put together from the pieces it comes in."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the samples that are complete with `data`; a line that is none is passed over."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= LONGEST else b""
        for line in lines:
            try:
                sample = json.loads(line)
            except ValueError:
                continue
            if isinstance(sample, dict):
                yield sample


def usage(sample: Mapping[str, Any], started: datetime | None) -> Usage | None:
    """Return the usage of a container that runs since `started`; None when it does not run."""
    read = moment(sample.get("read"))
    if read is None:
        return None
    memory = sample.get("memory_stats") or {}
    networks = [network or {} for network in (sample.get("networks") or {}).values()]
    return Usage(
        memory_bytes=_memory(memory),
        memory_limit_bytes=_count(memory, "limit"),
        cpu_absolute=_cpu(sample.get("precpu_stats") or {}, sample.get("cpu_stats") or {}),
        rx_bytes=sum(_count(network, "rx_bytes") for network in networks),
        tx_bytes=sum(_count(network, "tx_bytes") for network in networks),
        uptime=max((read - started) // timedelta(milliseconds=1), 0) if started else 0,
    )


def _count(of: Mapping[str, Any], name: str) -> int:
    return int(of.get(name) or 0)


def _memory(memory: Mapping[str, Any]) -> int:
    """Return the bytes in use, without the part of the file cache that can be dropped."""
    used = _count(memory, "usage")
    details = memory.get("stats") or {}
    # The names of cgroup v1 and v2. Both are in v1's, where the second leaves out what is below.
    for name in ("total_inactive_file", "inactive_file"):
        if name in details and _count(details, name) < used:
            return used - _count(details, name)
    return used


def _cpu(before: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """Return the percentage of one core that was used between two readings."""
    used = _cpu_time(now) - _cpu_time(before)
    passed = _count(now, "system_cpu_usage") - _count(before, "system_cpu_usage")
    if used <= 0 or passed <= 0:
        return 0.0
    cores = _count(now, "online_cpus") or len(_cpu_usage(now).get("percpu_usage") or ()) or 1
    return round(used / passed * cores * 100, 3)


def _cpu_usage(cpu: Mapping[str, Any]) -> Mapping[str, Any]:
    return cpu.get("cpu_usage") or {}


def _cpu_time(cpu: Mapping[str, Any]) -> int:
    return _count(_cpu_usage(cpu), "total_usage")
