"""SFTP: files up and down beside OpenSSH's server, and the node while many clients are busy."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import attrs
from attrs import frozen
from docker.errors import DockerException
from twisted.internet.ssl import Certificate
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset, of_bytes
from bench.figures import Bound, Column, Measured, Table, grid, listed
from bench.meter import Meter
from bench.node import BenchNode, Site, reactor
from bench.openssh import CIPHERS, SftpAccount, free_port, make_key, openssh_server
from bench.runs import upload
from bench.series import Bars, Run, Series
from tests.support.browser import Browser, BrowserEvent
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox
from tests.support.sftp_users import SftpUser

__all__ = ["SFTP"]

T = TypeVar("T")

#: The speed of SFTP against OpenSSH's server: of a large file, and of small ones up and down. Go
#: Wings has 0.70 of small ones up, and 0.81 down.
_LARGE = Bound(0.9, is_least=True)
_SMALL_UP = Bound(0.7, is_least=True)
_SMALL_DOWN = Bound(0.75, is_least=True)
#: MiB of SFTP's process with eight clients, and of the daemon more than before when it has _ended.
_MEMORY = Bound(110)
_GROWTH = Bound(3)
#: Milliseconds of a line of the console, and the part of a transfer's speed that is lost.
_DELAY = Bound(50)
_LOSS = Bound(0.1)

#: Bytes of the large file; small files, and bytes of each.
_SIZE = 1024 * MIB
_SMALL_FILES, _SMALL_SIZE = 2_000, 2_048
#: Clients at once, and bytes that each uploads and downloads again and again.
_CLIENTS, _CLIENT_SIZE = 8, 128 * MIB
#: How often a line of the console comes, in microseconds.
_LINE_EVERY = 100_000
#: What is measured in turns comes before all else on the machine, so that both meet the same one;
#: clients that keep a node busy come last: on machines of their own they take none of its time.
_FIRST, _LAST = ("chrt", "--rr", "1"), ("chrt", "--idle", "0")
#: Seconds from the last connection to the end of the process, and until it must be over.
_IDLE_TIMEOUT, _ENDED_WITHIN = 2, 30
#: Transfers of one figure, each of which takes less than a second, and bytes of each server.
_TRANSFERS, _SERVER_BYTES = 4, 200 * MIB
#: Seconds in which all clients log in.
_LOGINS = 2.0
_USER = "6c0f5b52-0d8c-4c5b-9a3e-2b3b5a0b8c11"
#: A server that prints the seconds since the machine's start.
_INVOCATION = (
    "while read up idle < /proc/uptime; do echo at $up; busybox usleep " + f"{_LINE_EVERY}; done"
)


@frozen
class _SftpTimes:
    """Seconds of one server with a cipher: a large and small files up and down."""

    cipher: str
    up: float
    down: float
    small_up: float
    small_down: float


@frozen
class _BusyNode:
    """Figures of a node whose clients are busy.

    `peak` is the memory of SFTP's process in MiB, `delays` are seconds of lines of the console,
    with the clients and without, and `grown` is how many MiB the daemon had more when SFTP's
    process had _ended than before.
    """

    peak: float
    delays: list[float]
    quiet_delays: list[float]
    grown: float


@frozen
class _TransferTimes:
    """Seconds in which servers were received, while clients were busy with SFTP, and without.

    `openssh` is beside clients of OpenSSH's server, and `cores` the CPU time of SFTP's process
    meanwhile, in seconds a second.
    """

    quiet: float
    node: float
    openssh: float
    cores: float


async def _measure(run: Run) -> Measured:
    """Measure SFTP beside OpenSSH's server, and the node while clients are busy."""
    speeds = await _in_memory(_measure_speed, run.rounds)
    for one, other in speeds:
        ratios = f"{other.up / one.up:.2f} and {other.down / one.down:.2f}"
        run.say(f"1 GiB up and down with {one.cipher}: {ratios}")
    dataset = await deferToThread(of_bytes, _SERVER_BYTES, run.datasets)
    transfers = await _in_memory(_measure_transfers, dataset, run.rounds)
    for each in transfers:
        run.say(f"a transfer beside SFTP: {each.quiet / each.node:.2f} of its speed")
    busy = []
    for _ in range(run.rounds):
        measured = await _in_memory(_measure_busy)
        if measured is None:
            run.say("no Docker engine answers: the console is not measured")
            break
        busy.append(measured)
        run.say(f"clients at once: {measured.peak:.0f} MiB")
    return Measured(rounds=str(run.rounds), tables=[_speeds(speeds), _others(transfers, busy)])


