"""The IP addresses of the node, which a Panel offers for allocations, and their ports in use."""

from __future__ import annotations

import re
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from itertools import islice
from pathlib import Path

import attrs

from wingsd.config import Config
from wingsd.docker.network import port_bindings, reachable
from wingsd.errors import BadRequest, FiguresUnavailable
from wingsd.panel.schemas import Allocations
from wingsd.util.addresses import Address, parse_address

__all__ = ["UsedPort", "host_addresses", "used_ports"]

_INTERNAL = re.compile(r"docker|br-|veth|pelican0$|pterodactyl0$")
_FAMILIES = {socket.AF_INET, socket.AF_INET6}
_TABLES = Path("/proc/self/net")
#: By a table of sockets, the state of those that any peer can send to: proc(5).
_RECEIVING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


def host_addresses(more: Iterable[str] = (), *, without: Iterable[str] | None = None) -> list[str]:
    """Return the host's addresses, but for loopback and link-local ones, and those in `more`.

    Where `without` is given, it names interfaces whose addresses are left out, together with those
    of Docker's. Called in a thread. Raises `FiguresUnavailable`.
    """
    # Here, since psutil takes 1.5 MiB, which a node whose Panel does not ask saves.
    import psutil  # noqa: PLC0415

    try:
        interfaces = psutil.net_if_addrs()
    except (OSError, psutil.Error) as error:
        raise FiguresUnavailable(
            f"{error}; in a service, RestrictAddressFamilies= of its unit must have AF_NETLINK"
        ) from error
    hidden = None if without is None else set(without)
    found: dict[str, None] = {}
    for name, addresses in interfaces.items():
        if hidden is not None and (name in hidden or _INTERNAL.match(name)):
            continue
        for each in addresses:
            if each.family in _FAMILIES and _is_assignable(each.address):
                found[each.address] = None
    return [*found, *(address for address in more if address not in found)]


def _is_assignable(text: str) -> bool:
    # Link-local addresses of IPv6 end in the name of their interface.
    address = ip_address(text.partition("%")[0])
    return not (address.is_loopback or address.is_link_local)


@attrs.frozen
class UsedPort:
    """A port in use, by a server, or by another program of the machine."""

    port: int
    server: str | None = None


def used_ports(
    config: Config, ips: Iterable[str], servers: Mapping[str, Allocations]
) -> dict[str, list[UsedPort]]:
    """Return the ports that a new server could not have at each of `ips`.

    Servers, by their UUIDs, use all of their allocations, whether they run or not. Called in a
    thread. Raises `BadRequest`, `FiguresUnavailable`.
    """
    in_use: defaultdict[Address, dict[int, str | None]] = defaultdict(dict)
    for address, port in _receiving():
        in_use[address][port] = None
    for uuid, allocations in servers.items():
        for bindings in port_bindings(config, allocations).values():
            for binding in bindings:
                with suppress(ValueError):  # which the engine refuses
                    in_use[parse_address(binding["HostIp"])][int(binding["HostPort"])] = uuid
    used = {}
    for ip in ips:
        wanted = _asked(config, ip)
        found: dict[int, str | None] = {}
        for address, ports in in_use.items():
            if _overlap(address, wanted):
                for port, server in ports.items():
                    found[port] = found.get(port) or server
        used[ip] = [UsedPort(port, found[port]) for port in sorted(found)]
    return used


def _asked(config: Config, ip: str) -> Address:
    try:
        return parse_address(reachable(config, ip))
    except ValueError as error:
        raise BadRequest("ip must be an IP address", f"not {ip[:50]!r}") from error


def _overlap(one: Address, other: Address) -> bool:
    """Return whether sockets at these addresses exclude each other from a port."""
    any_of_both = IPv6Address(0)  # which also accepts connections of IPv4
    if one == other or any_of_both in (one, other):
        return True
    return one.version == other.version and (one.is_unspecified or other.is_unspecified)


def _receiving() -> Iterator[tuple[Address, int]]:
    """Yield the address and port of each socket that any peer can send to."""
    for table, state in _RECEIVING.items():
        try:
            with open(_TABLES / table, encoding="ascii") as rows:
                for row in islice(rows, 1, None):
                    _, local, _, current, *_ = row.split()
                    if current == state:
                        ip, _, port = local.partition(":")
                        yield _address(ip), int(port, 16)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and table.endswith("6"):
                continue  # a kernel without IPv6
            raise FiguresUnavailable(
                f"{error}; let the daemon read it, or choose allocations by hand"
            ) from error


def _address(text: str) -> Address:
    """Return an address of a table: words of 32 bits, in the byte order of the machine."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return parse_address(socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)))
