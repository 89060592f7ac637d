"""What the node uses and where it is reached: the figures on Panels' pages of a node."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.resource import Endpoint
from wingsd.config import CALAGOPUS, Config
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.node.figures import UsedPort, host_addresses, used_ports
from wingsd.panel.schemas import Allocations
from wingsd.util.serialization import Keywords

__all__ = ["AddressesEndpoint", "UsedPortsEndpoint", "UtilizationEndpoint"]

Amount = Annotated[int, Keywords(minimum=0)]
Average = Annotated[float, Keywords(minimum=0)]
Percent = Annotated[float, Keywords(minimum=0, maximum=100)]


@attrs.frozen(eq=False, repr=False)
class DiskDetails:
    """A mounted disk."""

    device: str
    mountpoint: str
    total_space: Amount
    used_space: Amount
    tags: Annotated[list[str], "What the node keeps on it: `Root`, `Logs`, `Data`, …"]


@attrs.frozen(eq=False, repr=False)
class NodeUtilization:
    """What the machine uses, in bytes."""

    memory_total: Amount
    memory_used: Annotated[Amount, "What programs could not get."]
    swap_total: Amount
    swap_used: Amount
    load_average1: Average
    load_average5: Average
    load_average15: Average
    cpu_percent: Annotated[Percent, "Of all cores, since the last question."]
    disk_total: Annotated[Amount, "Of all disks."]
    disk_used: Amount
    disk_details: list[DiskDetails]


class UtilizationEndpoint(Endpoint):
    """`/api/system/utilization`."""

    topic = Topic.NODE

    @call(
        "GET",
        Success(HTTPStatus.OK, "What the machine uses."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def get_utilization(self, request: StreamingRequest) -> NodeUtilization:
        """Return what the machine uses: its processor, memory and disks.

        It answers within a second. A disk that does not answer shows its last figures.
        """
        now = await self._node.figures.now()
        used = now.memory
        return NodeUtilization(
            memory_total=used.total,
            memory_used=used.used,
            swap_total=used.swap_total,
            swap_used=used.swap_used,
            load_average1=used.load[0],
            load_average5=used.load[1],
            load_average15=used.load[2],
            cpu_percent=now.rates.cpu_percent,
            disk_total=sum(disk.total for disk in now.disks),
            disk_used=sum(disk.used for disk in now.disks),
            disk_details=[
                DiskDetails(disk.device, disk.mountpoint, disk.total, disk.used, list(disk.tags))
                for disk in now.disks
            ],
        )


@attrs.frozen(eq=False, repr=False)
class IpAddresses:
    """The node's addresses, for Pelican's Panel."""

    ip_addresses: list[str]


@attrs.frozen(eq=False, repr=False)
class AssignableAddresses:
    """The node's addresses, for Calagopus' Panel."""

    ips: list[str]


class AddressesEndpoint(Endpoint):
    """`/api/system/ips`."""

    topic = Topic.NODE

    @call(
        "GET",
        Success(HTTPStatus.OK, "The addresses."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def list_addresses(self, request: StreamingRequest) -> IpAddresses | AssignableAddresses:
        """List the machine's IP addresses and those of `docker.system_ips`.

        Loopback and link-local addresses are left out; for Calagopus' Panel also those of Docker's
        interfaces.
        """
        if self._config.family == CALAGOPUS:
            return AssignableAddresses(await self._node.workers.run(_assignable, self._config))
        more = self._config.docker.system_ips
        return IpAddresses(await self._node.workers.run(host_addresses, more))


def _assignable(config: Config) -> list[str]:
    docker = config.docker
    return host_addresses(docker.system_ips, without=[docker.network.bridge_name])


@attrs.frozen
class PortsQuery:
    """The addresses in question."""

    ip: Annotated[
        tuple[str, ...], "Addresses of the node; those of `/api/system/ips` without."
    ] = ()


@attrs.frozen(eq=False, repr=False)
class UsedPorts:
    """The ports in use."""

    used: Annotated[dict[str, list[UsedPort]], "By the address, as in the query."]


class UsedPortsEndpoint(Endpoint):
    """`/api/ports/used`."""

    topic = Topic.NODE

    @call(
        "GET",
        Success(HTTPStatus.OK, "The ports."),
        fails=(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    )
    async def list_used_ports(self, request: StreamingRequest, query: PortsQuery) -> UsedPorts:
        """List the ports that a new server could not have at these addresses.

        They are those of the allocations of the node's servers, also of stopped ones, and those at
        which a program of the machine receives, by TCP or UDP.
        """
        servers = {
            server.uuid: server.configuration.settings.allocations
            for server in self._node.servers.all()
        }
        return UsedPorts(await self._node.workers.run(self._find, query.ip, servers))

    def _find(
        self, ips: tuple[str, ...], servers: Mapping[str, Allocations]
    ) -> dict[str, list[UsedPort]]:
        return used_ports(self._config, ips or _assignable(self._config), servers)
