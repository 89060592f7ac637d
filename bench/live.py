"""Moves of running servers: for how long the game is down, beside stopping it first.

The game is a container of a real engine that both nodes share; it writes at a steady rate. By the
engine's own clock it is down from the end of its program at the source to the start of its
container at the destination.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import frozen
from docker import APIClient
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Measured, Table, grid
from bench.node import BenchNode, Site
from bench.series import FEW, Bars, Run, Series
from tests.support import process_configuration, server_settings
from tests.support.docker_engine import cleaned_engine, connected, imported_busybox

__all__ = ["LIVE", "LIVE_CASES", "WITHIN", "copy_for_game", "downtime", "game", "played_server"]

#: Seconds for which a running server is down when it is moved, also one with 500,000 files; and
#: how much less that is than when it is stopped first, on a line of 30 MB/s.
_DOWN, _MANY_DOWN = Bound(3), Bound(7)
_TIMES_LESS = Bound(20, is_least=True)
_DOWN_FOLLOWED, _DOWN_STOPPED = "seconds down", "stopped first: seconds down"

#: Seconds until a run times out.
WITHIN = 3600
#: Files that the game writes to, and their bytes; it writes this often a second.
_HOT, _HOT_SIZE, _WRITES = 16, 8 * MIB, 10
_BLOCK = 4096
#: The game: it is up at once, ends at once, and writes at random places of its files.
_GAME = (
    "trap 'exit 0' TERM; echo listening on; i=0; while :; do dd if=/dev/urandom "
    "of=/home/container/hot/$((i % {files})) bs={block} count={blocks} "
    "seek=$((i * 37 % {places})) conv=notrunc 2>/dev/null; i=$((i + 1)); sleep {pause}; done"
)


@frozen
class _LiveMove:
    """One move: seconds in which the game was down, and from the Panel's call to the success."""

    downtime: float
    seconds: float


@frozen
class _LiveRound:
    """A move while the game runs, and one after it was stopped, where that is compared."""

    followed: _LiveMove
    stopped: _LiveMove | None = None


@frozen
class _LiveCase:
    """A game that writes `rate` MB/s, moved over a line of `line` MB/s, or 0 for no limit.

    `is_compared` is whether the server is also stopped first and then sent.
    """

    name: str
    dataset: str
    rate: int
    line: int
    bound: Bound = _DOWN
    is_compared: bool = True

    @property
    def title(self) -> str:
        """The beginning of its rows."""
        line = f", a line of {self.line} MB/s" if self.line else ""
        files = ", 500,000 files" if self.dataset == "many" else ""
        return f"{self.rate} MB/s written{line}{files}"


#: How long a server is down that is stopped first has little to do with how much it writes. The
#: last one takes long: it has three rounds at most.
LIVE_CASES = (
    _LiveCase("1", "server", 1, 0, is_compared=False),
    _LiveCase("5", "server", 5, 0),
    _LiveCase("20", "server", 20, 0, is_compared=False),
    _LiveCase("line", "server", 5, 30),
    _LiveCase("many", "many", 5, 0, _MANY_DOWN, is_compared=False),
)


@frozen
class PlayedServer:
    """A server that runs at a node and may move to another one; both share an engine."""

    uuid: str
    source: BenchNode
    destination: BenchNode
    client: APIClient

    @property
    def files(self) -> Path:
        """The directory of its files at the source."""
        return self.source.volumes / self.uuid

    async def order(self) -> None:
        """Order the server's transfer, as its Panel does."""
        await self.source.panel.transfer(self.uuid, self.destination.node)

    async def moved(self) -> None:
        """Return when it runs at the destination, and the source knows of the success."""
        await self.destination.wait_for_line(f"{self.uuid}: running", within=WITHIN)
        await self.source.wait_for_line(f"{self.uuid}: state success", within=WITHIN)


@asynccontextmanager
async def played_server(
    disk: Path, invocation: str, fill: Callable[[Path], None], **transfers: Any
) -> AsyncIterator[PlayedServer]:
    """Run a server at a new node on `disk`, with another new node; `fill` makes its files.

    `transfers` are settings of both nodes, below `system.transfers`.
    """
    with (
        TemporaryDirectory() as directory,
        connected() as client,
        imported_busybox(client) as image,
        cleaned_engine(client, image, disk) as engine,
    ):
        site = Site(Path(directory))
        await site.open()
        source = BenchNode(site, disk / "source")
        destination = BenchNode(site, disk / "destination", proxied=True)
        server = PlayedServer(
            site.server_uuid(time.time_ns() % 10**9), source, destination, engine.client
        )
        settings = server_settings(server.uuid, image=engine.image, invocation=invocation)
        site.panel.add_server(settings, source.node, process_configuration())
        try:
            await deferToThread(fill, server.files)
            docker = engine.for_node(server.uuid)
            for node in (source, destination):
                node.transfers = transfers
                await node.start_loaded(**docker)
            await site.panel.power(server.uuid, "start")
            await source.wait_for_line(f"{server.uuid}: running", within=WITHIN)
            yield server
        finally:
            await source.close()
            await destination.close()
            await site.close()


