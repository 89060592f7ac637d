"""Moves that resume beside the single stream: time, CPU, memory, and what a kill costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Measured, Table, grid, listed
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
    return Measured(rounds=str(run.rounds), tables=_tables(rounds))


def _tables(rounds: Sequence[_Round]) -> list[Table]:
    bounded = listed(
        rounds,
        Column(
            "time, against one stream",
            lambda one: one.source.seconds / one.stream_source.seconds,
            _TIME,
        ),
        Column(
            "CPU of both nodes, against one stream",
            lambda one: (
                (one.source.cpu + one.destination.cpu)
                / (one.stream_source.cpu + one.stream_destination.cpu)
            ),
            _CPU,
        ),
        Column("MiB sent twice", lambda one: (one.killed - one.whole) / MIB, _AGAIN),
        Column("the source's MiB at the peak", lambda one: one.source.peak, MEMORY),
        Column("the destination's MiB at the peak", lambda one: one.destination.peak, MEMORY),
    )
    ways: dict[str, list[tuple[Cost, Cost, int | None]]] = {
        "by batches": [(one.source, one.destination, one.whole) for one in rounds],
        "as one stream": [(one.stream_source, one.stream_destination, None) for one in rounds],
    }
    costs = grid(
        ways,
        Column("seconds", lambda one: one[0].seconds),
        Column("CPU source", lambda one: one[0].cpu),
        Column("CPU destination", lambda one: one[1].cpu),
        Column("MiB on the line", lambda one: one[2] and one[2] / MIB),
    )
    return [Table(bounded), costs]


RESUME = Series(
    "resume",
    "Moves that resume",
    """
    After a crash of the destination a move sends only a few MiB again; for that it takes somewhat
    longer than one stream. A stopped server of 2,048 MiB in 50,028 files, which are in the page
    cache, moves as [batches](protocol.md#moves-that-resume) and as one stream in turns, from the
    Panel's call until the source knows of the success. Both are durable then, and what came in
    batches has been read back. Then it moves over a line that counts bytes, and once more with a
    `kill -9` of the destination when half has been sent, and a start a second later.
    """,
    _measure,
    (Bars(), Bars("seconds", table=1, columns=("seconds", "CPU source", "CPU destination"))),
)
