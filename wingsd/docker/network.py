"""The network that a server's container joins, and its ports, as Engine API JSON.

Pure. The network driver's options are those Wings gives, so that a network either of them made
serves both.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import attrs

from wingsd.config import Config
from wingsd.panel.schemas import Allocations, Settings

__all__ = ["NetworkSpec", "network_mode", "network_spec", "port_bindings", "reachable"]

_LOOPBACK = "127.0.0.1"
_ANY = "0.0.0.0"  # noqa: S104 - where the engine binds a port that has no address of its own
_MAX_PORT = 65535
_PROTOCOLS = ("tcp", "udp")
_ENGINES_OWN_NETWORKS = ("", "default", "bridge", "host", "none")


@attrs.frozen
class NetworkSpec:
    """A network by name; `body` is how to create it, None for one that has to exist already."""

    name: str
    body: dict[str, Any] | None = None


def network_spec(config: Config, server: Settings) -> NetworkSpec | None:
    """Return the network that must exist for `server`, None for one of the engine's own."""
    network = config.docker.network
    forced = _forced_ip(server.allocations)
    if forced:
        return NetworkSpec(_forced_network_name(forced), _forced_network(forced))
    if network.network_mode == network.name:
        return NetworkSpec(network.name, _main_network(config))
    mode = network.network_mode
    if mode in _ENGINES_OWN_NETWORKS or mode.startswith("container:"):
        return None
    return NetworkSpec(mode)


def network_mode(config: Config, server: Settings) -> str:
    """Return the name of the network, or the mode of the engine, that the container joins."""
    forced = _forced_ip(server.allocations)
    return _forced_network_name(forced) if forced else config.docker.network.network_mode


def reachable(config: Config, ip: str) -> str:
    """Return the address by which containers and the host reach what is said to be at `ip`."""
    # The host's loopback does not lead into a container; the network's own address does.
    return config.docker.network.interface if ip == _LOOPBACK else ip


def port_bindings(config: Config, allocations: Allocations) -> dict[str, list[dict[str, str]]]:
    """Return the server's ports, each with the host addresses it is bound to."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for ip, ports in allocations.mappings.items():
        if ip == _LOOPBACK and config.docker.network.ispn:
            continue
        for port in ports:
            if not 0 < port <= _MAX_PORT:
                continue
            binding = {"HostIp": reachable(config, ip), "HostPort": str(port)}
            for protocol in _PROTOCOLS:
                of_port = bindings.setdefault(f"{port}/{protocol}", [])
                # 127.0.0.1 may have become an address that is mapped as well.
                if binding not in of_port:
                    of_port.append(binding)
    return bindings


def _forced_ip(allocations: Allocations) -> str:
    """Return the address that the server's own traffic must come from; empty for any."""
    ip = allocations.default.ip
    if not allocations.force_outgoing_ip or not ip:
        return ""
    try:
        address = ip_address(ip)
    except ValueError:
        return ""
    # Nothing can be sent from "every address" or from the loopback.
    return "" if address.is_unspecified or address.is_loopback else ip


def _forced_network_name(ip: str) -> str:
    return "ip-" + ip.replace(".", "-").replace(":", "-")


def _forced_network(ip: str) -> dict[str, Any]:
    return {
        "Driver": "bridge",
        "EnableIPv6": False,
        "Internal": False,
        "Options": {
            "encryption": "false",
            "com.docker.network.bridge.default_bridge": "false",
            "com.docker.network.host_ipv4": ip,
        },
    }


def _main_network(config: Config) -> dict[str, Any]:
    network = config.docker.network
    pools = [
        {"Subnet": pool.subnet, "Gateway": pool.gateway}
        for pool in (network.interfaces.v4, network.interfaces.v6)
        if pool.subnet
    ]
    return {
        "Driver": network.driver,
        # A node without IPv6 says so with an empty subnet.
        "EnableIPv6": bool(network.interfaces.v6.subnet),
        "Internal": network.is_internal,
        "IPAM": {"Driver": "default", "Config": pools},
        "Options": {
            "encryption": "false",
            "com.docker.network.bridge.default_bridge": "false",
            "com.docker.network.bridge.enable_icc": "true" if network.enable_icc else "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": _ANY,
            "com.docker.network.bridge.name": network.bridge_name,
            "com.docker.network.driver.mtu": str(network.network_mtu),
        },
    }
