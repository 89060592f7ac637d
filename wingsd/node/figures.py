"""The figures of the machine: processor, memory, network, disks and addresses, as they are now.

A Panel asks every few seconds, and waits for one. What is asked meanwhile shares one answer. What
the kernel counts is read in `/proc`, which does not wait for a disk, in a thread. A disk that
hangs (a broken one, or a share whose server is away) blocks the thread that looks at it: each is
looked at by itself, and one that has not answered shows its last figures.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv6Address, ip_address
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.config import Config
from wingsd.docker.cgroups import PROC, pressures, read_file
from wingsd.docker.container import port_bindings, reachable
from wingsd.docker.runtime import Pressure
from wingsd.errors import BadRequest, FiguresUnavailable
from wingsd.node.answers import LatestAnswer, SharedAnswer
from wingsd.panel.schemas import Allocations
from wingsd.threadio import Workers
from wingsd.util.addresses import Address, parse_address
from wingsd.util.serialization import Amount

T = TypeVar("T")
N = TypeVar("N", int, float)

#: Seconds for the directories' real places, and for each disk, to be found: a Panel waits for one.
PATIENCE = 0.3

#: Filesystems in memory or of an image, whose figures say nothing of the machine's disks.
_NOT_DISKS = {"devtmpfs", "ramfs", "squashfs", "tmpfs"}


@attrs.frozen(repr=False)
class DiskDetails:
    """A mounted disk."""

    device: str
    mountpoint: str
    total_space: Amount
    used_space: Amount
    tags: Annotated[tuple[str, ...], "What the node keeps on it: `Root`, `Logs`, `Data`, …"]


@attrs.define(eq=False, repr=False, slots=False)
class NodeDisks:
    """The mounted disks of the machine. `places` are directories by their tags.

    `table` are threads that read the kernel's table of mounts, which never waits for a disk;
    `filesystems` are threads that a disk may block, and that nothing else uses.
    """

    _log = Logger()

    _places: Mapping[str, str]
    _table: Workers
    _filesystems: Workers
    _reactor: IReactorTime

    def __attrs_post_init__(self) -> None:
        places = self._places.items()
        self._real = {tag: self._latest(os.path.realpath, path) for tag, path in places}
        self._sizes: dict[str, LatestAnswer[tuple[int, int]]] = {}
        self._hanging: frozenset[str] = frozenset()

    async def look(self) -> list[DiskDetails]:
        """Return the disks with what is known of them now. Raises `FiguresUnavailable`.

        A disk that has never answered is left out.
        """
        mounts = await self._table.run(_mounts)
        await self._renew(self._real)
        disks = list(_disks(mounts, self._tags(mounts)))
        self._sizes = {
            disk.mountpoint: self._sizes.get(disk.mountpoint)
            or self._latest(_size, disk.mountpoint)
            for disk in disks
        }
        self._report(await self._renew(self._sizes))
        sizes = {path: answer.value for path, answer in self._sizes.items()}
        return [
            attrs.evolve(disk, total_space=size[0], used_space=size[1])
            for disk in disks
            if (size := sizes[disk.mountpoint]) is not None
        ]

    def _latest(self, ask: Callable[[str], T], path: str) -> LatestAnswer[T]:
        return LatestAnswer(partial(ask, path), self._filesystems, self._reactor)

    async def _renew(self, answers: Mapping[str, LatestAnswer[Any]]) -> frozenset[str]:
        """Ask all again; return the keys of those that hang."""
        asking = [Deferred.fromCoroutine(each.get(PATIENCE)) for each in answers.values()]
        fresh = await gatherResults(asking)
        return frozenset(key for key, ok in zip(answers, fresh, strict=True) if not ok)

    def _tags(self, mounts: Sequence[_Mount]) -> dict[str, list[str]]:
        """Return the tags by the mount points that their directories are below."""
        tags: dict[str, list[str]] = {}
        for tag, plain in self._places.items():
            path = self._real[tag].value or plain
            places = (mount.mountpoint for mount in mounts)
            above = [each for each in places if each in ("/", path) or path.startswith(f"{each}/")]
            if above:
                tags.setdefault(max(above, key=len), []).append(tag)
        return tags

    def _report(self, hanging: frozenset[str]) -> None:
        """Log each disk once that does not answer."""
        for path in sorted(hanging - self._hanging):
            self._log.warn(
                "the disk at {path} does not answer: the system's log may say why", path=path
            )
        self._hanging = hanging


@attrs.frozen(repr=False)
class _Mount:
    """An entry of the table of mounts; `is_disk` is whether its filesystem is on a device."""

    device: str
    mountpoint: str
    is_disk: bool


def _mounts() -> list[_Mount]:
    import psutil  # noqa: PLC0415

    try:
        disks = {each.mountpoint for each in psutil.disk_partitions(all=False)}
        # Of two at one place, the later hides the other.
        table = {each.mountpoint: each for each in psutil.disk_partitions(all=True)}
    except (OSError, psutil.Error) as error:
        raise hidden(error) from error
    return [
        _Mount(each.device, path, path in disks)
        for path, each in table.items()
        if each.fstype not in _NOT_DISKS
    ]


def _disks(mounts: Sequence[_Mount], tags: Mapping[str, list[str]]) -> Iterator[DiskDetails]:
    """Yield each device once, by its outermost mount point, without sizes."""
    devices: dict[str, list[str]] = {}
    for mount in mounts:
        if mount.is_disk or mount.mountpoint in tags:
            devices.setdefault(mount.device, []).append(mount.mountpoint)
    for device, paths in devices.items():
        found = sorted(tag for path in paths for tag in tags.get(path, ()))
        yield DiskDetails(device, min(paths, key=len), 0, 0, tuple(found))


def _size(path: str) -> tuple[int, int]:
    """Return a disk's size, and what of it is used. Raises `OSError`."""
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize, (status.f_blocks - status.f_bfree) * status.f_frsize


