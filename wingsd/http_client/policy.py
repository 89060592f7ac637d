"""Which addresses a node connects to for its users: the public ones, and what is allowed besides.

The address that is judged is the one that is connected to, not a name: the answers of a name
server change.

The system's resolver waits for a silent name server for ten seconds and more, and cannot be
cancelled. Users choose the names, so threads of their own look them up: neither the node's own
connections nor its end wait for these.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from pathlib import Path
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore

from wingsd.errors import AddressBlocked
from wingsd.threadio import Workers
from wingsd.util.addresses import Address, Network, parse_network

#: Networks of IPv4 that are not on the public Internet, of IANA's registry of special addresses:
#: this network, private ones, those of providers (RFC 6598), loopback, link-local, of protocols
#: and documentation, of relays for 6to4, of benchmarks, multicast, reserved and broadcast.
_NOT_PUBLIC_4 = tuple(
    map(
        parse_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
#: All of IPv6 that is assigned for unicast. What is outside is loopback, local, multicast, or has
#: an address of IPv4 in it (mapped, compatible, translated, NAT64).
_UNICAST_6 = parse_network("2000::/3")
#: What of it is not public: of protocols (Teredo among them), documentation, and 6to4, which has
#: any address of IPv4 in it.
_NOT_PUBLIC_6 = tuple(map(parse_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
#: Whether any address of IPv6 can be bound, not only the host's.
_NON_LOCAL_BIND = Path("/proc/sys/net/ipv6/ip_nonlocal_bind")


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public Internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)


def is_of_this_host(address: Address) -> bool:
    """Return whether an interface of this host has the address, also where any can be bound."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            if isinstance(address, IPv4Address):  # which has to be one of an interface
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address.packed)
            elif _can_bind_any():
                # RFC 6724, rule 1: to the host's own address from the same; nothing is sent
                probe.connect((str(address), 9))
                return ip_address(probe.getsockname()[0]) == address
            else:
                probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _can_bind_any() -> bool:
    try:
        return _NON_LOCAL_BIND.read_text().strip() != "0"
    except OSError:
        return False


@attrs.frozen
class AddressPolicy:
    """Allowed addresses: public ones that are neither blocked nor this node's own.

    `hosts` (in lower case) and `networks` are allowed whatever they are, `blocked` are not.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    blocked: tuple[Network, ...] = ()

    @classmethod
    def of(cls, allowlist: Iterable[str], blocked: Iterable[str] = ()) -> AddressPolicy:
        """Return the policy of an allowlist of names, addresses and networks.

        Raises `ValueError` for a blocked network that is invalid.
        """
        hosts, networks = set(), []
        for text in allowlist:
            try:
                networks.append(parse_network(text.strip("[]")))
            except ValueError:
                hosts.add(text.lower().rstrip("."))
        return cls(frozenset(hosts), tuple(networks), tuple(map(parse_network, blocked)))

    def names(self, host: str) -> bool:
        """Return whether the host, a name or an address, is in the allowlist."""
        if host in self.hosts:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.networks)

    def allows(self, host: str, text: str) -> bool:
        """Return whether the host may be connected to at an address."""
        address = ip_address(text)
        if host in self.hosts or any(address in network for network in self.networks):
            return True
        if any(address in network for network in self.blocked):
            return False
        return is_public(address) and not is_of_this_host(address)

    def check(self, host: str, text: str) -> None:
        """Raise `AddressBlocked` unless the host may be connected to at an address."""
        if not self.allows(host, text):
            raise AddressBlocked(host)


T = TypeVar("T")
#: Names that are looked up at a time; others wait for their turn.
LOOKUPS = 8
#: Addresses of one name that are returned: an answer may have thousands, and each is judged.
MAX_ADDRESSES = 64

Resolve = Callable[[str, int], Deferred[list[str]]]
"""Returns the addresses of a name for connections to a port; none where it is not known."""


def host_resolver(workers: Workers) -> Resolve:
    """Return a resolver that asks the system's in these threads.

    A lookup that is cancelled keeps its turn until the system's resolver returns.
    """
    turns = DeferredSemaphore(LOOKUPS)

    def resolve(host: str, port: int) -> Deferred[list[str]]:
        return turns.acquire().addCallback(lambda _: look_up(host, port))

    def look_up(host: str, port: int) -> Deferred[list[str]]:
        found: Deferred[list[str]] = Deferred()
        looked_up = workers.run(_addresses, host, port)
        looked_up.addBoth(end)
        looked_up.chainDeferred(found)
        return found

    def end(result: T) -> T:
        turns.release()
        return result

    return resolve


def _addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a name, each once. Blocking."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    each_once = dict.fromkeys(str(each[4][0]).partition("%")[0] for each in found)
    return list(islice(each_once, MAX_ADDRESSES))
