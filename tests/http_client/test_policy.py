"""Which addresses are public, and what an allowlist adds."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from wingsd.errors import AddressBlocked
from wingsd.http_client.download import AddressPolicy, is_of_this_host, is_public

pytestmark = pytest.mark.promise("url-download-is-public-only")

#: The first and the last address of each network, or one in it.
NOT_PUBLIC = """
    0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1
    127.255.255.255 169.254.0.0 169.254.169.254 172.16.0.0 172.31.255.255 192.0.0.0
    192.0.0.255 192.0.2.1 192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255
    198.51.100.7 203.0.113.7 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.255 :: ::1
    ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:10.0.0.1 64:ff9b::7f00:1
    64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 2001:0:53aa:64c::1 2001:10::1 2001:20::1
    2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1 5f00::1 fc00::1 fdff::1 fe80::1
    fe80::1%1 febf::1 fec0::1 ff02::1 ffff::
"""
PUBLIC = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255
    128.0.0.0 169.253.255.255 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255
    198.17.255.255 198.20.0.0 223.255.255.255 2000::1 2001:200::1 2001:4860:4860::8888
    2003::1 2606:4700::1111 2a01:4f8::1
"""


@pytest.mark.parametrize("text", NOT_PUBLIC.split())
def test_special_networks_are_refused(text: str) -> None:
    assert not is_public(ip_address(text))
    with pytest.raises(AddressBlocked):
        AddressPolicy().check("host.example", text)


@pytest.mark.parametrize("text", PUBLIC.split())
def test_public_addresses_are_allowed(text: str) -> None:
    assert is_public(ip_address(text))
    AddressPolicy().check("host.example", text)


@pytest.mark.promise("url-download-is-public-only")
def test_the_refusal_does_not_tell_the_address() -> None:
    with pytest.raises(AddressBlocked) as raised:
        AddressPolicy().check("host.example", "10.1.2.3")
    assert "10.1.2.3" not in str(raised.value)
    assert "host.example" in str(raised.value)


@pytest.mark.promise("url-download-is-public-only")
@pytest.mark.parametrize("any_can_be_bound", ["0", "1"])
def test_addresses_of_this_node_are_known(
    any_can_be_bound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = tmp_path / "ip_nonlocal_bind"
    setting.write_text(f"{any_can_be_bound}\n")
    monkeypatch.setattr("wingsd.http_client.download._NON_LOCAL_BIND", setting)
    own = [
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET
    ]
    assert "127.0.0.1" in own
    assert all(is_of_this_host(ip_address(each)) for each in own)
    assert is_of_this_host(ip_address("::1"))
    assert not is_of_this_host(ip_address("8.8.8.8"))
    assert not is_of_this_host(ip_address("2001:4860:4860::8888"))


def test_a_public_address_of_this_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wingsd.http_client.download.is_of_this_host", lambda _: True)
    assert not AddressPolicy().allows("host.example", "8.8.8.8")
    assert AddressPolicy.of(["host.example"]).allows("host.example", "8.8.8.8")


def test_an_allowlist_has_names_addresses_and_networks() -> None:
    policy = AddressPolicy.of(["S3.example.", "10.1.0.0/16", "192.168.0.7", "[fd00::1]"])
    allowed = [
        ("s3.example", "127.0.0.1"),
        ("a", "10.1.2.3"),
        ("a", "192.168.0.7"),
        ("a", "fd00::1"),
    ]
    assert all(policy.allows(*each) for each in allowed)
    refused = [
        ("a.s3.example", "127.0.0.1"),
        ("a", "10.2.0.0"),
        ("a", "192.168.0.8"),
        ("a", "fd00::2"),
    ]
    assert not any(policy.allows(*each) for each in refused)


def test_an_allowed_network_has_no_mapped_addresses() -> None:
    assert not AddressPolicy.of(["10.0.0.0/8"]).allows("a", "::ffff:10.0.0.1")


def test_further_networks_are_refused_unless_they_are_allowed() -> None:
    policy = AddressPolicy.of(["8.8.8.8"], blocked=["8.8.0.0/16"])
    assert not policy.allows("a", "8.8.4.4")
    assert policy.allows("a", "8.8.8.8")
    assert policy.allows("a", "8.9.0.1")
