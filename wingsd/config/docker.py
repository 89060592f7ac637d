"""`docker`: the engine, and what every container on this node has in common."""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.config.checks import keyed_by_memory, positive

__all__ = ["Docker", "IPv4", "IPv6", "Interfaces", "LogConfig", "Network", "Overhead", "Registry"]


@attrs.frozen
class IPv4:
    """`docker.network.interfaces.v4`."""

    subnet: str = "172.18.0.0/16"
    gateway: str = "172.18.0.1"


@attrs.frozen
class IPv6:
    """`docker.network.interfaces.v6`."""

    subnet: str = "fdba:17c8:6c94::/64"
    gateway: str = "fdba:17c8:6c94::1011"


@attrs.frozen
class Interfaces:
    """`docker.network.interfaces`."""

    v4: IPv4 = IPv4()
    v6: IPv6 = IPv6()


@attrs.frozen
class Network:
    """`docker.network`: the network that every server's container joins."""

    interface: str = "172.18.0.1"
    dns: tuple[str, ...] = ("1.1.1.1", "1.0.0.1")
    name: str = "pterodactyl_nw"
    ispn: bool = False
    driver: str = "bridge"
    network_mode: str = "pterodactyl_nw"
    is_internal: bool = False
    enable_icc: bool = True
    network_mtu: int = 1500
    #: The host interface of the network made from these values (wingsd's own).
    bridge_name: str = "pterodactyl0"
    interfaces: Interfaces = Interfaces()


@attrs.frozen
class Registry:
    """One entry of `docker.registries`."""

    username: str = ""
    password: str = attrs.field(default="", repr=False)


@attrs.frozen
class LogConfig:
    """`docker.log_config`: how the engine keeps a container's output."""

    type: str = "local"
    #: Scalars of any type; the engine gets them as texts.
    config: dict[str, Any] = attrs.field(
        factory=lambda: {
            "max-size": "5m",
            "max-file": "1",
            "compress": "false",
            "mode": "non-blocking",
        }
    )


@attrs.frozen
class Overhead:
    """`docker.overhead`: memory beyond the limit; `multipliers` is up to MB -> factor."""

    override: bool = False
    default_multiplier: float = 1.05
    multipliers: dict[str, float] = attrs.field(
        factory=lambda: {"2048": 1.15, "4096": 1.10}, validator=keyed_by_memory
    )


@attrs.frozen
class Docker:
    """`docker`: the engine and what every container on this node has in common."""

    #: False makes a node of files only, without containers (wingsd's own).
    enabled: bool = True
    #: Where the engine listens; empty is `DOCKER_HOST`, else the usual socket (wingsd's own).
    socket: str = ""
    network: Network = Network()
    domainname: str = ""
    registries: dict[str, Registry] = attrs.field(factory=dict)
    tmpfs_size: int = attrs.field(default=100, validator=positive)
    container_pid_limit: int = 512
    overhead: Overhead = Overhead()
    userns_mode: str = ""
    log_config: LogConfig = LogConfig()
