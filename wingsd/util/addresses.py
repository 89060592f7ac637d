"""IP addresses and networks, in the one form in which they are compared and passed on."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_address(text: str) -> Address:
    """Return an address without its zone, and a mapped one (`::ffff:192.0.2.1`) as IPv4.

    Raises `ValueError` for what is no address, such as one with a port.
    """
    found = ip_address(text)
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped or IPv6Address(int(found))
    return found


def parse_network(text: str) -> Network:
    """Return a network such as `192.0.2.0/24`, or that of one address. Raises `ValueError`."""
    return ip_network(text, strict=False)


#: The prefix of IPv6 that one customer of a provider has at least.
_IPV6_PREFIX = 64


def address_block(text: str) -> str:
    """Return what limits on one client count by: an IPv4 address, or 64 bits of an IPv6 one."""
    try:
        address = parse_address(text)
    except ValueError:
        return text
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, _IPV6_PREFIX), strict=False))
