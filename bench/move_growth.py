"""Moves of servers of growing sizes: time and memory of both nodes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Figure, Measured, Row, Table, grid
from bench.meter import Cost
from bench.runs import move
from bench.series import MEMORY, Bars, Lines, Run, Series

__all__ = ["MOVE_GROWTH"]

#: How much longer a MiB or a file of a large server may take than of a small one.
_GROWTH = Bound(1.3)
#: Bytes of servers with few files, and numbers of files of 512 bytes.
_BYTES = tuple(size << 30 for size in (1, 2, 4, 10))
_FILES = (5_000, 50_000, 500_000)
_LARGE = 64 * MIB
_SMALL = 512
_DIRECTORIES = 500
_PROPORTION = "seconds (dotted: in proportion)"


@frozen
class _Grown:
    """The move of a server with `size` bytes in `files` files."""

    size: int
    files: int
    source: Cost
    destination: Cost


async def _measure(run: Run) -> Measured:
    """Move each size once; both copies are on a new disk."""
    by_bytes, by_files = list[_Grown](), list[_Grown]()
    sizes: list[tuple[list[_Grown], Callable[[Path], Dataset]]] = [
        *((by_bytes, partial(_of_bytes, size)) for size in _BYTES),
        *((by_files, partial(_of_files, count)) for count in _FILES),
    ]
    for moves, make in sizes:
        with fresh_disk(run.directory) as disk:
            one = await deferToThread(make, disk)
            source, destination = await move(one, disk)
        moves.append(_Grown(one.size, one.files, source, destination))
        run.say(
            f"{one.size / MIB:,.0f} MiB in {one.files:,} files: {source.seconds:.0f} s, "
            f"{source.peak:.0f} and {destination.peak:.0f} MiB"
        )
    return Measured(rounds="1", tables=_tables(by_bytes, by_files))


def _of_bytes(size: int, disk: Path) -> Dataset:
    """Make files of 64 MiB, half of which compresses."""
    rng = random.Random("move-growth")
    tree = disk / "tree"
    tree.mkdir()
    count = size // _LARGE
    for number in range(count):
        with (tree / f"r.{number}.mca").open("wb") as file:
            for _ in range(_LARGE // MIB):
                file.write(rng.randbytes(MIB // 2) + b"%09d minecraft:stone\n" % number * 18_078)
    return _dataset(tree, size, count)


def _of_files(count: int, disk: Path) -> Dataset:
    """Make files of 512 bytes."""
    rng = random.Random("move-growth")
    tree = disk / "tree"
    for number in range(_DIRECTORIES):
        (tree / f"d{number:03}").mkdir(parents=True)
    for number in range(count):
        place = tree / f"d{number % _DIRECTORIES:03}" / f"f{number:06}.dat"
        place.write_bytes(rng.randbytes(_SMALL))
    return _dataset(tree, count * _SMALL, count)


def _dataset(tree: Path, size: int, files: int) -> Dataset:
    """Return a tree as a dataset; there is no archive of it."""
    return Dataset(tree.name, tree.with_suffix(".tar.gz"), "", size, files, tree)


def _tables(by_bytes: Sequence[_Grown], by_files: Sequence[_Grown]) -> list[Table]:
    columns = (
        Column("seconds", lambda one: one.source.seconds),
        Column("CPU source", lambda one: one.source.cpu),
        Column("CPU destination", lambda one: one.destination.cpu),
        Column("MiB source", lambda one: one.source.peak, MEMORY),
        Column("MiB destination", lambda one: one.destination.peak, MEMORY),
    )
    sizes = {f"{one.size / MIB:,.0f} MiB in {one.files:,} files": [one] for one in by_bytes}
    counts = {f"{one.files:,} files, {one.size / MIB:,.0f} MiB": [one] for one in by_files}
    last = "the largest, time of each {} against the second smallest"
    bytes_each = [one.source.seconds / one.size for one in by_bytes]
    files_each = [one.source.seconds / one.files for one in by_files]
    rows = [
        Row(last.format(unit), [Figure.of([each[-1] / each[1]], _GROWTH)])
        for unit, each in (("MiB", bytes_each), ("file", files_each))
    ]
    return [grid(sizes, *columns), grid(counts, *columns), Table(rows)]


MOVE_GROWTH = Series(
    "move_growth",
    "Growth of moves",
    """
    The time of a move grows in proportion to the server's size, and the memory of both nodes stays
    below its bound. Stopped servers move between two new nodes, each once, from the Panel's call
    until the source knows of the success: files of 64 MiB, half of which compresses, and files of
    512 bytes.
    """,
    _measure,
    (
        Lines("MiB", _PROPORTION, ("seconds",), scale="log"),
        Lines("files of 512 bytes", _PROPORTION, ("seconds",), 1, scale="log"),
        Bars(table=2),
    ),
)
