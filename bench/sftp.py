"""SFTP: files up and down beside OpenSSH's server, and the node while many clients are busy."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen
from docker.errors import DockerException
from twisted.internet.ssl import Certificate
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import MIB
from bench.meter import Meter
from bench.node import BenchNode, Site, reactor
from bench.openssh import CIPHERS, SftpAccount, free_port, make_key, openssh_server
from tests.support.browser import Browser, BrowserEvent
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox
from tests.support.sftp_users import SftpUser

__all__ = [
    "CLIENTS",
    "CLIENT_SIZE",
    "LAST",
    "LOGINS",
    "SIZE",
    "SMALL_FILES",
    "SMALL_SIZE",
    "BusyNode",
    "SftpResult",
    "SftpTimes",
    "TransferTimes",
    "busy_clients",
    "ended",
    "make_file",
    "measure_busy",
    "measure_speed",
    "sftp_node",
    "sftp_process",
]

#: Bytes of the large file; small files, and bytes of each.
SIZE = 1024 * MIB
SMALL_FILES, SMALL_SIZE = 2_000, 2_048
#: Clients at once, and bytes that each uploads and downloads again and again.
CLIENTS, CLIENT_SIZE = 8, 128 * MIB
#: How often a line of the console comes, in microseconds.
LINE_EVERY = 100_000
#: What is measured in turns comes before all else on the machine, so that both meet the same one;
#: clients that keep a node busy come last: on machines of their own they take none of its time.
_FIRST, LAST = ("chrt", "--rr", "1"), ("chrt", "--idle", "0")
#: Seconds from the last connection to the end of the process, and until it must be over.
_IDLE_TIMEOUT, _ENDED_WITHIN = 2, 30
#: Seconds in which all clients log in.
LOGINS = 2.0
_USER = "6c0f5b52-0d8c-4c5b-9a3e-2b3b5a0b8c11"
#: A server that prints the seconds since the machine's start.
_INVOCATION = (
    "while read up idle < /proc/uptime; do echo at $up; busybox usleep " + f"{LINE_EVERY}; done"
)


@frozen
class SftpTimes:
    """Seconds of one server with a cipher: a large and small files up and down."""

    cipher: str
    up: float
    down: float
    small_up: float
    small_down: float


@frozen
class BusyNode:
    """What happened while the clients were busy.

    `peak` is the memory of SFTP's process in MiB, `delays` are seconds of lines of the console,
    with the clients and without, and `grown` is how many MiB the daemon had more when SFTP's
    process had ended than before.
    """

    peak: float
    delays: list[float]
    quiet_delays: list[float]
    grown: float


@frozen
class TransferTimes:
    """Seconds in which servers were received, while clients were busy with SFTP, and without.

    `openssh` is beside clients of OpenSSH's server, and `cores` the CPU time of SFTP's process
    meanwhile, in seconds a second.
    """

    quiet: float
    node: float
    openssh: float
    cores: float


@frozen
class SftpResult:
    """The rounds. `busy` is empty where no Docker engine answers."""

    node: list[SftpTimes] = attrs.field(factory=list)
    openssh: list[SftpTimes] = attrs.field(factory=list)
    busy: list[BusyNode] = attrs.field(factory=list)
    transfers: list[TransferTimes] = attrs.field(factory=list)


async def measure_speed(directory: Path, rounds: int, result: SftpResult) -> None:
    """Measure both servers in turns with each cipher, as often as there are rounds."""
    sources = directory / "sources"
    await deferToThread(_make_sources, sources)
    async with sftp_node(directory, _FIRST) as (_, account, home):
        with openssh_server(directory, account.key, _FIRST) as reference:
            places = [(account, home, result.node)]
            places += [(reference, Path(reference.home), result.openssh)]
            for number in range(rounds):
                for cipher in CIPHERS:
                    for client, place, times in places if number % 2 else places[::-1]:
                        one = attrs.evolve(client, cipher=cipher)
                        times.append(await deferToThread(_times, one, place, sources))


def _make_sources(sources: Path) -> None:
    small = sources / "small"
    small.mkdir(parents=True)
    for number in range(SMALL_FILES):
        (small / f"player-{number}.yml").write_bytes(os.urandom(SMALL_SIZE))
    make_file(sources / "big", SIZE)


def make_file(path: Path, size: int) -> None:
    """Write a file of random bytes. Blocking."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def _times(client: SftpAccount, place: Path, sources: Path) -> SftpTimes:
    """Measure one server whose files are in `place`, and delete what came there."""
    home, back = client.home, sources / "back"
    try:
        times = SftpTimes(
            client.cipher,
            client.seconds(f"put {sources}/big {home}/big"),
            client.seconds(f"get {home}/big /dev/null"),
            client.seconds(f"put -r {sources}/small {home}/"),
            client.seconds(f"get -r {home}/small {back}"),
        )
        for name in (place / "small", back):
            if len(os.listdir(name)) != SMALL_FILES:
                raise SystemExit(f"bench: {name} has not the {SMALL_FILES} files")
        return times
    finally:
        shutil.rmtree(back, ignore_errors=True)
        for path in place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@asynccontextmanager
async def sftp_node(
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


async def measure_busy(directory: Path) -> BusyNode | None:
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


async def _busy(directory: Path, engine: Engine) -> BusyNode:
    source = directory / "source"
    await deferToThread(make_file, source, CLIENT_SIZE)
    server = Site.server_uuid(1)
    changes = engine.for_node(server)["docker"]
    async with sftp_node(directory, (), **changes) as (node, account, _):
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
            await deferLater(reactor, 10 * LINE_EVERY / 1e6)
            quiet = list(lines.delays)
            meter = Meter(node.pid)
            before = meter.resident()
            async with busy_clients(attrs.evolve(account, wrapper=LAST), source):
                process = await sftp_process(node.pid)
                lines.delays.clear()
                await deferLater(reactor, 60 * LINE_EVERY / 1e6)
                delays = list(lines.delays)
                peak = Meter(process).peak()
            await ended(process)
            return BusyNode(peak, delays, quiet, meter.resident() - before)
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
async def busy_clients(account: SftpAccount, source: Path) -> AsyncIterator[None]:
    """Keep the clients busy, each with a file of its own. At the end, raises what any has met."""
    over = threading.Event()

    def transfer(number: int) -> None:
        while not over.is_set():
            path = f"{account.home}/{number}"
            account.seconds(f"put {source} {path}", f"get {path} /dev/null")

    threads = ThreadPoolExecutor(CLIENTS)
    clients = [threads.submit(transfer, number) for number in range(CLIENTS)]
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


async def sftp_process(daemon: int) -> int:
    """Return the id of the process when all clients have had the time to log in."""
    await deferLater(reactor, LOGINS)
    (pid,) = _sftp_processes(daemon)
    return pid


async def ended(pid: int) -> None:
    """Return when the process has ended by itself."""
    until = time.monotonic() + _ENDED_WITHIN
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > until:
            raise SystemExit("bench: the process of SFTP does not end without connections")
        await deferLater(reactor, 0.1)
