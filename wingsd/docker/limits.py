"""The limits of a running container: changed without a restart, by the engine's update.

In an update the engine takes 0 and an empty text for "as it was", so a limit that is lifted gets
the value that stands for none, or what the whole machine has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker import APIClient

from wingsd.config import Config
from wingsd.docker.container import resources
from wingsd.panel.schemas import Build

__all__ = ["UNLIMITED_SWAP", "limit_changes", "update_container", "update_values"]

#: docker-py's names of the limits that an update can change, by those of the Engine API.
_NAMES = {
    "Memory": "mem_limit",
    "MemoryReservation": "mem_reservation",
    "MemorySwap": "memswap_limit",
    "BlkioWeight": "blkio_weight",
    "CpuQuota": "cpu_quota",
    "CpuPeriod": "cpu_period",
    "CpuShares": "cpu_shares",
    "CpusetCpus": "cpuset_cpus",
}
#: Bytes of memory and swap that no machine has. The engine takes -1 and does not apply it.
UNLIMITED_SWAP = 1 << 60
#: Limits that the engine compares with each other.
_MEMORY = ("Memory", "MemoryReservation", "MemorySwap")


def limit_changes(config: Config, before: Build, after: Build) -> dict[str, Any]:
    """Return the limits that differ, by their names in the Engine API. One that is lifted is 0."""
    old, new = resources(config, before), resources(config, after)
    changed = {name for name in _NAMES if new.get(name) != old.get(name)}
    if changed.intersection(_MEMORY):
        changed.update(_MEMORY)
    return {name: new.get(name) or 0 for name in _NAMES if name in changed}


def update_values(changes: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an update that makes these changes.

    `machine` is the engine's answer to `GET /info`. A weight that is taken away stays as it is
    until the next start.
    """
    lifted = {
        "Memory": machine["MemTotal"],
        "MemoryReservation": machine["MemTotal"],
        "MemorySwap": UNLIMITED_SWAP,
        "CpuQuota": -1,
        "CpusetCpus": f"0-{machine['NCPU'] - 1}",
    }
    if changes.get("Memory"):
        # What the engine gives a new container without a limit of swap.
        lifted["MemorySwap"] = 2 * changes["Memory"]
    values = {name: value or lifted.get(name) for name, value in changes.items()}
    if values.get("MemorySwap") == -1:
        values["MemorySwap"] = UNLIMITED_SWAP
    return {name: value for name, value in values.items() if value is not None}


def update_container(client: APIClient, name: str, changes: Mapping[str, Any]) -> list[str]:
    """Change limits of a container; return the engine's warnings."""
    values = update_values(changes, client.info())
    arguments = {_NAMES[limit]: value for limit, value in values.items()}
    answer = client.update_container(name, **arguments) if arguments else {}
    return list(answer.get("Warnings") or ())
