"""The figures of the node: of its disks, also where one hangs, its counters and addresses."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from tests.support.fixtures import workers
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from tests.support.workers import SynchronousWorkers
from wingsd.config import Config
from wingsd.errors import FiguresUnavailable
from wingsd.node import figures
from wingsd.node.figures import (
    Counters,
    DiskDetails,
    NodeDisks,
    host_addresses,
    memory,
    processor,
    read_counters,
    used_ports,
)
from wingsd.panel.schemas import Allocations
from wingsd.threadio import Workers

__all__ = ["workers"]


SYNCHRONOUS: Any = SynchronousWorkers()


class Table:
    """A table of mounts; those of `DEVICES` have a device."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str]] = []

    def partitions(self, *, all: bool) -> list[Any]:  # noqa: A002 - psutil's name
        return [
            SimpleNamespace(device=device, mountpoint=path, fstype=kind)
            for device, path, kind in self.entries
            if all or kind in ("ext4", "xfs")
        ]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    made = Table()
    monkeypatch.setattr("psutil.disk_partitions", made.partitions)
    return made


def sizes(monkeypatch: pytest.MonkeyPatch, by_path: dict[str, tuple[int, int]]) -> None:
    monkeypatch.setattr(figures, "_size", by_path.__getitem__)


async def test_each_device_is_shown_once_with_what_the_node_keeps_on_it(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.entries = [
        ("/dev/a", "/", "ext4"),
        ("tmpfs", "/run", "tmpfs"),
        ("/dev/b", "/srv", "xfs"),
        ("/dev/a", "/srv/bound", "ext4"),
        ("share:/x", "/backups", "nfs4"),
        ("other:/y", "/elsewhere", "nfs4"),
        ("overlay", "/var/lib/docker/overlay2/1/merged", "overlay"),
    ]
    sizes(monkeypatch, {"/": (100, 10), "/srv": (200, 20), "/backups": (300, 30)})
    places = {"Root": "/var/lib/node", "Data": "/srv/data", "Logs": "/srv/bound/log"}
    places |= {"Backup": "/backups/all", "Temp": "/run/tmp"}
    node = NodeDisks(places, SYNCHRONOUS, SYNCHRONOUS, reactor)
    assert await node.look() == [
        DiskDetails("/dev/a", "/", 100, 10, ("Logs", "Root", "Temp")),
        DiskDetails("/dev/b", "/srv", 200, 20, ("Data",)),
        DiskDetails("share:/x", "/backups", 300, 30, ("Backup",)),
    ]


async def test_a_directory_behind_a_symlink_is_found(
    table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    table.entries = [("/dev/a", "/", "ext4"), ("/dev/b", f"{tmp_path}/real", "ext4")]
    sizes(monkeypatch, {"/": (1, 0), f"{tmp_path}/real": (2, 0)})
    node = NodeDisks({"Data": f"{tmp_path}/link/data"}, SYNCHRONOUS, SYNCHRONOUS, reactor)
    assert [disk.tags for disk in await node.look()] == [(), ("Data",)]


async def test_a_disk_that_hangs_shows_its_last_figures_and_delays_no_other(
    table: Table, workers: Workers, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    table.entries = [("/dev/a", "/", "ext4"), ("/dev/b", "/srv", "ext4")]
    used = {"/": 1, "/srv": 1}
    hangs, mends = threading.Event(), threading.Event()
    calls: list[str] = []

    def size(path: str) -> tuple[int, int]:
        calls.append(path)
        if path == "/srv" and hangs.is_set():
            mends.wait(30)
        return 9, used[path]

    monkeypatch.setattr(figures, "_size", size)
    node = NodeDisks({}, SYNCHRONOUS, workers, reactor)
    try:
        assert [disk.used_space for disk in await node.look()] == [1, 1]
        used |= {"/": 2, "/srv": 2}
        hangs.set()
        for _ in range(2):
            assert [disk.used_space for disk in await node.look()] == [2, 1]
        assert calls.count("/srv") == 2
        assert len([line for line in logged.lines if "the disk at /srv" in line]) == 1
    finally:
        mends.set()
        hangs.clear()
    while [disk.used_space for disk in await node.look()] != [2, 2]:
        pass


async def test_a_disk_that_cannot_be_asked_is_left_out(table: Table, tmp_path: Path) -> None:
    table.entries = [("/dev/a", f"{tmp_path}/gone", "ext4")]
    assert await NodeDisks({}, SYNCHRONOUS, SYNCHRONOUS, reactor).look() == []


# What the kernel counts, and rates of it


NOTHING = Counters(0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0)


def test_rates_are_what_was_counted_in_a_second() -> None:
    later = Counters(
        time=4.0,
        processor_time=16.0,
        idle_time=12.0,
        received=4000,
        received_packets=40,
        sent=400,
        sent_packets=4,
        read=8,
        written=0,
    )
    rates = later.rates_since(NOTHING)
    assert rates.cpu_percent == 25.0
    assert attrs.astuple(rates)[3:] == (1000.0, 10.0, 100.0, 1.0, 2.0, 0.0)


def test_a_busy_machine_uses_no_more_than_all_of_its_cores() -> None:
    # Divided by the time and multiplied again, this is a little more than it was.
    rates = attrs.evolve(NOTHING, time=1.5, processor_time=0.3).rates_since(NOTHING)
    assert rates.cpu_percent == 100.0


def test_a_counter_that_was_set_back_counts_as_nothing() -> None:
    before = attrs.evolve(NOTHING, received=10, processor_time=10.0, idle_time=1.0)
    rates = attrs.evolve(NOTHING, time=1.0).rates_since(before)
    assert (rates.received, rates.cpu_percent) == (0.0, 0.0)


def test_no_time_between_two_readings_is_no_rate() -> None:
    after = attrs.evolve(NOTHING, received=10)
    assert after.rates_since(NOTHING).received == 0.0


def test_the_machine_is_read() -> None:
    counted, used = read_counters(3.0, "pterodactyl0"), memory()
    assert counted.time == 3.0
    assert 0 < counted.idle_time < counted.processor_time
    assert counted.processor_time < 1.1 * os.cpu_count() * float(  # type: ignore[operator]
        Path("/proc/uptime").read_text().split()[0]
    )
    assert 0 < used.used_process < used.used < used.total
    assert used.total == int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert processor().model


def test_traffic_within_the_machine_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    one = SimpleNamespace(bytes_recv=1, packets_recv=1, bytes_sent=1, packets_sent=1)
    names = ["eth0", "lo", "docker0", "veth1a2b", "br-0123", "pterodactyl0", "eno1"]
    monkeypatch.setattr("psutil.net_io_counters", lambda **_: dict.fromkeys(names, one))
    assert read_counters(0.0, "pterodactyl0").received == 2


def test_a_hidden_proc_is_an_error_that_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    with pytest.raises(FiguresUnavailable) as raised:
        read_counters(0.0, "")
    assert "ProcSubset=" in raised.value.detail
    with pytest.raises(FiguresUnavailable):
        memory()


# The node's IP addresses, and their ports in use


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
