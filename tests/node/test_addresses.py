"""The node's IP addresses."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from wingsd.node.addresses import host_addresses
from wingsd.node.errors import FiguresUnavailable


def interfaces(*found: tuple[str, str]) -> dict[str, list[SimpleNamespace]]:
    made: dict[str, list[SimpleNamespace]] = {}
    for name, address in found:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made.setdefault(name, []).append(SimpleNamespace(family=family, address=address))
    made["eth0"].append(SimpleNamespace(family=socket.AF_PACKET, address="00:11:22:33:44:55"))
    return made


FOUND = interfaces(
    ("lo", "127.0.0.1"),
    ("lo", "::1"),
    ("eth0", "203.0.113.7"),
    ("eth0", "2001:db8::7"),
    ("eth0", "fe80::1%eth0"),
    ("pterodactyl0", "172.18.0.1"),
    ("docker0", "172.17.0.1"),
    ("vethab12", "169.254.3.4"),
)


def test_addresses_are_the_hosts_and_those_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("psutil.net_if_addrs", lambda: FOUND)
    more = ("198.51.100.1", "203.0.113.7")
    outside = ["203.0.113.7", "2001:db8::7"]
    assert host_addresses(more) == [*outside, "172.18.0.1", "172.17.0.1", "198.51.100.1"]
    assert host_addresses(more, without=["pterodactyl0"]) == [*outside, "198.51.100.1"]


def test_a_sandbox_that_hides_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr("psutil.net_if_addrs", refuse)
    with pytest.raises(FiguresUnavailable) as raised:
        host_addresses()
    assert "AF_NETLINK" in raised.value.detail