async def _in_memory(measure: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Measure with all files in memory, so that no disk is measured."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        return await measure(Path(directory), *arguments)


async def _measure_speed(directory: Path, rounds: int) -> list[tuple[_SftpTimes, _SftpTimes]]:
    """Measure the node and OpenSSH's server in turns with each cipher, as often."""
    sources = directory / "sources"
    await deferToThread(_make_sources, sources)
    pairs = []
    async with _sftp_node(directory, _FIRST) as (_, account, home):
        with openssh_server(directory, account.key, _FIRST) as reference:
            places = [(account, home), (reference, Path(reference.home))]
            for number in range(rounds):
                for cipher in CIPHERS:
                    times = []
                    for client, place in places if number % 2 else places[::-1]:
                        one = attrs.evolve(client, cipher=cipher)
                        times.append(await deferToThread(_times, one, place, sources))
                    node, openssh = times if number % 2 else times[::-1]
                    pairs.append((node, openssh))
    return pairs


def _make_sources(sources: Path) -> None:
    small = sources / "small"
    small.mkdir(parents=True)
    for number in range(_SMALL_FILES):
        (small / f"player-{number}.yml").write_bytes(os.urandom(_SMALL_SIZE))
    _make_file(sources / "big", _SIZE)


def _make_file(path: Path, size: int) -> None:
    """Write a file of random bytes. Blocking."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def _times(client: SftpAccount, place: Path, sources: Path) -> _SftpTimes:
    """Measure one server whose files are in `place`, and delete what came there."""
    home, back = client.home, sources / "back"
    try:
        times = _SftpTimes(
            client.cipher,
            client.seconds(f"put {sources}/big {home}/big"),
            client.seconds(f"get {home}/big /dev/null"),
            client.seconds(f"put -r {sources}/small {home}/"),
            client.seconds(f"get -r {home}/small {back}"),
        )
        for name in (place / "small", back):
            if len(os.listdir(name)) != _SMALL_FILES:
                raise SystemExit(f"bench: {name} has not the {_SMALL_FILES} files")
        return times
    finally:
        shutil.rmtree(back, ignore_errors=True)
        for path in place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@asynccontextmanager
async def _sftp_node(
    directory: Path, wrapper: tuple[str, ...], **docker: Any
) -> AsyncIterator[tuple[BenchNode, SftpAccount, Path]]:
    """A node with a server: the node, the account of the server's user, and the server's files."""
    site = Site(directory)
    await site.open()
    node = BenchNode(site, directory / "node")
    server = site.add_server(1, node.node)
    home = node.volumes / server
    home.mkdir(parents=True)
    key = directory / "key"
    public = " ".join(make_key(key).split()[:2])
    site.panel.sftp_users.add("user", SftpUser(_USER, keys={public}, permissions={server: ["*"]}))
    port = free_port()
    sftp = {
        "enabled": True,
        "bind_address": "127.0.0.1",
        "bind_port": port,
        "idle_timeout": _IDLE_TIMEOUT,
        "limits": {"max_connections_per_user": 0},
    }
    node.transfers = {"durable": False}
    await node.start(
        *wrapper,
        docker=docker or {"enabled": False},
        system={"sftp": sftp, "user": {"uid": 0, "gid": 0}},
    )
    await node.loaded()
    try:
        yield node, SftpAccount(f"user.{server[:8]}", port, key, wrapper=wrapper), home
    finally:
        await node.close()
        await site.close()


async def _measure_busy(directory: Path) -> _BusyNode | None:
    """Measure a node while clients are busy; None where no Docker engine answers."""
    try:
        with (
            connected() as client,
            imported_busybox(client) as image,
            cleaned_engine(client, image, directory / "node/volumes") as engine,
        ):
            return await _busy(directory, engine)
    except DockerException:
        return None


async def _busy(directory: Path, engine: Engine) -> _BusyNode:
    source = directory / "source"
    await deferToThread(_make_file, source, _CLIENT_SIZE)
    server = Site.server_uuid(1)
    changes = engine.for_node(server)["docker"]
    async with _sftp_node(directory, (), **changes) as (node, account, _):
        settings = node.panel.settings_of(server)
        settings["container"]["image"] = engine.image
        settings["invocation"] = _INVOCATION
        await node.panel.ask(node.node, "POST", f"/api/servers/{server}/sync")
        power = f"/api/servers/{server}/power"
        await node.panel.ask(node.node, "POST", power, {"action": "start"})
        await node.wait_for_line(f"{server}: container started")
        lines = _Lines()
        browser = await _browser(node, server)
        browser.heard = lines.heard
        try:
            lines.delays.clear()
            await deferLater(reactor, 10 * _LINE_EVERY / 1e6)
            quiet = list(lines.delays)
            meter = Meter(node.pid)
            before = meter.resident()
            async with _busy_clients(attrs.evolve(account, wrapper=_LAST), source):
                process = await _sftp_process(node.pid)
                lines.delays.clear()
                await deferLater(reactor, 60 * _LINE_EVERY / 1e6)
                delays = list(lines.delays)
                peak = Meter(process).peak()
            await _ended(process)
            return _BusyNode(peak, delays, quiet, meter.resident() - before)
        finally:
            await browser.close()


async def _browser(node: BenchNode, server: str) -> Browser:
    authority = Certificate.loadPEM(node.site.ca.read_bytes())
    url = f"{node.url.replace('https', 'wss', 1)}/api/servers/{server}/ws"
    token = node.panel.console_token(server)
    browser = await Browser(url, token, node.panel.url, authority).connect(reactor)
    await browser.auth()
    return browser


class _Lines:
    """Collects the delays of the lines of a console, in seconds."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def heard(self, event: BrowserEvent) -> None:
        text = event.args[0] if event.args else ""
        if event.event == "console output" and text.startswith("at "):
            self.delays.append(time.clock_gettime(time.CLOCK_BOOTTIME) - float(text[3:]))


@asynccontextmanager
async def _busy_clients(account: SftpAccount, source: Path) -> AsyncIterator[None]:
    """Keep the clients busy, each with a file of its own. At the end, raises what any has met."""
    over = threading.Event()

    def transfer(number: int) -> None:
        while not over.is_set():
            path = f"{account.home}/{number}"
            account.seconds(f"put {source} {path}", f"get {path} /dev/null")

    threads = ThreadPoolExecutor(_CLIENTS)
    clients = [threads.submit(transfer, number) for number in range(_CLIENTS)]
    try:
        yield
    finally:
        over.set()
        # In a thread: the Panel of this process answers those that are just logging in.
        await deferToThread(threads.shutdown)
    for client in clients:
        client.result()


def _sftp_processes(daemon: int) -> Sequence[int]:
    found = []
    for children in Path(f"/proc/{daemon}/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            if b"wingsd.sftp.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


async def _sftp_process(daemon: int) -> int:
    """Return the id of the process when all clients have had the time to log in."""
    await deferLater(reactor, _LOGINS)
    (pid,) = _sftp_processes(daemon)
    return pid


async def _ended(pid: int) -> None:
    """Return when the process has _ended by itself."""
    until = time.monotonic() + _ENDED_WITHIN
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > until:
            raise SystemExit("bench: the process of SFTP does not end without connections")
        await deferLater(reactor, 0.1)


# What clients of SFTP cost a transfer, and what those of OpenSSH's server cost it


async def _measure_transfers(
    directory: Path, dataset: Dataset, rounds: int
) -> list[_TransferTimes]:
    """Measure a node without Docker that receives servers, `rounds` times in each situation."""
    source, times = directory / "source", []
    await deferToThread(_make_file, source, _CLIENT_SIZE)
    async with _sftp_node(directory, ()) as (node, own, _):
        with openssh_server(directory, own.key, ()) as reference:
            account, other = (attrs.evolve(each, wrapper=_LAST) for each in (own, reference))
            servers = count(2)
            await _receive_some(node, dataset, servers)  # all that is imported and compiled once
            for _ in range(rounds):
                quiet = await _receive_some(node, dataset, servers)
                async with _busy_clients(account, source):
                    process = await _sftp_process(node.pid)
                    meter = Meter(process)
                    cpu, begun = meter.cpu(), time.monotonic()
                    busy = await _receive_some(node, dataset, servers)
                    cores = (meter.cpu() - cpu) / (time.monotonic() - begun)
                await _ended(process)
                async with _busy_clients(other, source):
                    await deferLater(reactor, _LOGINS)
                    openssh = await _receive_some(node, dataset, servers)
                times.append(_TransferTimes(quiet, busy, openssh, cores))
    return times


async def _receive_some(node: BenchNode, dataset: Dataset, servers: Iterator[int]) -> float:
    """Send servers to the node, one after the other; return the seconds of all."""
    total = 0.0
    for number in islice(servers, _TRANSFERS):
        total += await _receive(node, dataset, number)
    return total


async def _receive(node: BenchNode, dataset: Dataset, number: int) -> float:
    """Send a server to the node, and delete its files there; return the seconds."""
    site = node.site
    elsewhere = node.panel.add_node("https://elsewhere.invalid:8080")
    uuid = site.add_server(number, elsewhere)
    node.panel.open_transfer(uuid, node.node)
    token = node.panel.transfer_token(uuid, node.node)
    begun = time.monotonic()
    await deferToThread(upload, node.url, site.ca, token, dataset)
    seconds = time.monotonic() - begun
    await deferToThread(shutil.rmtree, node.volumes / uuid)
    return seconds


# The section of the page


def _speeds(pairs: Sequence[tuple[_SftpTimes, _SftpTimes]]) -> Table:
    figures: list[tuple[str, Bound, Callable[[_SftpTimes], float]]] = [
        ("1 GiB up", _LARGE, lambda one: one.up),
        ("1 GiB down", _LARGE, lambda one: one.down),
        (f"{_SMALL_FILES:,} files up", _SMALL_UP, lambda one: one.small_up),
        (f"{_SMALL_FILES:,} files down", _SMALL_DOWN, lambda one: one.small_down),
    ]
    rows, bounds = {}, {}
    for cipher in CIPHERS:
        for name, bound, seconds in figures:
            bounds[f"{cipher}: {name}"] = bound
            rows[f"{cipher}: {name}"] = [
                (seconds(node), seconds(openssh))
                for node, openssh in pairs
                if node.cipher == cipher
            ]
    return grid(
        rows,
        Column("speed against OpenSSH", lambda one: one[1] / one[0], bounds),
        Column("seconds", lambda one: one[0]),
        Column("seconds of OpenSSH", lambda one: one[1]),
    )


def _others(times: Sequence[_TransferTimes], busy: Sequence[_BusyNode]) -> Table:
    transfers = listed(
        times,
        Column(
            "part of a transfer's speed lost beside SFTP",
            lambda one: 1 - one.quiet / one.node,
            _LOSS,
        ),
        Column("the same beside OpenSSH's server", lambda one: 1 - one.quiet / one.openssh),
        Column("cores of SFTP's process then", lambda one: one.cores),
    )
    others = listed(
        busy,
        Column(f"MiB of SFTP's process, {_CLIENTS} clients", lambda one: one.peak, _MEMORY),
        Column("ms of a console's line then", lambda one: 1000 * median(one.delays), _DELAY),
        Column("the same without clients", lambda one: 1000 * median(one.quiet_delays)),
        Column("MiB more of the daemon after SFTP's end", lambda one: one.grown, _GROWTH),
    )
    return Table([*transfers, *others])


SFTP = Series(
    "sftp",
    "SFTP",
    f"""
    SFTP is about as fast as OpenSSH's server, a quarter slower with small files, and hardly slows
    down anything else. A file of {_SIZE // MIB:,} MiB, and {_SMALL_FILES:,} files of
    {_SMALL_SIZE:,} bytes in one directory, are uploaded and downloaded by OpenSSH's `sftp`: with
    the node, and with OpenSSH's `sshd` and its `internal-sftp`, in turns, both with the client's
    own choice of a cipher, ChaCha20, and with {CIPHERS["AES-GCM"]}. All files are in memory. Times
    are from the client's start to its end; servers and clients have the scheduler's class RR.

    For the second table, {_CLIENTS} clients upload and download {_CLIENT_SIZE // MIB} MiB each,
    again and again, while another client watches a console with a line every 100 ms, or while curl
    sends the node servers, {_TRANSFERS} for each figure. The clients have the class IDLE: on
    machines of their own they take no CPU time from the node. The same is measured beside
    OpenSSH's server in its usual class, since curl and the node want more cores than there are.
    """,
    _measure,
    (Bars(), Bars(table=1)),
)
