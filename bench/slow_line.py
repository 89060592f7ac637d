"""Moves over a slow line: batches beside the single stream, and bytes on the line."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Measured, Table, grid
from bench.meter import Cost
from bench.runs import move_over_namespace
from bench.series import Bars, Run, Series

__all__ = ["SLOW_LINE"]

#: Time against the single stream, and bytes on the line against the world's.
_TIME = Bound(0.9)
_SENT = Bound(0.6)
#: Bytes a second.
_RATE = 20e6
#: Bytes of the world, of each of its files, and of what each of its sections has of its own.
_SIZE, _FILE, _OWN = 512 * MIB, 16 * MIB, 1_700
#: Sections that occur again and again, of about this many bytes.
_SECTIONS, _SECTION = 100, 2_200
_NAMES = ("stone", "deepslate", "grass_block", "oak_leaves", "gravel", "iron_ore", "water", "air")


@frozen
class _Move:
    """The cost of a move at its source, and bytes on the line, with all headers."""

    cost: Cost
    sent: int


async def _measure(run: Run) -> Measured:
    """Move the world over the line, by batches and as one stream in turns."""
    batches, streams = list[_Move](), list[_Move]()
    for number in range(run.rounds):
        with fresh_disk(run.directory) as disk:
            world = await deferToThread(_world, disk)
            ways = [(batches, True), (streams, False)]
            for moves, enabled in reversed(ways) if number % 2 else ways:
                cost, sent = await move_over_namespace(
                    world, disk, _RATE, moves={"enabled": enabled}
                )
                moves.append(_Move(cost, sent))
                kind = "batches" if enabled else "one stream"
                run.say(f"{kind}: {cost.seconds:.1f} s, {sent / _SIZE:.2f} of the world's bytes")
    return Measured(rounds=str(run.rounds), tables=[_table(batches, streams)])


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


def _table(batches: Sequence[_Move], streams: Sequence[_Move]) -> Table:
    rows: dict[str, list[tuple[_Move, _Move | None]]] = {
        "by batches": list(zip(batches, streams, strict=True)),
        "as one stream": [(one, None) for one in streams],
    }
    return grid(
        rows,
        Column(
            "time against one stream",
            lambda one: one[1] and one[0].cost.seconds / one[1].cost.seconds,
            _TIME,
        ),
        Column(
            "bytes on the line against the world's",
            lambda one: one[0].sent / _SIZE,
            {"by batches": _SENT},
        ),
        Column("seconds", lambda one: one[0].cost.seconds),
        Column("CPU source", lambda one: one[0].cost.cpu),
    )


SLOW_LINE = Series(
    "slow_line",
    "Moves over a slow line",
    f"""
    Over a slow line a move sends half of a world's bytes, and takes two thirds of the time of one
    stream. A stopped server moves over a line of {_RATE / 1e6:.0f} MB/s, which is shaped in a
    network namespace, as [batches](protocol.md#moves-that-resume) and as one stream in turns, with
    the default settings of both. It has {_SIZE / MIB:,.0f} MiB in files of {_FILE / MIB:.0f} MiB:
    sections of {_SECTIONS} kinds that occur again and again, as in worlds, and about as much that
    does not compress.
    """,
    _measure,
    (Bars(), Bars("seconds", columns=("seconds", "CPU source"))),
)
