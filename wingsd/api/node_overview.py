"""The node as Calagopus' Panel shows it: its overview, its figures, its settings, its servers'."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import attrs

from wingsd.api.resource import Endpoint
from wingsd.api.system import machine
from wingsd.config.loader import read_yaml
from wingsd.config.vendors import version_for
from wingsd.errors import Conflict, InvalidData
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.node.redaction import Redaction
from wingsd.servers import PowerState
from wingsd.servers.server import Utilization
from wingsd.util.serialization import Keywords

__all__ = [
    "ConfigEndpoint",
    "OverviewEndpoint",
    "ServersUtilizationEndpoint",
    "StatsEndpoint",
    "UpgradeEndpoint",
]

Amount = Annotated[int, Keywords(minimum=0)]
Rate = Annotated[float, Keywords(minimum=0), "In a second."]

#: Containers of Docker and Podman have one of these.
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


@attrs.frozen
class ProcessorDetails:
    """The processor."""

    name: str
    brand: str
    vendor_id: str
    frequency_mhz: Amount
    cpu_count: Amount


@attrs.frozen
class MemoryDetails:
    """The memory, in bytes."""

    total_bytes: Amount
    free_bytes: Annotated[Amount, "What programs can get."]
    used_bytes: Amount
    used_bytes_process: Annotated[Amount, "By this daemon."]


@attrs.frozen
class ServerNumbers:
    """The numbers of servers."""

    total: Amount
    online: Amount
    offline: Amount


@attrs.frozen
class NodeOverview:
    """The node."""

    version: Annotated[str, "Of wingsd; `develop` with Pelican, with Calagopus the last release."]
    local_time: Annotated[str, Keywords(format="date-time")]
    container_type: Annotated[str, "`none`, or `unknown` where wingsd itself is in a container."]
    cpu: ProcessorDetails
    memory: MemoryDetails
    servers: ServerNumbers
    architecture: str
    kernel_version: str


class OverviewEndpoint(Endpoint):
    """`/api/system/overview`."""

    topic = Topic.NODE

    @call(
        "GET",
        Success(HTTPStatus.OK, "The node."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def get_overview(self, request: StreamingRequest) -> NodeOverview:
        """Return the machine, and how many servers it has."""
        states = [server.state for server in self._node.servers.all()]
        online = sum(state is not PowerState.OFFLINE for state in states)
        processor, used = await self._node.figures.processor(), await self._node.figures.memory()
        here = machine()
        inside = any(map(os.path.exists, _CONTAINER_MARKS))
        return NodeOverview(
            version=version_for(self._config.family),
            local_time=datetime.now().astimezone().isoformat(timespec="seconds"),
            container_type="unknown" if inside else "none",
            cpu=ProcessorDetails(
                name="cpu0",
                brand=processor.model,
                vendor_id=processor.vendor,
                frequency_mhz=processor.frequency,
                cpu_count=here.cpu_threads,
            ),
            memory=MemoryDetails(used.total, used.free, used.used, used.used_process),
            servers=ServerNumbers(len(states), online, len(states) - online),
            architecture=platform.machine(),
            kernel_version=here.kernel_version,
        )


@attrs.frozen
class ProcessorStats:
    """The use of the processor."""

    used: Annotated[float, "Percent of all cores."]
    threads: Amount
    model: str


@attrs.frozen
class NetworkStats:
    """The traffic of the machine, without that within it; bytes and packets."""

    received: Amount
    received_packets: Amount
    receiving_rate: Rate
    received_packets_rate: Rate
    sent: Amount
    sent_packets: Amount
    sending_rate: Rate
    sending_packets_rate: Rate


@attrs.frozen
class MemoryStats:
    """The use of the memory, in bytes."""

    used: Amount
    used_process: Amount
    total: Amount


@attrs.frozen
class DiskStats:
    """The disk with the servers' files, in bytes; what is read and written is of all disks."""

    used: Amount
    total: Amount
    read: Amount
    reading_rate: Rate
    written: Amount
    writing_rate: Rate


@attrs.frozen
class MachineStats:
    """What the machine does."""

    cpu: ProcessorStats
    network: NetworkStats
    memory: MemoryStats
    disk: DiskStats


@attrs.frozen
class NodeStats:
    """What the machine does, for Calagopus' Panel."""

    stats: MachineStats


class StatsEndpoint(Endpoint):
    """`/api/system/stats`."""

    topic = Topic.NODE

    @call(
        "GET",
        Success(HTTPStatus.OK, "What the machine does."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def get_stats(self, request: StreamingRequest) -> NodeStats:
        """Return what the machine does: since its start, and in a second on average.

        Averages are since the last question.
        """
        now, processor = await self._node.figures.now(), await self._node.figures.processor()
        counted, rates, disk = now.counters, now.rates, now.data_disk
        return NodeStats(
            MachineStats(
                cpu=ProcessorStats(rates.cpu_percent, os.cpu_count() or 1, processor.model),
                network=NetworkStats(
                    received=counted.received,
                    received_packets=counted.received_packets,
                    receiving_rate=rates.received,
                    received_packets_rate=rates.received_packets,
                    sent=counted.sent,
                    sent_packets=counted.sent_packets,
                    sending_rate=rates.sent,
                    sending_packets_rate=rates.sent_packets,
                ),
                memory=MemoryStats(now.memory.used, now.memory.used_process, now.memory.total),
                disk=DiskStats(
                    used=disk.used if disk else 0,
                    total=disk.total if disk else 0,
                    read=counted.read,
                    reading_rate=rates.read,
                    written=counted.written,
                    writing_rate=rates.written,
                ),
            )
        )


class ServersUtilizationEndpoint(Endpoint):
    """`/api/servers/utilization`."""

    topic = Topic.SERVERS
    fails = (HTTPStatus.SERVICE_UNAVAILABLE,)

    @call("GET", Success(HTTPStatus.OK, "What each server uses, by its UUID."))
    async def get_servers_utilization(self, request: StreamingRequest) -> dict[str, Utilization]:
        """Return what the servers use, by their UUIDs."""
        return {server.uuid: server.details().utilization for server in self._node.servers.all()}


class ConfigEndpoint(Endpoint):
    """`/api/system/config`."""

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "The configuration."))
    async def get_config(
        self, request: StreamingRequest
    ) -> Annotated[dict[str, Any], "The keys of `config.yml`."]:
        """Return the configuration in force, and the keys of its file that are not used.

        Secrets are empty.
        """
        path = self._node.live.path
        written = await self._node.disk.run(_written, path) if path else {}
        values = _merged(written, attrs.asdict(self._node.config))
        return Redaction(values, endpoints=True).tree(values)


def _written(path: str) -> dict[str, Any]:
    """Return what is in the file; nothing while it cannot be read."""
    try:
        data = read_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, InvalidData):
        return {}
    return data if isinstance(data, dict) else {}


def _merged(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[str, Any]:
    """Return `above` with the keys that only `below` has."""
    merged = {str(key): value for key, value in below.items()}
    for key, value in above.items():
        inner = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        merged[str(key)] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged


class UpgradeEndpoint(Endpoint):
    """`/api/system/upgrade`, which this node does not do."""

    topic = Topic.NODE

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "Never given."),
        fails=(HTTPStatus.CONFLICT,),
    )
    async def upgrade(self, request: StreamingRequest) -> None:
        """Refuse to replace the daemon by a program from elsewhere, always with 409."""
        raise Conflict(
            "this node is upgraded by its package manager",
            "install the new version on the node, such as with apt upgrade wingsd",
        )
