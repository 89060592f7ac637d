"""Moves of running servers: how late the game's tick is meanwhile, beside when nothing moves.

The game is a loop in a container of a real engine that writes every 50 ms and notes how late it
was each time. Of its files nothing is in the page cache when the move begins.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from statistics import quantiles
from tempfile import TemporaryDirectory

import attrs
from attrs import frozen
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.node import BenchNode, Site, reactor
from bench.rows import TABLE, Row
from bench.targets import QUIET
from tests.support import process_configuration, server_settings
from tests.support.docker_engine import Engine, cleaned_engine, connected, imported_busybox
from wingsd.filesystem.syscalls import cached_pages

__all__ = ["QuietMove", "QuietResult", "measure_quiet", "quiet_report"]

#: Seconds until a run times out, and for which the game is watched without a move.
_WITHIN = 3600
_WITHOUT = 20
#: The game: all within the shell, so that a tick needs no new process. A tick appends when it was
#: due and how late it was, in microseconds, and writes a block of a file.
_GAME = """
trap 'exit 0' TERM
cd /home/container
mkfifo /tmp/never
exec 3<>/tmp/never
block=$(head -c 4095 /dev/zero | tr '\\0' x)
due=$EPOCHREALTIME
due=${due%.*}${due#*.}
echo listening on
while :; do
  due=$((due + 50000))
  now=$EPOCHREALTIME
  left=$((due - ${now%.*}${now#*.}))
  if [ $left -gt 0 ]; then
    left=$((1000000 + left))
    read -t 0.${left#1} nothing <&3
  fi
  now=$EPOCHREALTIME
  echo "$due $((${now%.*}${now#*.} - due))" >>ticks
  echo "$block" 1<>written
done
"""
#: What the kernel gives the daemons of the CPU when the game wants it, too: a tenth of its share.
_CPU_GROUPS = (
    (Path("/sys/fs/cgroup/cpu/wingsd-bench"), "cpu.shares", "102"),
    (Path("/sys/fs/cgroup/wingsd-bench"), "cpu.weight", "10"),
)
_PERCENT = 99


@frozen
class QuietMove:
    """One move. How late the tick is at the 99th percentile, in ms: while rounds run, and before.

    `seconds` of the rounds, and `cached` MiB of the server in the page cache after them.
    """

    moving: float
    resting: float
    seconds: float
    cached: float


@frozen
class QuietResult:
    """All moves, also those with a low share of the CPU for the daemons; bytes and files."""

    plain: list[QuietMove] = attrs.field(factory=list)
    lowered: list[QuietMove] = attrs.field(factory=list)
    size: list[int] = attrs.field(factory=list)


async def measure_quiet(one: Dataset, disk: Path, *, lowered: bool) -> QuietMove:
    """Move a server that runs between two new nodes on `disk`.

    With `lowered` both daemons have a low share of the CPU.
    """
    with (
        TemporaryDirectory() as directory,
        connected() as client,
        imported_busybox(client) as image,
        cleaned_engine(client, image, disk) as engine,
        _cpu_group(lowered=lowered) as group,
    ):
        site = Site(Path(directory))
        await site.open()
        try:
            return await _measure(one, disk, site, engine, group)
        finally:
            await site.close()


async def _measure(
    one: Dataset, disk: Path, site: Site, engine: Engine, group: Path | None
) -> QuietMove:
    source = BenchNode(site, disk / "source")
    destination = BenchNode(site, disk / "destination", proxied=True)
    uuid = site.server_uuid(time.time_ns() % 10**9)
    settings = server_settings(uuid, image=engine.image, invocation=_GAME)
    site.panel.add_server(settings, source.node, process_configuration())
    files = source.volumes / uuid
    await deferToThread(_copy, one, files)
    docker = engine.for_node(uuid)
    try:
        for node in (source, destination):
            await node.start_loaded(**docker)
            if group is not None:
                (group / "cgroup.procs").write_text(str(node.pid))
        await site.panel.power(uuid, "start")
        await source.wait_for_line(f"{uuid}: running", within=_WITHIN)
        resting = time.time()
        await deferLater(reactor, _WITHOUT)
        moving = time.time()
        await site.panel.transfer(uuid, destination.node)
        await source.wait_for_line("of downtime after its end", within=_WITHIN)
        end = time.time()
        ticks = (files / "ticks").read_text()
        cached = await deferToThread(_cached, files)
        await source.wait_for_line(f"{uuid}: state success", within=_WITHIN)
        return QuietMove(
            _lateness(ticks, moving, end), _lateness(ticks, resting, moving), end - moving, cached
        )
    finally:
        await source.close()
        await destination.close()


def _copy(one: Dataset, place: Path) -> None:
    """Copy the dataset to the disk, and leave none of it in the page cache."""
    assert one.tree is not None
    shutil.copytree(one.tree, place, symlinks=True)
    (place / "written").touch()
    for path in (place, *place.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)
    os.sync()
    for fd in _opened(place):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _cached(place: Path) -> float:
    pages = sum(cached_pages(fd, 0, os.fstat(fd).st_size) or 0 for fd in _opened(place))
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def _opened(place: Path) -> Iterator[int]:
    """Open all files below a directory, which may be renamed meanwhile."""
    for _, _, names, directory in os.fwalk(place):
        for name in names:
            if S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                fd = os.open(name, os.O_RDONLY, dir_fd=directory)
                try:
                    yield fd
                finally:
                    os.close(fd)


def _lateness(ticks: str, begin: float, end: float) -> float:
    """Return the 99th percentile of ticks that were due between two times, in milliseconds."""
    late = [
        int(lateness) / 1000
        for due, lateness in (line.split() for line in ticks.splitlines())
        if begin <= int(due) / 1e6 < end
    ]
    return quantiles(late, n=100)[_PERCENT - 1]


@contextmanager
def _cpu_group(*, lowered: bool) -> Iterator[Path | None]:
    """Make a control group with a low share of the CPU, where that is asked for."""
    if not lowered:
        yield None
        return
    group, name, value = next(each for each in _CPU_GROUPS if each[0].parent.is_dir())
    group.mkdir(exist_ok=True)
    try:
        (group / name).write_text(value)
        yield group
    finally:
        group.rmdir()


def quiet_report(result: QuietResult, machine: str, version: str) -> str:
    """Return the document."""
    size, files = result.size
    lines = [
        "# What a game notices of its move",
        "",
        "Written by `make bench SERIES=quiet`, not to be edited.",
        "",
        f"A running server of {size / MIB:,.0f} MiB in {files:,} files is moved between two nodes",
        "of one machine over TLS, which share a Docker engine. Its game is a loop that writes",
        "every 50 ms. Each run first watches it for 20 s while nothing moves, and then until the",
        "server is stopped; none of its files is in the page cache before. How late the loop was",
        "at the 99th percentile is compared. Medians, with lowest and highest in brackets.",
        "",
        "The daemon's threads yield to each other by their nice values, but not to containers,",
        "which have a share of the CPU of their own. So the second table is apart: there both",
        "daemons have a tenth of the game's share, as with `CPUWeight=10` in their unit.",
        "",
        f"Machine: {machine}. Version: {version}.",
        "",
    ]
    for title, moves in (
        ("As it is", result.plain),
        ("With a tenth of the CPU's share", result.lowered),
    ):
        lines += [f"## {title}", "", *TABLE, *(row.text() for row in _rows(moves)), ""]
    return "\n".join(lines)


def _rows(moves: Sequence[QuietMove]) -> list[Row]:
    return [
        Row("later than without a move, ms", [one.moving - one.resting for one in moves], QUIET),
        Row("late while it moves, ms", [one.moving for one in moves]),
        Row("late without a move, ms", [one.resting for one in moves]),
        Row("the rounds, seconds", [one.seconds for one in moves]),
        Row("of it in the page cache after them, MiB", [one.cached for one in moves]),
    ]
