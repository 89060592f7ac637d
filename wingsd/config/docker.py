"""The section `docker` of the configuration: the engine, its network and its containers."""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.config.servers import InstallerLimits
from wingsd.config.validators import (
    Bytes,
    MiB,
    ip_addresses,
    keyed_by_memory,
    positive,
)

__all__ = [
    "DockerConfig",
    "IPv4",
    "IPv6",
    "Interfaces",
    "LogConfig",
    "NetworkConfig",
    "Overhead",
    "Registry",
]


@attrs.frozen(repr=False)
class IPv4:
    """`docker.network.interfaces.v4`: the IPv4 addresses of the created network."""

    #: The addresses of the network.
    subnet: str = "172.18.0.0/16"
    #: The host's address in it.
    gateway: str = "172.18.0.1"


@attrs.frozen(repr=False)
class IPv6:
    """`docker.network.interfaces.v6`: the IPv6 addresses of the created network."""

    #: The addresses of the network; empty means a network without IPv6.
    subnet: str = "fdba:17c8:6c94::/64"
    #: The host's address in it.
    gateway: str = "fdba:17c8:6c94::1011"


@attrs.frozen(repr=False)
class Interfaces:
    """`docker.network.interfaces`: the addresses of the created network."""

    v4: IPv4 = IPv4()
    v6: IPv6 = IPv6()


@attrs.frozen(repr=False)
class NetworkConfig:
    """`docker.network`: the network that every server's container joins."""

    #: The address that replaces 127.0.0.1 of a server: the host's address in the network.
    interface: str = "172.18.0.1"
    #: The name servers of the containers.
    dns: tuple[str, ...] = ("1.1.1.1", "1.0.0.1")
    #: The network that is created if it is missing and `network_mode` names it. With Pelican the
    #: default is `pelican_nw`; a node that has `pterodactyl_nw` from before goes on using it.
    name: str = "pterodactyl_nw"
    #: Bind no ports to 127.0.0.1.
    ispn: bool = False
    #: The driver of the created network.
    driver: str = "bridge"
    #: The network that containers join: `name`, another existing one, or a mode of the engine,
    #: such as `host`. With Pelican the default is `pelican_nw`.
    network_mode: str = "pterodactyl_nw"
    #: Create the network without access to the outside.
    is_internal: bool = False
    #: Allow connections between containers of the created network.
    enable_icc: bool = True
    #: The MTU of the created network.
    network_mtu: Bytes = 1500
    #: The host interface of the created network (wingsd's own). With Pelican the default is
    #: `pelican0`.
    bridge_name: str = "pterodactyl0"
    interfaces: Interfaces = Interfaces()


@attrs.frozen(repr=False)
class Registry:
    """`docker.registries.*`: the credentials for one registry, by its host."""

    #: The user name.
    username: str = ""
    #: The password or token.
    password: str = attrs.field(default="", repr=False)


@attrs.frozen(repr=False)
class LogConfig:
    """`docker.log_config`: how the engine keeps a container's output."""

    #: The engine's logging driver.
    type: str = "local"
    #: The driver's options: scalars of any type, passed to the engine as text.
    config: dict[str, Any] = attrs.field(
        factory=lambda: {
            "max-size": "5m",
            "max-file": "1",
            "compress": "false",
            "mode": "non-blocking",
        }
    )


@attrs.frozen(repr=False)
class Overhead:
    """`docker.overhead`: memory that a container gets beyond its server's limit, as a factor."""

    #: Use these factors instead of the defaults.
    override: bool = False
    #: The factor for limits above those in `multipliers`.
    default_multiplier: float = 1.05
    #: Memory limits in MB, each with the factor for limits up to it.
    multipliers: dict[str, float] = attrs.field(
        factory=lambda: {"2048": 1.15, "4096": 1.10}, validator=keyed_by_memory
    )


@attrs.frozen(repr=False)
class DockerConfig:
    """`docker`: the engine, and settings of all containers on this node."""

    #: False is for a node that only keeps files, without containers (wingsd's own). It is never
    #: chosen automatically: an engine that does not answer fails a transfer.
    enabled: bool = True
    #: The engine's socket, such as `unix:///run/user/988/docker.sock`; empty means the variable
    #: `DOCKER_HOST`, or else the default socket (wingsd's own).
    socket: str = ""
    network: NetworkConfig = NetworkConfig()
    #: The domain of the containers' host names.
    domainname: str = ""
    registries: dict[str, Registry] = attrs.field(factory=dict)
    #: The size of `/tmp` in every container, in memory.
    tmpfs_size: MiB = attrs.field(default=100, validator=positive)
    #: The maximum number of processes and threads in one container; 0 means no limit.
    container_pid_limit: int = 512
    overhead: Overhead = Overhead()
    #: The user namespace of containers: empty is the engine's default, `host` the host's.
    userns_mode: str = ""
    #: Also find running servers whose containers have names like `NAME.UUID`, which Calagopus'
    #: daemon gives them with this key. This node's own have the UUID as their name.
    server_name_in_container_name: bool = False
    log_config: LogConfig = LogConfig()
    installer_limits: InstallerLimits = InstallerLimits()
    #: Addresses that a Panel offers for allocations beside those of this machine, such as one that
    #: a router translates.
    system_ips: tuple[str, ...] = attrs.field(default=(), validator=ip_addresses)
