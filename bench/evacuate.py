"""A node with forty running servers empties itself by one command, beside one stream of all files.

The games are containers of a real engine that both nodes share. By the engine's own clock each is
down from the end of its program at the source to the start of its container at the destination.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from attrs import define, field, frozen
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import BUSY, SERVERS, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Figure, Measured, Points, Table, grid
from bench.live import WITHIN, game
from bench.machine import settle
from bench.meter import Meter
from bench.node import BenchNode, Site, reactor
from bench.runs import behind_namespace, move, move_over_namespace, new_directory, opened_site
from bench.series import FEW, Bars, Lines, Run, Series
from tests.support import process_configuration, server_settings
from tests.support.application_api import KEY
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox
from tests.support.namespace_line import NamespaceLine

__all__ = ["EVACUATE", "EVACUATE_CASES"]

#: Bytes a second of the line that all connections share, and MB/s that each busy game writes.
_RATE = 30e6
_WRITTEN = 1
#: Seconds that a server is down: of all in the median, and at the 95th percentile.
_DOWN, _LATE_DOWN = Bound(3), Bound(6)
#: Seconds of all against one stream, the share of the line, and MiB of each daemon.
_TIME, _SHARE, _MEMORY = Bound(1.5), Bound(0.85, is_least=True), Bound(160)
#: The cases, by the titles of their rows.
EVACUATE_CASES = {"limited": f"a line of {_RATE / 1e6:.0f} MB/s", "unlimited": "no limit"}
#: A game that writes nothing.
_QUIET = "trap 'exit 0' TERM; echo listening on; sleep 86400 & wait"
#: The first port of each node, and the bits of a network with an address for each container.
_PORTS, _PREFIX = (25600, 25800), 26
#: A line of the source's log for each copy that is complete.
_WHOLE = "the destination has a whole copy"
_LOOKED = ["seconds", "MB/s on the line", "copied", "moved"]


@frozen
class _Evacuation:
    """One evacuation: seconds of all, and those that each server was down.

    `stream` are the seconds of one stream with the same files. `share` of the line was used until
    the last copy was complete. `memory` is the peak of the source and of the destination, in MiB.
    """

    seconds: float
    downtimes: list[float]
    stream: float
    share: float | None
    memory: tuple[float, float]
    cpu: tuple[float, float]
    looks: list[list[float]]


@define
class _Clock:
    """The ends and starts of containers by the engine, which forgets all but the last 256."""

    _client: Any
    _since: float = field(factory=time.time)
    _found: set[tuple[str, str, int]] = field(factory=set)

    def look(self) -> None:
        """Note what has happened since the last look. Blocking."""
        until = time.time()
        events = self._client.events(
            since=f"{self._since - 1:.9f}",
            until=f"{until:.9f}",
            filters={"type": "container", "event": ["die", "start"]},
            decode=True,
        )
        for each in events:
            name = each["Actor"]["Attributes"].get("name", "")
            self._found.add((name, each["Action"], each["timeNano"]))
        self._since = until

    def downtime(self, uuid: str) -> float:
        """Return the seconds from the last end of a program before its last start to that."""
        times = {
            action: [when for name, what, when in self._found if (name, what) == (uuid, action)]
            for action in ("die", "start")
        }
        start = max(times["start"])
        return (start - max(each for each in times["die"] if each < start)) / 1e9


@define
class _Nodes:
    """Two nodes that share an engine, and the servers at the source, which run."""

    site: Site
    source: BenchNode
    destination: BenchNode
    servers: list[str]
    client: Any
    #: The line to the destination, if it is limited.
    line: NamespaceLine | None


@asynccontextmanager
async def _played(one: Dataset, disk: Path, *, limited: bool) -> AsyncIterator[_Nodes]:
    with (
        connected() as client,
        imported_busybox(client) as image,
        cleaned_engine(client, image, disk, _PREFIX) as engine,
    ):
        async with opened_site() as site:
            source = BenchNode(site, new_directory(disk))
            servers = [site.server_uuid(time.time_ns() % 10**15 + n) for n in range(SERVERS)]
            settings = engine.for_node(servers[0])
            for uuid in servers[1:]:
                engine.will_make_container(uuid)

            async def start(node: BenchNode) -> None:
                await node.start_loaded(**settings)

            _place(site, source, servers, engine)
            await deferToThread(_fill, one, source, servers)
            async with _destination(site, disk, start, limited=limited) as (destination, line):
                for port in range(_PORTS[1], _PORTS[1] + SERVERS):
                    site.panel.add_allocation(destination.node, port)
                await start(source)
                try:
                    nodes = _Nodes(site, source, destination, servers, engine.client, line)
                    await _run_games(nodes)
                    yield nodes
                finally:
                    await source.close()


@asynccontextmanager
async def _destination(
    site: Site, disk: Path, start: Callable[[BenchNode], Awaitable[None]], *, limited: bool
) -> AsyncIterator[tuple[BenchNode, NamespaceLine | None]]:
    if limited:
        async with behind_namespace(site, disk, start, _RATE) as (node, line):
            yield node, line
        return
    node = BenchNode(site, new_directory(disk))
    await start(node)
    try:
        yield node, None
    finally:
        await node.close()


def _place(site: Site, node: BenchNode, servers: Sequence[str], engine: Engine) -> None:
    """Put the servers on a node of the Panel."""
    for number, uuid in enumerate(servers):
        port = _PORTS[0] + number
        settings = server_settings(
            uuid,
            image=engine.image,
            invocation=game(_WRITTEN) if number < BUSY else _QUIET,
            name=f"game {number + 1}",
            port=port,
        )
        site.panel.add_server(settings, node.node, process_configuration())
        site.panel.add_allocation(node.node, port, uuid)


def _fill(one: Dataset, node: BenchNode, servers: Sequence[str]) -> None:
    assert one.tree is not None
    node.volumes.mkdir(parents=True)
    for tree, uuid in zip(sorted(one.tree.iterdir()), servers, strict=True):
        command = ["cp", "-a", str(tree), str(node.volumes / uuid)]
        subprocess.run(command, check=True)


async def _run_games(nodes: _Nodes) -> None:
    for uuid in nodes.servers:
        await nodes.site.panel.power(uuid, "start")
        await nodes.source.wait_for_line(f"{uuid}: running", within=WITHIN)


async def _pair(nodes: _Nodes) -> None:
    address = nodes.destination.node.address
    made = await nodes.destination.wingsctl("pair", "--url", address, "--json")
    accepted = await nodes.source.wingsctl("pair", "--accept", address, made.json["key"])
    if accepted.status:
        raise RuntimeError(accepted.err)


async def _evacuate(nodes: _Nodes, one: Dataset, stream: float) -> _Evacuation:
    """Empty the source by one command. Raises `RuntimeError` if a server has not moved."""
    directory, source = nodes.source.directory, nodes.source
    key = directory / "panel.key"
    key.write_text(KEY)
    key.chmod(0o600)
    await _pair(nodes)
    words = ["--plan", str(directory / "plan.json"), "--panel-key-file", str(key)]
    words += ["--family", "pelican", "--to", nodes.destination.node.address]
    meters = [Meter(each.pid) for each in (source, nodes.destination)]
    clock, looks = _Clock(nodes.client), list[list[float]]()
    with await deferToThread(settle, one.size):
        cpu = [each.cpu() for each in meters]
        began = time.monotonic()
        before = nodes.line.sent if nodes.line else 0
        _, ended = source.start_wingsctl("evacuate", *words, "--json")
        while not ended.called:
            await deferLater(reactor, 1.0)
            await deferToThread(clock.look)
            sent = (nodes.line.sent if nodes.line else 0) - before
            looks.append([time.monotonic() - began, sent, *_counts(nodes)])
        seconds = time.monotonic() - began
    result = await ended
    if result.status:
        raise RuntimeError(f"{result.out}\n{result.err}")
    for uuid in nodes.servers:
        await nodes.destination.wait_for_line(f"{uuid}: running", within=WITHIN)
    await deferToThread(clock.look)
    used = [each.cpu() - spent for each, spent in zip(meters, cpu, strict=True)]
    peaks = [each.peak() for each in meters]
    return _Evacuation(
        seconds,
        [clock.downtime(uuid) for uuid in nodes.servers],
        stream,
        _share(looks) if nodes.line else None,
        (peaks[0], peaks[1]),
        (used[0], used[1]),
        looks,
    )


def _counts(nodes: _Nodes) -> tuple[int, int]:
    """Return how many servers have a complete copy, and how many have moved."""
    copied = sum(_WHOLE in line for line in nodes.source.log)
    return copied, sum(": state success" in line for line in nodes.source.log)


def _share(looks: Sequence[Sequence[float]]) -> float:
    """Return the share of the line that was used until the last copy was complete."""
    most = max(look[2] for look in looks)
    seconds, sent, *_ = next(look for look in looks if look[2] == most)
    return sent / seconds / _RATE


async def _measure(run: Run) -> Measured:
    one = await run.dataset("servers")
    rows: dict[str, list[_Evacuation]] = {}
    for case, title in EVACUATE_CASES.items():
        if not run.wants(case):
            continue
        for _ in range(min(run.rounds, FEW)):
            with fresh_disk(run.directory) as disk:
                stream = await _stream(one, disk, limited=case == "limited")
            run.say(f"{case}: one stream takes {stream:.1f} s")
            with fresh_disk(run.directory) as disk:
                async with _played(one, disk, limited=case == "limited") as nodes:
                    found = await _evacuate(nodes, one, stream)
            rows.setdefault(title, []).append(found)
            run.say(f"{case}: {_line(found)}")
    looks = next(iter(rows.values()))[-1].looks
    return Measured(
        rounds=str(min(run.rounds, FEW)),
        tables=[_table(rows)],
        points={"looks": Points(_LOOKED, _drawn(looks))},
    )


async def _stream(one: Dataset, disk: Path, *, limited: bool) -> float:
    """Return the seconds in which one stream brings all files to another node."""
    way = {"enabled": False}
    if limited:
        return (await move_over_namespace(one, disk, _RATE, moves=way))[0].seconds
    return (await move(one, disk, moves=way))[0].seconds


def _line(found: _Evacuation) -> str:
    share = "" if found.share is None else f", {found.share:.0%} of the line"
    source, destination = found.memory
    return (
        f"{found.seconds:.1f} s, {found.seconds / found.stream:.2f} of one stream's{share}, down "
        f"for {median(found.downtimes):.2f} s, at the 95th percentile {_late(found):.2f} s, "
        f"{source:.0f} and {destination:.0f} MiB, {found.cpu[0]:.0f} and {found.cpu[1]:.0f} s of "
        "CPU time"
    )


def _late(found: _Evacuation) -> float:
    return quantiles(found.downtimes, n=20)[-1]


def _drawn(looks: Sequence[Sequence[float]]) -> list[list[Any]]:
    """Return the looks with MB/s since the one before, about two for each second of a minute."""
    step = max(len(looks) // 60, 1)
    kept = [[0.0, 0.0, 0, 0], *looks[step - 1 :: step]]
    return [
        [
            round(now[0], 1),
            round((now[1] - last[1]) / (now[0] - last[0]) / 1e6, 1),
            now[2],
            now[3],
        ]
        for last, now in pairwise(kept)
    ]


def _table(rows: Mapping[str, Sequence[_Evacuation]]) -> Table:
    return grid(
        rows,
        Column("seconds down, median", lambda one: median(one.downtimes), _DOWN),
        Column("seconds down, 95th percentile", _late, _LATE_DOWN),
        Column("time against one stream", lambda one: one.seconds / one.stream, _TIME),
        Column("share of the line", lambda one: one.share, _SHARE),
        Column("MiB source", lambda one: one.memory[0], _MEMORY, Figure.peak),
        Column("MiB destination", lambda one: one.memory[1], _MEMORY, Figure.peak),
        Column("seconds", lambda one: one.seconds),
        Column("CPU source", lambda one: one.cpu[0]),
        Column("CPU destination", lambda one: one.cpu[1]),
    )


EVACUATE = Series(
    "evacuate",
    "A node that empties itself",
    f"""
    All running servers of a node move by one command, each down for one to two seconds. There are
    {SERVERS} of them: {BUSY} of 200 MiB in 10,000 files, whose games write {_WRITTEN} MB/s each,
    and {SERVERS - BUSY} of 20 MiB in 1,000 files. `wingsctl evacuate` moves them with its default
    settings, through a Panel with Pelican's API. The line of {_RATE / 1e6:.0f} MB/s is shaped in a
    network namespace for all connections together, its share is that of all bytes until the last
    copy was complete. In the same round one stream brings the same files over the same line, as a
    single stopped server. Without a limit both daemons, the engine and the Panel share two cores,
    which are busy until the small servers have moved: the CPU takes the time, and not the bytes.
    """,
    _measure,
    (
        Lines("seconds", "MB/s", ("MB/s on the line",), points="looks"),
        Lines("seconds", "servers", ("copied", "moved"), points="looks"),
        Bars(),
    ),
)