#: Interfaces of which the traffic is also that of another, or stays on this machine.
_INNER = re.compile(r"lo$|docker|br-|veth|ifb|tun\d|virbr|pelican0$|pterodactyl0$")


@attrs.frozen(repr=False)
class Counters(Generic[N]):
    """Seconds, bytes and packets that the kernel has counted, since its start or in a second.

    `time` is when it was read, in seconds of a clock of the caller's.
    """

    time: float
    processor_time: float
    idle_time: float
    received: N
    received_packets: N
    sent: N
    sent_packets: N
    read: N
    written: N

    def rates_since(self, before: Counters[N]) -> Counters[float]:
        """Return the averages of a second since another reading. What was set back counts as 0."""
        seconds = self.time - before.time
        pairs = zip(attrs.astuple(before), attrs.astuple(self), strict=True)
        return Counters(*(max(b - a, 0) / seconds if seconds > 0 else 0.0 for a, b in pairs))

    @property
    def cpu_percent(self) -> float:
        """The use of all cores in this time, from 0 to 100."""
        total = self.processor_time
        busy = max(total - self.idle_time, 0.0)
        return min(100 * busy / total, 100.0) if total > 0 else 0.0


@attrs.frozen(repr=False)
class MachineMemory:
    """The machine's memory in bytes; `used` is what programs could not get.

    `used_process` is what this daemon has of it. `load` are the averages of 1, 5 and 15 minutes.
    """

    total: int
    used: int
    free: int
    swap_total: int
    swap_used: int
    used_process: int
    load: tuple[float, float, float]


@attrs.frozen(repr=False)
class Processor:
    """The machine's processor: its name, its maker, and its frequency in MHz, 0 if unknown."""

    model: str
    vendor: str
    frequency: int


def read_counters(now: float, bridge: str) -> Counters[int]:
    """Return what is counted; `bridge` is the interface of servers' network, left out as well.

    Raises `FiguresUnavailable`.
    """
    import psutil  # noqa: PLC0415

    try:
        times = psutil.cpu_times()
        network = psutil.net_io_counters(pernic=True, nowrap=False)
        disk = psutil.disk_io_counters(nowrap=False)
    except (OSError, psutil.Error) as error:
        raise hidden(error) from error
    outer = [each for name, each in network.items() if name != bridge and not _INNER.match(name)]
    return Counters(
        time=now,
        # The kernel counts the time of guests as that of users, too.
        processor_time=sum(times) - times.guest - times.guest_nice,
        idle_time=times.idle + times.iowait,
        received=sum(each.bytes_recv for each in outer),
        received_packets=sum(each.packets_recv for each in outer),
        sent=sum(each.bytes_sent for each in outer),
        sent_packets=sum(each.packets_sent for each in outer),
        read=disk.read_bytes if disk else 0,
        written=disk.write_bytes if disk else 0,
    )


