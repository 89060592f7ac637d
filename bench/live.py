"""Moves of running servers: for how long the game is down, beside stopping it first.

The game is a container of a real engine that both nodes share; it writes at a steady rate. By the
engine's own clock it is down from the end of its program at the source to the start of its
container at the destination.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
from attrs import frozen
from docker import APIClient
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.node import BenchNode, Site
from bench.rows import TABLE, Row
from bench.targets import LIVE_DOWNTIME, LIVE_MANY, LIVE_RATIO, Target
from tests.support import process_configuration, server_settings
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox

__all__ = [
    "LIVE_CASES",
    "WITHIN",
    "LiveCase",
    "LiveMove",
    "LiveResult",
    "LiveRounds",
    "copy_for_game",
    "downtime",
    "game",
    "live_report",
    "measure_live",
]

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
_numbers = count(1)


@frozen
class LiveMove:
    """One move: seconds in which the game was down, and from the Panel's call to the success."""

    downtime: float
    seconds: float


@frozen
class LiveCase:
    """What is measured: the game writes `rate` MB/s, `line` is in MB/s or 0 for none.

    `is_compared` is whether the server is also stopped first and then sent.
    """

    name: str
    dataset: str
    rate: int
    line: int
    target: float
    is_compared: bool = True


#: How long a server is down that is stopped first has little to do with how much it writes. The
#: last one takes long: it has three rounds at most.
LIVE_CASES = (
    LiveCase("1", "server", 1, 0, LIVE_DOWNTIME.required, is_compared=False),
    LiveCase("5", "server", 5, 0, LIVE_DOWNTIME.required),
    LiveCase("20", "server", 20, 0, LIVE_DOWNTIME.required, is_compared=False),
    LiveCase("line", "server", 5, 30, LIVE_DOWNTIME.required),
    LiveCase("many", "many", 5, 0, LIVE_MANY.required, is_compared=False),
)


@attrs.define
class LiveRounds:
    """The moves of one case: while the game runs, and after it was stopped."""

    case: LiveCase
    followed: list[LiveMove] = attrs.field(factory=list)
    stopped: list[LiveMove] = attrs.field(factory=list)


@frozen
class LiveResult:
    """All cases; bytes and files of the datasets by their names."""

    cases: list[LiveRounds] = attrs.field(factory=list)
    sizes: dict[str, list[int]] = attrs.field(factory=dict)


async def measure_live(one: Dataset, disk: Path, case: LiveCase, *, follows: bool) -> LiveMove:
    """Move a server that runs between two new nodes on `disk`; with `follows` while it runs."""
    with (
        TemporaryDirectory() as directory,
        connected() as client,
        imported_busybox(client) as image,
        cleaned_engine(client, image, disk) as engine,
    ):
        site = Site(Path(directory))
        await site.open()
        try:
            return await _measure(one, disk, case, site, engine, follows=follows)
        finally:
            await site.close()


async def _measure(
    one: Dataset, disk: Path, case: LiveCase, site: Site, engine: Engine, *, follows: bool
) -> LiveMove:
    number = next(_numbers)
    source = BenchNode(site, disk / f"source-{number}")
    destination = BenchNode(site, disk / f"destination-{number}", proxied=True)
    uuid = site.server_uuid(time.time_ns() % 10**9)
    settings = server_settings(uuid, image=engine.image, invocation=game(case.rate))
    site.panel.add_server(settings, source.node, process_configuration())
    await deferToThread(copy_for_game, one, source.volumes / uuid)
    docker = engine.for_node(uuid)
    try:
        for node in (source, destination):
            node.transfers = {"live": {"enabled": follows}}
            await node.start_loaded(**docker)
        if case.line:
            destination.throttle(case.line * 1e6)
        await site.panel.power(uuid, "start")
        await source.wait_for_line(f"{uuid}: running", within=WITHIN)
        began = time.time()
        await site.panel.transfer(uuid, destination.node)
        await destination.wait_for_line(f"{uuid}: running", within=WITHIN)
        await source.wait_for_line(f"{uuid}: state success", within=WITHIN)
        seconds = time.time() - began
        return LiveMove(await deferToThread(downtime, engine.client, uuid, began), seconds)
    finally:
        await source.close()
        await destination.close()


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


def downtime(client: APIClient, uuid: str, began: float) -> float:
    """Return the seconds from the last end of the program before its last start to that."""
    times: dict[str, list[int]] = {"die": [], "start": []}
    found: Any = client.events(
        since=int(began) - 1,
        until=int(time.time()) + 1,
        filters={"type": "container", "event": ["die", "start"]},
        decode=True,
    )
    for event in found:
        if event["Actor"]["Attributes"].get("name") == uuid:
            times[event["Action"]].append(event["timeNano"])
    start = max(times["start"])
    return (start - max(each for each in times["die"] if each < start)) / 1e9


def live_report(result: LiveResult, machine: str, version: str) -> str:
    """Return the document."""
    lines = [
        "# Moves of running servers",
        "",
        "Written by `make bench SERIES=live`, not to be edited.",
        "",
        "A running server is moved between two nodes of one machine over TLS, which share a",
        "Docker engine; meanwhile it writes at random places of 16 files of 8 MiB. It is down",
        "from the end of its program at the source to the start of its container at the",
        "destination, by the engine's clock. Some cases are compared, in turns, with a server",
        "that is stopped first and then sent (`system.transfers.live.enabled: false`).",
        "Medians, with the lowest and the highest in brackets.",
        "",
        f"Machine: {machine}. Version: {version}.",
        "",
    ]
    for rounds in result.cases:
        case = rounds.case
        size, files = result.sizes[case.dataset]
        line = f", over a line of {case.line} MB/s" if case.line else ""
        lines += [
            f"## {size / MIB:,.0f} MiB in {files:,} files, {case.rate} MB/s written{line}",
            "",
            *TABLE,
            *(
                Row(name, values, target, is_speed=is_speed).text()
                for name, values, target, is_speed in _rows(rounds)
            ),
            "",
        ]
    return "\n".join(lines)


def _rows(rounds: LiveRounds) -> list[tuple[str, Sequence[float], Target | None, bool]]:
    case = rounds.case
    target = LIVE_MANY if case.target == LIVE_MANY.required else LIVE_DOWNTIME
    rows: list[tuple[str, Sequence[float], Target | None, bool]] = [
        ("down, seconds", [one.downtime for one in rounds.followed], target, False),
        ("the whole move, seconds", [one.seconds for one in rounds.followed], None, False),
    ]
    if rounds.stopped:
        ratios = [
            other.downtime / one.downtime
            for one, other in zip(rounds.followed, rounds.stopped, strict=True)
        ]
        stopped = "when it is stopped first, seconds"
        rows += [
            (f"down {stopped}", [one.downtime for one in rounds.stopped], None, False),
            ("times less", ratios, LIVE_RATIO if case.line else None, True),
            (f"the whole move {stopped}", [one.seconds for one in rounds.stopped], None, False),
        ]
    return rows
