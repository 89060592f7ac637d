"""Moves that resume beside the single stream: time, CPU, memory, and what a kill costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from bench.datasets import MIB, Dataset
from bench.meter import Cost
from bench.node import BenchNode, reactor
from bench.rows import TABLE, Row
from bench.runs import move, move_over_line
from bench.targets import MEMORY, MOVE_AGAIN, MOVE_CPU, MOVE_TIME, Target
from tests.support.line import Line

__all__ = ["MoveRound", "MovesResult", "measure_moves", "moves_report"]

#: Seconds until a destination that was killed is started again.
_DOWN = 1.0
#: The nodes' settings: as one stream, and with the defaults.
_STREAM = {"moves": {"enabled": False}}


@frozen
class MoveRound:
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


@frozen
class MovesResult:
    """All rounds, and the server's bytes and files."""

    rounds: list[MoveRound] = attrs.field(factory=list)
    size: list[int] = attrs.field(factory=list)


async def measure_moves(one: Dataset, disk: Path, *, reverse: bool) -> MoveRound:
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
    return MoveRound(stream_source, stream_destination, source, destination, whole, killed)


async def _restart(node: BenchNode) -> None:
    await node.kill()
    await deferLater(reactor, _DOWN)
    await node.run(**node.transfers)


def moves_report(result: MovesResult, machine: str, version: str) -> str:
    """Return the document."""
    rounds = result.rounds
    size, files = result.size
    rows: list[tuple[str, Target | None, Sequence[float]]] = [
        (
            "time, against the single stream",
            MOVE_TIME,
            [one.source.seconds / one.stream_source.seconds for one in rounds],
        ),
        (
            "CPU of both nodes, against the single stream",
            MOVE_CPU,
            [
                (one.source.cpu + one.destination.cpu)
                / (one.stream_source.cpu + one.stream_destination.cpu)
                for one in rounds
            ],
        ),
        (
            "MiB sent twice after a kill of the destination at half of it",
            MOVE_AGAIN,
            [(one.killed - one.whole) / MIB for one in rounds],
        ),
        ("the source's MiB at the peak", MEMORY, [one.source.peak for one in rounds]),
        ("the destination's MiB at the peak", MEMORY, [one.destination.peak for one in rounds]),
        ("by batches, seconds", None, [one.source.seconds for one in rounds]),
        ("as one stream, seconds", None, [one.stream_source.seconds for one in rounds]),
        ("CPU seconds of the source", None, [one.source.cpu for one in rounds]),
        ("the same, as one stream", None, [one.stream_source.cpu for one in rounds]),
        ("CPU seconds of the destination", None, [one.destination.cpu for one in rounds]),
        ("the same, as one stream", None, [one.stream_destination.cpu for one in rounds]),
        ("MiB on the line", None, [one.whole / MIB for one in rounds]),
    ]
    return "\n".join(
        [
            "# Moves that resume",
            "",
            "Written by `make bench SERIES=resume`, not to be edited.",
            "",
            f"A stopped server of {size / MIB:,.0f} MiB in {files:,} files, which are in the page",
            "cache, is moved between two nodes of one machine over TLS, as",
            "[batches](protocol.md#moves-that-resume)",
            "and as one stream in turns, from the Panel's call until the",
            "source knows of the success. Both are durable then, and what came in batches has",
            "been read back. Then it is moved over a line that counts bytes, and once more with a",
            "`kill -9` of the destination when half has been sent, and a start a second later.",
            "Medians, with the lowest and the highest in brackets.",
            "",
            f"Machine: {machine}. Version: {version}.",
            "",
            *TABLE,
            *(Row(name, values, target).text() for name, target, values in rows),
            "",
        ]
    )
