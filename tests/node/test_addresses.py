"""The node's IP addresses, and their ports in use."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from wingsd.config import Config
from wingsd.errors import FiguresUnavailable
from wingsd.node.figures import host_addresses, used_ports
from wingsd.panel.schemas import Allocations

#: Ports by address, by the server.
Servers = dict[str, dict[str, tuple[int, ...]]]


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


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's tables of a machine without IPv6 and without a socket."""
    monkeypatch.setattr("wingsd.node.figures._TABLES", tmp_path)
    for table in ("tcp", "udp"):
        write(tmp_path / table)
    return tmp_path


def write(table: Path, *sockets: str) -> None:
    """Write the addresses and states of sockets as the kernel does on most machines."""
    rows = [f"{number}: {each} 00000000:00000000" for number, each in enumerate(sockets)]
    table.write_text("\n".join(["sl local_address rem_address st tx_queue:rx_queue", *rows, ""]))


def ports(ip: str, servers: Servers | None = None) -> dict[int, str | None]:
    mappings = {uuid: Allocations(mappings=each) for uuid, each in (servers or {}).items()}
    config = Config(token_id="id", token="token", remote="https://panel.example.com")
    return {used.port: used.server for used in used_ports(config, [ip], mappings)[ip]}


def test_a_port_is_in_use_where_another_socket_could_not_have_it(tables: Path) -> None:
    write(
        tables / "tcp",
        "077100CB:0050 00000000:0000 0A",  # 203.0.113.7
        "00000000:0051 00000000:0000 0A",
        "077100CB:0052 087100CB:0052 01",  # a connection
    )
    write(tables / "udp", "077100CB:0053 00000000:0000 07", "077100CB:0054 087100CB:0053 01")
    assert ports("203.0.113.7") == {80: None, 81: None, 83: None}
    assert ports("0.0.0.0") == {80: None, 81: None, 83: None}  # noqa: S104
    assert ports("203.0.113.8") == {81: None}
    assert ports("2001:db8::7") == {}


def test_a_socket_of_all_ipv6_addresses_may_be_of_ipv4_as_well(tables: Path) -> None:
    no_peer = "00000000000000000000000000000000:0000"
    write(
        tables / "tcp6",
        f"B80D0120000000000000000007000000:0050 {no_peer} 0A",  # 2001:db8::7
        f"{'0' * 32}:0051 {no_peer} 0A",
        f"0000000000000000FFFF0000077100CB:0052 {no_peer} 0A",  # ::ffff:203.0.113.7
    )
    assert ports("2001:db8:0::7") == {80: None, 81: None}
    assert ports("203.0.113.7") == {81: None, 82: None}
    assert ports("::ffff:203.0.113.7") == {81: None, 82: None}
    assert ports("::") == {80: None, 81: None, 82: None}


def test_ports_of_servers_are_in_use_where_the_engine_binds_them(tables: Path) -> None:
    write(tables / "tcp", "077100CB:0050 00000000:0000 0A")
    of_two: dict[str, tuple[int, ...]] = {"127.0.0.1": (91,), "0.0.0.0": (92,)}  # noqa: S104
    servers: Servers = {"one": {"203.0.113.7": (80, 90)}, "two": of_two}
    assert ports("203.0.113.7", servers) == {80: "one", 90: "one", 92: "two"}
    assert ports("127.0.0.1", servers) == {91: "two", 92: "two"}
    assert ports("203.0.113.8", servers) == {92: "two"}


def test_ports_are_not_free_because_the_kernels_table_is_hidden(tables: Path) -> None:
    (tables / "udp").unlink()
    with pytest.raises(FiguresUnavailable) as raised:
        ports("203.0.113.7")
    assert "No such file or directory" in raised.value.detail
