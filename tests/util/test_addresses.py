"""IP addresses and networks, as they are compared and passed on."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from wingsd.util.addresses import parse_address, parse_network


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_is_without_zone_and_mapped_ones_are_ipv4(text: str, known: str) -> None:
    assert str(parse_address(text)) == known


@pytest.mark.parametrize("text", ["192.0.2.1:80", "[::1]:80", "localhost", "", "a Unix socket"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        parse_address(text)


def test_a_network_may_be_one_address() -> None:
    assert parse_network("192.0.2.7/24") == ip_network("192.0.2.0/24")
    assert parse_address("2001:db8::1") in parse_network("2001:db8::1")
    with pytest.raises(ValueError, match="does not appear"):
        parse_network("proxy.example.com")
