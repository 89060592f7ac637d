"""A copy that follows a running server, for as long as is said, and the Panel's order after that.

The game writes all the time at a steady rate. How old the copy is and what is missing is noted
meanwhile; at the end, for how long the game is down, by the engine's clock, and how many rounds
the move has taken.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Figure, Measured, Points, Row, Table, listed
from bench.live import copy_for_game, downtime, game, played_server
from bench.node import BenchNode, reactor
from bench.series import Bars, Lines, Run, Series

__all__ = ["SEED", "SEED_MINUTES"]

#: Seconds that a server is down whose copy has followed it, and its rounds since the order.
_DOWN = Bound(5)
_ROUNDS = Bound(1)

#: Minutes for which the copy follows the server, and MB/s that its game writes.
SEED_MINUTES = 60.0
_RATE = 5
#: How often it is looked how far the copy is: a twentieth of the time, but not more often.
_LOOKS, _LEAST = 60, 10.0
#: What is seen then.
_LOOKED = [
    *("minutes", "rounds", "the copy's age", "MiB changed", "MiB missing"),
    "predicted seconds down",
]


@frozen
class _SeedLag:
    """How far the copy was, `at` seconds after the order; None for what was not known yet."""

    at: float
    rounds: int
    age: float | None
    changed: int
    missing: int
    downtime: float | None


@frozen
class _SeedMove:
    """One seed and its move: seconds of the downtime, of the Panel's order, and its rounds.

    `sent` are the bytes on the line from the order on.
    """

    downtime: float
    seconds: float
    rounds: int
    sent: int
    lags: list[_SeedLag]


async def _measure_seed(
    one: Dataset, disk: Path, minutes: float, say: Callable[[str], None]
) -> _SeedMove:
    """Keep a copy of a server up to date between two new nodes on `disk`, then move it."""
    async with played_server(disk, game(_RATE), partial(copy_for_game, one)) as server:
        source, line = server.source, server.destination.line
        await _begin(server.uuid, source, server.destination)
        lags = await _watch(source, minutes * 60, say)
        before, began = line.sent, time.time()
        since = len(source.log)
        await server.order()
        await server.moved()
        rounds = sum(f"{server.uuid}: round " in logged for logged in source.log[since:])
        return _SeedMove(
            await deferToThread(downtime, server, began),
            time.time() - began,
            rounds,
            line.sent - before,
            lags,
        )


async def _begin(uuid: str, source: BenchNode, destination: BenchNode) -> None:
    address = ("--url", destination.node.address)
    invited = await destination.wingsctl("receive", uuid, "--follow", "--json", *address)
    sent = await source.wingsctl(*shlex.split(invited.json["send"])[1:])
    if sent.status:
        raise RuntimeError(sent.err)


async def _watch(source: BenchNode, seconds: float, say: Callable[[str], None]) -> list[_SeedLag]:
    """Note how far the copy is, until `seconds` after its first whole round."""
    lags: list[_SeedLag] = []
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
        lags.append(_SeedLag(now - began, found["rounds"], age, *figures))
        say(_line(lags[-1]) + (f", {found['trouble']}" if found["trouble"] else ""))
    return lags


def _line(lag: _SeedLag) -> str:
    age = "no whole copy" if lag.age is None else f"{lag.age:.0f} s old"
    predicted = "" if lag.downtime is None else f", {lag.downtime:.1f} s of downtime"
    return (
        f"after {lag.at / 60:.1f} min: {lag.rounds} rounds, {age}, "
        f"{lag.changed / MIB:.0f} MiB had changed, {lag.missing / MIB:.0f} missing{predicted}"
    )


async def _measure(run: Run) -> Measured:
    one = await run.dataset("server")
    moves = []
    for _ in range(run.rounds):
        with fresh_disk(run.directory) as disk:
            moves.append(await _measure_seed(one, disk, run.minutes, run.say))
        last = moves[-1]
        run.say(f"seed: down for {last.downtime:.2f} s, after {last.rounds} more rounds")
    looks = [
        [
            round(lag.at / 60, 1),
            lag.rounds,
            None if lag.age is None else round(lag.age),
            round(lag.changed / MIB),
            round(lag.missing / MIB),
            None if lag.downtime is None else round(lag.downtime, 1),
        ]
        for lag in moves[-1].lags
    ]
    return Measured(
        rounds=str(run.rounds),
        tables=[Table(_rows(moves, run.minutes))],
        points={"looks": Points(_LOOKED, looks)},
    )


def _rows(moves: Sequence[_SeedMove], minutes: float) -> list[Row]:
    lags = [lag for move in moves for lag in move.lags if lag.age is not None]
    return [
        *listed(
            moves,
            Column("seconds down", lambda move: move.downtime, _DOWN),
            Column(
                "rounds after the order, while it still runs", lambda move: move.rounds, _ROUNDS
            ),
            Column("seconds from the order to the success", lambda move: move.seconds),
            Column("MiB sent since the order", lambda move: move.sent / MIB),
        ),
        Row("minutes until the order", [Figure.of([minutes])]),
        *listed(
            lags,
            Column("the copy's age until then, seconds", lambda lag: lag.age),
            Column("MiB changed from round to round", lambda lag: lag.changed / MIB),
            Column("predicted seconds down", lambda lag: lag.downtime),
        ),
    ]


SEED = Series(
    "seed",
    "Seeds of running servers",
    f"""
    A server whose copy already follows it at another node is down for about a second when it moves
    there. The server has 2,048 MiB in 50,028 files. The game writes {_RATE} MB/s, and after an
    hour the Panel orders the transfer.
    """,
    _measure,
    (
        Lines("minutes", "seconds", ("the copy's age", "predicted seconds down"), points="looks"),
        Lines("minutes", "MiB", ("MiB changed", "MiB missing"), points="looks"),
        Bars(),
    ),
)
