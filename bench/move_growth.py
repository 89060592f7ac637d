"""Moves of servers of growing sizes: time and memory of both nodes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.meter import Cost
from bench.rows import TABLE, Row
from bench.runs import move
from bench.targets import MEMORY, MOVE_GROWTH

__all__ = ["GROWN_BYTES", "GROWN_FILES", "GrownMove", "MoveGrowth", "grow", "growth_report"]

#: Bytes of servers with few files, and numbers of files of 512 bytes.
GROWN_BYTES = tuple(size << 30 for size in (1, 2, 4, 10))
GROWN_FILES = (5_000, 50_000, 500_000)
_LARGE = 64 * MIB
_SMALL = 512
_DIRECTORIES = 500


@frozen
class GrownMove:
    """The move of a server with `size` bytes in `files` files."""

    size: int
    files: int
    source: Cost
    destination: Cost


@frozen
class MoveGrowth:
    """Moves by bytes, and by files."""

    by_bytes: list[GrownMove] = attrs.field(factory=list)
    by_files: list[GrownMove] = attrs.field(factory=list)


async def grow(directory: Path, result: MoveGrowth, say: Callable[[str], None]) -> None:
    """Move each size once; both copies are on a new disk below `directory`."""
    sizes: list[tuple[list[GrownMove], Callable[[Path], Dataset]]] = [
        *((result.by_bytes, partial(_of_bytes, size)) for size in GROWN_BYTES),
        *((result.by_files, partial(_of_files, count)) for count in GROWN_FILES),
    ]
    for moves, make in sizes:
        with fresh_disk(directory) as disk:
            one = await deferToThread(make, disk)
            source, destination = await move(one, disk)
        moves.append(GrownMove(one.size, one.files, source, destination))
        say(
            f"{one.size / MIB:,.0f} MiB in {one.files:,} files: {source.seconds:.0f} s, "
            f"{source.peak:.0f} and {destination.peak:.0f} MiB"
        )


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


def growth_report(result: MoveGrowth, machine: str, version: str) -> str:
    """Return the document."""
    lines = [
        "# Growth of moves that resume",
        "",
        "Written by `make bench SERIES=move_growth`, not to be edited.",
        "",
        "Stopped servers of growing sizes are moved between two new nodes of one machine over",
        "TLS, each once, from the Panel's call until the source knows of the success: files of",
        "64 MiB, half of which compresses, and files of 512 bytes. The time grows linearly if",
        "each MiB, or each file, of the largest server takes at most as long as required, against",
        "one of the second smallest.",
        "",
        f"Machine: {machine}. Version: {version}.",
        "",
    ]
    for title, moves, measure in (
        ("## By bytes", result.by_bytes, lambda one: one.size / MIB),
        ("## By files", result.by_files, lambda one: one.files),
    ):
        if moves:
            lines += [title, "", *_section(moves, measure), ""]
    return "\n".join(lines)


def _section(moves: Sequence[GrownMove], measure: Callable[[GrownMove], float]) -> Iterable[str]:
    yield "| MiB | files | seconds | source: CPU seconds | MiB | destination: CPU seconds | MiB |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for one in moves:
        yield (
            f"| {one.size / MIB:,.0f} | {one.files:,} | {one.source.seconds:.1f} "
            f"| {one.source.cpu:.1f} | {one.source.peak:.0f} "
            f"| {one.destination.cpu:.1f} | {one.destination.peak:.0f} |"
        )
    each = [one.source.seconds / measure(one) for one in moves]
    peaks = [max(one.source.peak, one.destination.peak) for one in moves]
    yield ""
    yield from TABLE
    name = "time for each, of the largest against the second smallest"
    yield Row(name, [each[-1] / each[1]], MOVE_GROWTH).text()
    yield Row("MiB at the peak of either node, the highest", [max(peaks)], MEMORY).text()