def pressure() -> Mapping[str, Pressure]:
    """Return the machine's pressure, by resource; without those that the kernel does not show."""
    return pressures(lambda resource: read_file(f"{PROC}/pressure/{resource}"))


def memory() -> MachineMemory:
    """Return how much memory the machine has and uses. Raises `FiguresUnavailable`."""
    import psutil  # noqa: PLC0415

    try:
        machine, swap = psutil.virtual_memory(), psutil.swap_memory()
        return MachineMemory(
            total=machine.total,
            used=machine.total - machine.available,
            free=machine.available,
            swap_total=swap.total,
            swap_used=swap.used,
            used_process=psutil.Process().memory_info().rss,
            load=os.getloadavg(),
        )
    except (OSError, psutil.Error) as error:
        raise hidden(error) from error


def hidden(error: Exception) -> FiguresUnavailable:
    """Return the error for figures that a sandbox hides."""
    return FiguresUnavailable(
        f"{error}; in a service, ProcSubset= of its unit must not be `pid`, which hides them"
    )


def processor() -> Processor:
    """Return the machine's first processor. What `/proc/cpuinfo` does not say is unknown."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    return Processor(
        model=found.get("model name") or "unknown",
        vendor=found.get("vendor_id") or "unknown",
        frequency=round(float(found.get("cpu MHz") or 0)),
    )


#: Seconds for which an answer is kept: pages that ask at almost the same time get the same, and
#: rates are over no shorter time.
KEPT = 0.5
#: Seconds to count for a rate when none was requested within the last minute.
_FIRST = 0.2
_STALE = 60.0


@attrs.frozen(repr=False)
class MachineFigures:
    """The load of the machine now."""

    counters: Counters[int]
    rates: Counters[float]
    memory: MachineMemory
    disks: tuple[DiskDetails, ...]

    @property
    def data_disk(self) -> DiskDetails | None:
        """The disk with the servers' files; None if it has never answered."""
        return next((disk for disk in self.disks if "Data" in disk.tags), None)


class NodeFigures:
    """Reads the machine's figures in `workers`, but those of disks in `filesystems`."""

    def __init__(
        self, config: Config, workers: Workers, filesystems: Workers, reactor: IReactorTime
    ) -> None:
        self._bridge = config.docker.network.bridge_name
        self._workers = workers
        self._reactor = reactor
        system = config.system
        # By the tags that Pelican's Panel knows.
        places = {
            "Root": system.root_directory,
            "Logs": system.log_directory,
            "Data": system.data,
            "Backup": system.backup_directory,
            "Temp": system.tmp_directory,
        }
        self._disks = NodeDisks(places, workers, filesystems, reactor)
        self._last: Counters[int] | None = None
        self._shared = SharedAnswer(self._read, reactor, keep=KEPT)

    def now(self) -> Deferred[MachineFigures]:
        """Return the figures. Raises `FiguresUnavailable`.

        Rates are since the last question, or over a moment when that was long ago.
        """
        return self._shared.get()

    def memory(self) -> Deferred[MachineMemory]:
        """Return what is known of the machine's memory. Raises `FiguresUnavailable`."""
        return self._workers.run(memory)

    def processor(self) -> Deferred[Processor]:
        """Return the machine's processor."""
        return self._workers.run(processor)

    async def _read(self) -> MachineFigures:
        # At the same time: each may wait a little.
        reading: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self._disks.look()),
            Deferred.fromCoroutine(self._count()),
            self._workers.run(memory),
        ]
        try:
            disks, (counters, rates), used = await gatherResults(reading, consumeErrors=True)
        except FirstError as first:
            first.subFailure.raiseException()
        return MachineFigures(counters, rates, used, tuple(disks))

    async def _count(self) -> tuple[Counters[int], Counters[float]]:
        before = self._last
        if before is None or self._reactor.seconds() - before.time > _STALE:
            before = await self._counters()
            await deferLater(self._reactor, _FIRST)
        self._last = after = await self._counters()
        return after, after.rates_since(before)

    def _counters(self) -> Deferred[Counters[int]]:
        return self._workers.run(read_counters, self._reactor.seconds(), self._bridge)


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