async def _measure_live(one: Dataset, disk: Path, case: _LiveCase, *, follows: bool) -> _LiveMove:
    """Move a server that runs between two new nodes on `disk`; with `follows` while it runs."""
    fill = partial(copy_for_game, one)
    async with played_server(disk, game(case.rate), fill, live={"enabled": follows}) as server:
        if case.line:
            server.destination.throttle(case.line * 1e6)
        began = time.time()
        await server.order()
        await server.moved()
        seconds = time.time() - began
        return _LiveMove(await deferToThread(downtime, server, began), seconds)


def game(rate: int) -> str:
    """Return the command of a game that writes `rate` MB/s."""
    blocks = max(rate * 1_000_000 // _WRITES // _BLOCK, 1)
    return _GAME.format(
        files=_HOT,
        block=_BLOCK,
        blocks=blocks,
        places=_HOT_SIZE // _BLOCK - blocks,
        pause=1 / _WRITES,
    )


def copy_for_game(one: Dataset, place: Path) -> None:
    """Copy the dataset, and make the files that the game writes to; all of it on the disk."""
    assert one.tree is not None
    place.parent.mkdir(parents=True, exist_ok=True)
    command = ["cp", "-a", str(one.tree), str(place)]
    subprocess.run(command, check=True)
    (place / "hot").mkdir()
    for number in range(_HOT):
        with open("/dev/urandom", "rb") as random:
            (place / "hot" / str(number)).write_bytes(random.read(_HOT_SIZE))
    os.sync()


def downtime(server: PlayedServer, began: float) -> float:
    """Return the seconds from the last end of the program before its last start to that."""
    times: dict[str, list[int]] = {"die": [], "start": []}
    found: Any = server.client.events(
        since=int(began) - 1,
        until=int(time.time()) + 1,
        filters={"type": "container", "event": ["die", "start"]},
        decode=True,
    )
    for event in found:
        if event["Actor"]["Attributes"].get("name") == server.uuid:
            times[event["Action"]].append(event["timeNano"])
    start = max(times["start"])
    return (start - max(each for each in times["die"] if each < start)) / 1e9


async def _measure(run: Run) -> Measured:
    """Measure moves of running servers beside those that are stopped first; a real engine."""
    rows: dict[str, list[_LiveRound]] = {}
    for case in filter(lambda case: run.wants(case.name), LIVE_CASES):
        one = await run.dataset(case.dataset)
        rounds = rows.setdefault(case.title, [])
        for _ in range(min(run.rounds, FEW) if case.dataset == "many" else run.rounds):
            moves = []
            for follows in (True, False)[: 2 if case.is_compared else 1]:
                with fresh_disk(run.directory) as disk:
                    moves.append(await _measure_live(one, disk, case, follows=follows))
                how = "" if follows else "stopped first, "
                run.say(f"{case.name}: {how}down for {moves[-1].downtime:.2f} s")
            rounds.append(_LiveRound(*moves))
    return Measured(rounds=str(run.rounds), tables=[_table(rows)])


def _table(rows: Mapping[str, Sequence[_LiveRound]]) -> Table:
    down = {case.title: case.bound for case in LIVE_CASES}
    less = {case.title: _TIMES_LESS for case in LIVE_CASES if case.line}
    return grid(
        rows,
        Column(_DOWN_FOLLOWED, lambda one: one.followed.downtime, down),
        Column("seconds of the move", lambda one: one.followed.seconds),
        Column(_DOWN_STOPPED, lambda one: one.stopped and one.stopped.downtime),
        Column(
            "stopped first: seconds of the move", lambda one: one.stopped and one.stopped.seconds
        ),
        Column(
            "times less down",
            lambda one: one.stopped and one.stopped.downtime / one.followed.downtime,
            less,
        ),
    )


LIVE = Series(
    "live",
    "Moves of running servers",
    """
    A running server is down for one to two seconds when it is moved, however slow the line is, and
    for five with 500,000 files. It has 2,048 MiB in 50,028 files, or 1,623 MiB in 500,000. In
    turns with that, a server is stopped first and then sent
    (`system.transfers.live.enabled: false`).
    """,
    _measure,
    (Bars("seconds down", columns=(_DOWN_FOLLOWED, _DOWN_STOPPED)),),
)
