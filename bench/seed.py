"""A copy that follows a running server, for as long as is said, and the Panel's order after that.

The game writes all the time at a steady rate. How old the copy is and what is missing is noted
meanwhile; at the end, for how long the game is down, by the engine's clock, and how many rounds
the move has taken.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
from attrs import frozen
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.live import WITHIN, copy_for_game, downtime, game
from bench.node import BenchNode, Site, reactor
from bench.rows import TABLE, Row
from bench.targets import SEED_DOWNTIME, SEED_ROUNDS
from tests.support import process_configuration, server_settings
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox

__all__ = ["SEED_MINUTES", "SeedLag", "SeedMove", "SeedResult", "measure_seed", "seed_report"]

#: Minutes for which the copy follows the server, and MB/s that its game writes.
SEED_MINUTES = 60.0
_RATE = 5
#: How often it is looked how far the copy is: a twentieth of the time, but not more often.
_LOOKS, _LEAST = 60, 10.0


@frozen
class SeedLag:
    """How far the copy was, `at` seconds after the order; None for what was not known yet."""

    at: float
    rounds: int
    age: float | None
    changed: int
    missing: int
    downtime: float | None


@frozen
class SeedMove:
    """One seed and its move: seconds of the downtime, of the Panel's order, and its rounds.

    `sent` are the bytes on the line from the order on.
    """

    downtime: float
    seconds: float
    rounds: int
    sent: int
    lags: list[SeedLag] = attrs.field(factory=list)


@frozen
class SeedResult:
    """The measured seeds, their length in minutes, and the bytes and files of the server."""

    moves: list[SeedMove] = attrs.field(factory=list)
    size: list[int] = attrs.field(factory=list)
    minutes: list[float] = attrs.field(factory=list)


async def measure_seed(
    one: Dataset, disk: Path, minutes: float, say: Callable[[str], None]
) -> SeedMove:
    """Have a copy follow a server between two new nodes on `disk`, and move it then."""
    with (
        TemporaryDirectory() as directory,
        connected() as client,
        imported_busybox(client) as image,
        cleaned_engine(client, image, disk) as engine,
    ):
        site = Site(Path(directory))
        await site.open()
        try:
            return await _measure(one, disk, site, engine, minutes, say)
        finally:
            await site.close()


async def _measure(
    one: Dataset,
    disk: Path,
    site: Site,
    engine: Engine,
    minutes: float,
    say: Callable[[str], None],
) -> SeedMove:
    source = BenchNode(site, disk / "source")
    destination = BenchNode(site, disk / "destination", proxied=True)
    uuid = site.server_uuid(time.time_ns() % 10**9)
    settings = server_settings(uuid, image=engine.image, invocation=game(_RATE))
    site.panel.add_server(settings, source.node, process_configuration())
    await deferToThread(copy_for_game, one, source.volumes / uuid)
    docker = engine.for_node(uuid)
    try:
        for node in (source, destination):
            await node.start_loaded(**docker)
        await site.panel.power(uuid, "start")
        await source.wait_for_line(f"{uuid}: running", within=WITHIN)
        await _begin(uuid, source, destination)
        lags = await _watch(source, minutes * 60, say)
        before, began = destination.line.sent, time.time()
        since = len(source.log)
        await site.panel.transfer(uuid, destination.node)
        await destination.wait_for_line(f"{uuid}: running", within=WITHIN)
        await source.wait_for_line(f"{uuid}: state success", within=WITHIN)
        rounds = sum(f"{uuid}: round " in line for line in source.log[since:])
        return SeedMove(
            await deferToThread(downtime, engine.client, uuid, began),
            time.time() - began,
            rounds,
            destination.line.sent - before,
            lags,
        )
    finally:
        await source.close()
        await destination.close()


async def _begin(uuid: str, source: BenchNode, destination: BenchNode) -> None:
    address = ("--url", destination.node.address)
    invited = await destination.wingsctl("receive", uuid, "--follow", "--json", *address)
    sent = await source.wingsctl(*shlex.split(invited.json["send"])[1:])
    if sent.status:
        raise RuntimeError(sent.err)


async def _watch(source: BenchNode, seconds: float, say: Callable[[str], None]) -> list[SeedLag]:
    """Note how far the copy is, until `seconds` after its first whole round."""
    lags: list[SeedLag] = []
    began, end = time.time(), None
    while end is None or time.time() < end:
        await deferLater(reactor, max(seconds / _LOOKS, _LEAST))
        now = time.time()
        listed: Any = (await source.wingsctl("transfers", "--json")).json
        found = listed["running"][0]["follow"]
        whole = found["whole_at"]
        if whole is not None and end is None:
            end = now + seconds
        age = None if whole is None else now - whole
        figures = (found["changed_bytes"], found["missing_bytes"], found["predicted_downtime"])
        lags.append(SeedLag(now - began, found["rounds"], age, *figures))
        say(_line(lags[-1]) + (f", {found['trouble']}" if found["trouble"] else ""))
    return lags


def _line(lag: SeedLag) -> str:
    age = "no whole copy" if lag.age is None else f"{lag.age:.0f} s old"
    predicted = "" if lag.downtime is None else f", {lag.downtime:.1f} s of downtime"
    return (
        f"after {lag.at / 60:.1f} min: {lag.rounds} rounds, {age}, "
        f"{lag.changed / MIB:.0f} MiB had changed, {lag.missing / MIB:.0f} missing{predicted}"
    )


def seed_report(result: SeedResult, machine: str, version: str) -> str:
    """Return the document."""
    size, files = result.size
    minutes = ", ".join(f"{each:g}" for each in result.minutes)
    moves = result.moves
    lags = [lag for move in moves for lag in move.lags if lag.age is not None]
    rows = [
        Row("down, seconds", [move.downtime for move in moves], SEED_DOWNTIME),
        Row("rounds while it still runs", [move.rounds for move in moves], SEED_ROUNDS),
        Row("from the order to the success, seconds", [move.seconds for move in moves]),
        Row("sent since the order, MiB", [move.sent / MIB for move in moves]),
        Row("the copy's age while it follows, seconds", [lag.age or 0.0 for lag in lags]),
        Row("changed from round to round, MiB", [lag.changed / MIB for lag in lags]),
        Row("predicted downtime, seconds", [lag.downtime for lag in lags if lag.downtime]),
    ]
    lines = [
        "# Seeds of running servers",
        "",
        "Written by `make bench SERIES=seed`, not to be edited.",
        "",
        f"A copy of a running server of {size / MIB:,.0f} MiB in {files:,} files follows it",
        "between two nodes of one machine over TLS, which share a Docker engine; the game writes",
        f"{_RATE} MB/s at random places of 16 files of 8 MiB. After {minutes} minutes the Panel",
        "orders its transfer. It is down from the end of its program at the source to the start",
        "of its container at the destination, by the engine's clock. Medians, with the lowest and",
        "the highest in brackets.",
        "",
        f"Machine: {machine}. Version: {version}.",
        "",
        *TABLE,
        *(row.text() for row in rows if row.values),
        "",
        "How far the copy was in the last of them:",
        "",
        *(f"- {_line(lag)}" for lag in moves[-1].lags),
        "",
    ]
    return "\n".join(lines)
