"""The network that a server's container joins, and its ports, as Engine API JSON.

Pure, but for `check_ports`. The network driver's options are those Wings gives, so that a network
either of them made serves both.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import attrs

from wingsd.config import Config
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Allocations, Settings

#: By a family's default network, that of wingsd 0.1, which was Pterodactyl's for all families. A
#: node that has only the former goes on using it: containers refer to it, and the other cannot be
#: created beside it, since both have the same addresses.
FORMER_DEFAULTS = {"pelican_nw": "pterodactyl_nw"}

_LOOPBACK = "127.0.0.1"
_ANY = "0.0.0.0"  # noqa: S104 - the engine's default address for ports
_MAX_PORT = 65535
_PROTOCOLS = ("tcp", "udp")
_BRIDGE_NAME = "com.docker.network.bridge.name"
#: The keys that name the subnets of the main network, by their versions, and its bridge.
_KEYS = {4: "docker.network.interfaces.v4", 6: "docker.network.interfaces.v6"}
_BRIDGE_KEY = "docker.network.bridge_name"
_BUILT_IN_NETWORKS = ("", "default", "bridge", "host", "none")


@attrs.frozen
class NetworkSpec:
    """A network by name, and the body of its creation: None for one that has to exist."""

    name: str
    body: dict[str, Any] | None = None


def network_spec(config: Config, server: Settings) -> NetworkSpec | None:
    """Return the network that must exist for `server`, None for a built-in one."""
    network = config.docker.network
    forced = _forced_ip(server.allocations)
    if forced:
        return NetworkSpec(_forced_network_name(forced), _forced_network(forced))
    if network.network_mode == network.name:
        return NetworkSpec(network.name, _main_network(config))
    mode = network.network_mode
    if mode in _BUILT_IN_NETWORKS or mode.startswith("container:"):
        return None
    return NetworkSpec(mode)


def advice_against(spec: NetworkSpec, others: Iterable[Mapping[str, Any]]) -> str:
    """Return what to do where the engine refuses to create a network.

    `others` are its networks. Those that have what `spec` asks for are named.
    """
    subnets, bridge = _addressing(spec.body or {})
    advice = []
    for other in others:
        theirs, their_bridge = _addressing(other)
        shared = [
            f"the IPv{each.version} subnet {their} ({_KEYS[each.version]} asks for {each})"
            for each in subnets
            for their in theirs
            if each.version == their.version and each.overlaps(their)
        ]
        if bridge and bridge == their_bridge:
            shared.append(f"the bridge {bridge} ({_BRIDGE_KEY} asks for it)")
        if shared:
            name = other["Name"]
            advice.append(
                f"the network {name} is in its way with {', '.join(shared)}: choose others, or "
                f"remove that network if nothing uses it (docker network rm {name})"
            )
    asked = [f"the IPv{each.version} subnet {each} ({_KEYS[each.version]})" for each in subnets]
    if bridge:
        asked.append(f"the bridge {bridge} ({_BRIDGE_KEY})")
    if not advice and asked:
        advice.append(f"it asks for {', '.join(asked)}: choose others, or remove what has them")
    return "; ".join(advice) or "see `docker network ls` and the engine's log"


def _addressing(network: Mapping[str, Any]) -> tuple[list[IPv4Network | IPv6Network], str]:
    """Return the subnets of a network, and the name of its bridge, empty for none."""
    subnets = []
    for pool in (network.get("IPAM") or {}).get("Config") or ():
        with suppress(ValueError):  # of a driver that gives no addresses
            subnets.append(ip_network(pool.get("Subnet") or "", strict=False))
    return subnets, str((network.get("Options") or {}).get(_BRIDGE_NAME) or "")


def network_mode(config: Config, server: Settings) -> str:
    """Return the container's network mode: the name of a network, or a built-in mode."""
    forced = _forced_ip(server.allocations)
    return _forced_network_name(forced) if forced else config.docker.network.network_mode


def reachable(config: Config, ip: str) -> str:
    """Return the address at which containers and the host reach a service at `ip`."""
    # The host's loopback is not reachable from a container; the network's interface is.
    return config.docker.network.interface if ip == _LOOPBACK else ip


def port_bindings(config: Config, allocations: Allocations) -> dict[str, list[dict[str, str]]]:
    """Return the server's ports, each with its bindings on the host."""
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
                # 127.0.0.1 is replaced by an address that may be mapped as well.
                if binding not in of_port:
                    of_port.append(binding)
    return bindings


def check_ports(bindings: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Bind each port for a moment. Blocking.

    Raises `EnvironmentFailed` for one that another program of this machine uses. Whatever else
    keeps a port from being used is left to the engine.
    """
    for name, of_port in bindings.items():
        kind = socket.SOCK_DGRAM if name.endswith("udp") else socket.SOCK_STREAM
        for binding in of_port:
            if _is_taken(kind, binding["HostIp"], int(binding["HostPort"])):
                raise EnvironmentFailed(
                    f"the port {name} of {binding['HostIp']} is in use on this machine: end the "
                    "program that has it (`ss -lntup` shows which), or give the server another "
                    "port in the Panel",
                    is_final=True,
                )


def _is_taken(kind: socket.SocketKind, ip: str, port: int) -> bool:
    try:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with socket.socket(family, kind) as trial:
            if kind == socket.SOCK_STREAM:
                # A port that only a closed connection has left behind counts as free.
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((ip, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _forced_ip(allocations: Allocations) -> str:
    """Return the source address for the server's outgoing traffic; empty for any."""
    ip = allocations.default.ip
    if not allocations.force_outgoing_ip or not ip:
        return ""
    try:
        address = ip_address(ip)
    except ValueError:
        return ""
    # The unspecified address and the loopback cannot be source addresses.
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
        # An empty subnet means that the node has no IPv6.
        "EnableIPv6": bool(network.interfaces.v6.subnet),
        "Internal": network.is_internal,
        "IPAM": {"Driver": "default", "Config": pools},
        "Options": {
            "encryption": "false",
            "com.docker.network.bridge.default_bridge": "false",
            "com.docker.network.bridge.enable_icc": "true" if network.enable_icc else "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": _ANY,
            _BRIDGE_NAME: network.bridge_name,
            "com.docker.network.driver.mtu": str(network.network_mtu),
        },
    }
