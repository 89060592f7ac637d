"""Tests for `wingsd.docker.container`: ports and networks, as plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.config import Config, DockerConfig, Interfaces, IPv6, NetworkConfig, parse
from wingsd.docker.container import (
    FORMER_DEFAULTS,
    NetworkSpec,
    network_mode,
    network_spec,
    port_bindings,
    reachable,
)
from wingsd.panel.schemas import Allocations, Default, Settings


def node(**network: Any) -> Config:
    docker = DockerConfig(network=NetworkConfig(**network))
    return Config(token_id="id", token="secret", remote="http://panel", docker=docker)


def bound_to(ip: str, forced: bool = True) -> Settings:
    return Settings("uuid", allocations=Allocations(forced, Default(ip, 25565)))


def test_the_main_network_is_wings_own() -> None:
    body = json.loads(Path(__file__).with_name("network.json").read_text())
    assert network_spec(node(), Settings("uuid")) == NetworkSpec("pterodactyl_nw", body)


def test_the_main_network_follows_the_configuration() -> None:
    config = node(
        enable_icc=False,
        is_internal=True,
        network_mtu=1420,
        bridge_name="wings1",
        interfaces=Interfaces(v6=IPv6(subnet="", gateway="")),
    )
    spec = network_spec(config, Settings("uuid"))
    assert spec is not None
    assert spec.body is not None
    assert spec.body["Internal"]
    assert not spec.body["EnableIPv6"]
    assert len(spec.body["IPAM"]["Config"]) == 1
    assert spec.body["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert spec.body["Options"]["com.docker.network.driver.mtu"] == "1420"
    assert spec.body["Options"]["com.docker.network.bridge.name"] == "wings1"


@pytest.mark.parametrize("mode", ["host", "none", "bridge", "container:other"])
def test_the_engines_own_modes_need_no_network(mode: str) -> None:
    assert network_spec(node(network_mode=mode), Settings("uuid")) is None
    assert network_mode(node(network_mode=mode), Settings("uuid")) == mode


def test_a_node_of_pelicans_that_had_pterodactyls_default_is_one_of_the_former() -> None:
    was = Config(token_id="id", token="secret", remote="http://panel").docker.network
    now, _ = parse("{token_id: i, token: t, remote: 'http://panel', family: pelican}", "here")
    assert {now.docker.network.name: was.name} == FORMER_DEFAULTS


def test_a_network_of_the_administrators_has_to_exist() -> None:
    assert network_spec(node(network_mode="theirs"), Settings("uuid")) == NetworkSpec("theirs")


@pytest.mark.parametrize(
    ("ip", "name"),
    [("203.0.113.7", "ip-203-0-113-7"), ("2001:db8::1", "ip-2001-db8--1")],
)
def test_a_forced_outgoing_address_has_a_bridge_of_its_own(ip: str, name: str) -> None:
    assert network_mode(node(), bound_to(ip)) == name
    assert network_spec(node(), bound_to(ip)) == NetworkSpec(
        name,
        {
            "Driver": "bridge",
            "EnableIPv6": False,
            "Internal": False,
            "Options": {
                "encryption": "false",
                "com.docker.network.bridge.default_bridge": "false",
                "com.docker.network.host_ipv4": ip,
            },
        },
    )


@pytest.mark.parametrize("ip", ["", "0.0.0.0", "127.0.0.1", "::", "a name"])  # noqa: S104
def test_what_is_no_source_address_cannot_be_forced(ip: str) -> None:
    assert network_mode(node(), bound_to(ip)) == "pterodactyl_nw"


def test_an_outgoing_address_is_forced_only_on_request() -> None:
    assert network_mode(node(), bound_to("203.0.113.7", forced=False)) == "pterodactyl_nw"


def test_ports_are_bound_on_tcp_and_udp() -> None:
    allocations = Allocations(mappings={"203.0.113.7": (25565,), "203.0.113.8": (25565, 25570)})
    first = {"HostIp": "203.0.113.7", "HostPort": "25565"}
    second = {"HostIp": "203.0.113.8", "HostPort": "25565"}
    third = {"HostIp": "203.0.113.8", "HostPort": "25570"}
    assert port_bindings(node(), allocations) == {
        "25565/tcp": [first, second],
        "25565/udp": [first, second],
        "25570/tcp": [third],
        "25570/udp": [third],
    }


def test_the_loopback_is_the_network_interface() -> None:
    config = node(interface="172.30.0.1")
    assert reachable(config, "127.0.0.1") == "172.30.0.1"
    assert reachable(config, "127.0.0.2") == "127.0.0.2"
    bindings = port_bindings(config, Allocations(mappings={"127.0.0.1": (1,)}))
    assert bindings["1/tcp"] == [{"HostIp": "172.30.0.1", "HostPort": "1"}]


def test_the_loopback_is_dropped_with_ispn() -> None:
    allocations = Allocations(mappings={"127.0.0.1": (1, 2), "203.0.113.7": (2,)})
    assert port_bindings(node(ispn=True), allocations) == {
        "2/tcp": [{"HostIp": "203.0.113.7", "HostPort": "2"}],
        "2/udp": [{"HostIp": "203.0.113.7", "HostPort": "2"}],
    }


@given(
    st.dictionaries(
        st.sampled_from(["127.0.0.1", "172.18.0.1", "0.0.0.0", "203.0.113.7"]),  # noqa: S104
        st.lists(st.integers(-1, 70_000)).map(tuple),
    ),
    st.booleans(),
)
def test_bindings_are_valid_and_unique(mappings: dict[str, tuple[int, ...]], ispn: bool) -> None:
    bindings = port_bindings(node(ispn=ispn), Allocations(mappings=mappings))
    for port, addresses in bindings.items():
        number, protocol = port.split("/")
        assert 1 <= int(number) <= 65535
        assert protocol in ("tcp", "udp")
        assert addresses
        assert len({address["HostIp"] for address in addresses}) == len(addresses)
        assert all(address["HostPort"] == number for address in addresses)
        assert all(address["HostIp"] != "127.0.0.1" for address in addresses)
