"""The IP addresses of the node, which a Panel offers for allocations."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from wingsd.node.errors import FiguresUnavailable

__all__ = ["host_addresses"]

_INTERNAL = re.compile(r"docker|br-|veth|pelican0$|pterodactyl0$")
_FAMILIES = {socket.AF_INET, socket.AF_INET6}


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
