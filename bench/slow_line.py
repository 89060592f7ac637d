"""Moves over a slow line: batches beside the single stream, and bytes on the line."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.meter import Cost
from bench.rows import TABLE, Row
from bench.runs import move_over_namespace
from bench.targets import MOVE_LINE, MOVE_LINE_BYTES, Target

__all__ = ["SLOW_LINE", "SlowMove", "SlowMoves", "measure_slow_line", "slow_line_report"]

#: Bytes a second.
SLOW_LINE = 20e6
#: Bytes of the world, of each of its files, and of what each of its sections has of its own.
_SIZE, _FILE, _OWN = 512 * MIB, 16 * MIB, 1_700
#: Sections that occur again and again, of about this many bytes.
_SECTIONS, _SECTION = 100, 2_200
_NAMES = ("stone", "deepslate", "grass_block", "oak_leaves", "gravel", "iron_ore", "water", "air")


@frozen
class SlowMove:
    """What a move cost at its source, and bytes on the line, with all headers."""

    cost: Cost
    sent: int


@frozen
class SlowMoves:
    """The moves of all rounds, in turns; and bytes of the world."""

    batches: list[SlowMove] = attrs.field(factory=list)
    streams: list[SlowMove] = attrs.field(factory=list)
    size: int = _SIZE


async def measure_slow_line(
    directory: Path, rounds: int, result: SlowMoves, say: Callable[[str], None]
) -> None:
    """Move the world over the line, by batches and as one stream in turns."""
    for number in range(rounds):
        with fresh_disk(directory) as disk:
            world = await deferToThread(_world, disk)
            ways = [(result.batches, True), (result.streams, False)]
            for moves, enabled in reversed(ways) if number % 2 else ways:
                cost, sent = await move_over_namespace(
                    world, disk, SLOW_LINE, moves={"enabled": enabled}
                )
                moves.append(SlowMove(cost, sent))
                kind = "batches" if enabled else "one stream"
                say(f"{kind}: {cost.seconds:.1f} s, {sent / _SIZE:.2f} of the world's bytes")


def _world(disk: Path) -> Dataset:
    """Make files like a world's: sections of a few hundred kinds, and as much that is its own."""
    rng = random.Random("slow-line")
    sections = [_section(rng) for _ in range(_SECTIONS)]
    tree = disk / "world"
    tree.mkdir()
    for number in range(_SIZE // _FILE):
        data = bytearray()
        while len(data) < _FILE:
            data += rng.choice(sections) + rng.randbytes(_OWN)
        (tree / f"c.{number}.nbt").write_bytes(data[:_FILE])
    return Dataset("world", disk / "world.tar.gz", "", _SIZE, _SIZE // _FILE, tree)


def _section(rng: random.Random) -> bytes:
    """Tags with names and numbers, as NBT has them, and indexes of a palette."""
    palette = "".join(f"\x08\x00\x04Nameminecraft:{rng.choice(_NAMES)}" for _ in range(16))
    numbers = "".join(f"\x03\x00\x01{rng.choice('xyz')}{rng.randrange(10**5)}" for _ in range(40))
    text = (palette + numbers).encode()
    return text + bytes(rng.choices(range(16), k=_SECTION - len(text)))


def slow_line_report(result: SlowMoves, machine: str, version: str) -> str:
    """Return the document."""
    rows: list[tuple[str, Target | None, Sequence[float]]] = [
        (
            "time, against the single stream",
            MOVE_LINE,
            [
                one.cost.seconds / other.cost.seconds
                for one, other in zip(result.batches, result.streams, strict=True)
            ],
        ),
        (
            "bytes on the line, against the world's",
            MOVE_LINE_BYTES,
            [one.sent / result.size for one in result.batches],
        ),
        ("the same, as one stream", None, [one.sent / result.size for one in result.streams]),
        ("by batches, seconds", None, [one.cost.seconds for one in result.batches]),
        ("as one stream, seconds", None, [one.cost.seconds for one in result.streams]),
        ("CPU seconds of the source", None, [one.cost.cpu for one in result.batches]),
        ("the same, as one stream", None, [one.cost.cpu for one in result.streams]),
    ]
    return "\n".join(
        [
            "# Moves over a slow line",
            "",
            "Written by `make bench SERIES=slow_line`, not to be edited.",
            "",
            "A stopped server is moved between two nodes of one machine over TLS and a line of",
            f"{SLOW_LINE / 1e6:.0f} MB/s, which is shaped in a network namespace: as",
            "[batches](protocol.md#moves-that-resume)",
            "and as one stream in turns, with the default settings of both.",
            f"It has {result.size / MIB:,.0f} MiB in files of {_FILE / MIB:.0f} MiB: sections of",
            f"{_SECTIONS} kinds that occur again and again, as in worlds, and about as much that",
            "does not compress. Medians, with the lowest and the highest in brackets.",
            "",
            f"Machine: {machine}. Version: {version}.",
            "",
            *TABLE,
            *(Row(name, values, target).text() for name, target, values in rows),
            "",
        ]
    )
