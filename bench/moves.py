"""Moves that resume beside the single stream: time, CPU, memory, and what a kill costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Figure, Measured, Row, Table, row
from bench.meter import Cost
from bench.node import BenchNode, reactor
from bench.runs import move, move_over_line
from bench.series import MEMORY, Bars, Run, Series, ratio
from tests.support.line import Line

__all__ = ["RESUME"]

#: Time and CPU of a move by batches, against the single stream, and MiB that are sent twice.
_TIME = Bound(1.15)
_CPU = Bound(1.3)
_AGAIN = Bound(128)
_COLUMNS = ["seconds", "CPU source", "CPU destination", "MiB on the line"]

#: Seconds until a destination that was killed is started again.
_DOWN = 1.0
#: The nodes' settings: as one stream, and with the defaults.
_STREAM = {"moves": {"enabled": False}}


@frozen
class _Round:
    """One round: what each side cost as one stream, and by batches.

    `whole` and `killed` are bytes on the line, of a move without a break, and of one whose
    destination was killed when half of `whole` had been sent.
    """

    stream_source: Cost
    stream_destination: Cost
    source: Cost
    destination: Cost
    whole: int
    killed: int


async def _round(one: Dataset, disk: Path, *, reverse: bool) -> _Round:
    """Move a dataset between new nodes on `disk`, four times."""
    if reverse:
        source, destination = await move(one, disk)
        stream_source, stream_destination = await move(one, disk, **_STREAM)
    else:
        stream_source, stream_destination = await move(one, disk, **_STREAM)
        source, destination = await move(one, disk)
    whole = await move_over_line(one, disk, lambda node, line: None)

    def kill_at_half(node: BenchNode, line: Line) -> None:
        line.after(whole // 2, lambda: Deferred.fromCoroutine(_restart(node)))

    killed = await move_over_line(one, disk, kill_at_half)
    return _Round(stream_source, stream_destination, source, destination, whole, killed)


async def _restart(node: BenchNode) -> None:
    await node.kill()
    await deferLater(reactor, _DOWN)
    await node.run(**node.transfers)


async def _measure(run: Run) -> Measured:
    one = await run.dataset("server")
    rounds = []
    for number in range(run.rounds):
        with fresh_disk(run.directory) as disk:
            rounds.append(await _round(one, disk, reverse=bool(number % 2)))
        last = rounds[-1]
        run.say(f"by batches: {ratio(last.source, last.stream_source.seconds)}")
        run.say(f"sent twice: {(last.killed - last.whole) / MIB:.1f} MiB")
    tables = [Table(_bounded(rounds)), Table(_costs(rounds), _COLUMNS)]
    return Measured(rounds=str(run.rounds), tables=tables)


def _bounded(rounds: Sequence[_Round]) -> list[Row]:
    return [
        row(
            "time, against one stream",
            [one.source.seconds / one.stream_source.seconds for one in rounds],
            _TIME,
        ),
        row(
            "CPU of both nodes, against one stream",
            [
                (one.source.cpu + one.destination.cpu)
                / (one.stream_source.cpu + one.stream_destination.cpu)
                for one in rounds
            ],
            _CPU,
        ),
        row("MiB sent twice", [(one.killed - one.whole) / MIB for one in rounds], _AGAIN),
        row("the source's MiB at the peak", [one.source.peak for one in rounds], MEMORY),
        row("the destination's MiB at the peak", [one.destination.peak for one in rounds], MEMORY),
    ]


def _costs(rounds: Sequence[_Round]) -> list[Row]:
    return [
        Row(
            "by batches",
            [
                Figure.of([one.source.seconds for one in rounds]),
                Figure.of([one.source.cpu for one in rounds]),
                Figure.of([one.destination.cpu for one in rounds]),
                Figure.of([one.whole / MIB for one in rounds]),
            ],
        ),
        Row(
            "as one stream",
            [
                Figure.of([one.stream_source.seconds for one in rounds]),
                Figure.of([one.stream_source.cpu for one in rounds]),
                Figure.of([one.stream_destination.cpu for one in rounds]),
                None,
            ],
        ),
    ]


RESUME = Series(
    "resume",
    "Moves that resume",
    """
    After a crash of the destination a move sends only a few MiB again; for that it takes somewhat
    longer than one stream. A stopped server of 2,048 MiB in 50,028 files, which are in the page
    cache, moves between two nodes of one machine over TLS, as
    [batches](protocol.md#moves-that-resume) and as one
    stream in turns, from the Panel's call until the source knows of the success. Both are durable
    then, and what came in batches has been read back. Then it moves over a line that counts bytes,
    and once more with a `kill -9` of the destination when half has been sent, and a start a second
    later.
    """,
    _measure,
    (Bars(), Bars("seconds", table=1, columns=("seconds", "CPU source", "CPU destination"))),
)
