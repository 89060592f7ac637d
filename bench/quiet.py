"""Moves of running servers: how late the game's tick is meanwhile, beside when nothing moves.

The game is a loop in a container of a real engine that writes every 50 ms and notes how late it
was each time. Of its files nothing is in the page cache when the move begins.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from stat import S_ISREG
from statistics import quantiles

from attrs import frozen
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.datasets import MIB, Dataset
from bench.disk import fresh_disk
from bench.figures import Bound, Column, Measured, Table, grid
from bench.live import WITHIN, played_server
from bench.node import reactor
from bench.series import Bars, Run, Series
from wingsd.filesystem.syscalls import cached_pages

__all__ = ["QUIET"]

#: Milliseconds that a game's tick is later than without a move, at the 99th percentile.
_LATER = Bound(10)
_LATE = ("ms later", "ms late in a move", "ms late without one")

#: Seconds for which the game is watched without a move.
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
class _QuietMove:
    """One move. How late the tick is at the 99th percentile, in ms: while rounds run, and before.

    `seconds` of the rounds, and `cached` MiB of the server in the page cache after them.
    """

    moving: float
    resting: float
    seconds: float
    cached: float


async def _measure_quiet(one: Dataset, disk: Path, *, lowered: bool) -> _QuietMove:
    """Move a server that runs between two new nodes on `disk`.

    With `lowered` both daemons have a low share of the CPU.
    """
    with _cpu_group(lowered=lowered) as group:
        async with played_server(disk, _GAME, partial(_copy, one)) as server:
            source = server.source
            for node in (source, server.destination):
                if group is not None:
                    (group / "cgroup.procs").write_text(str(node.pid))
            resting = time.time()
            await deferLater(reactor, _WITHOUT)
            moving = time.time()
            await server.order()
            # "REASON: about SECONDS of downtime", which is logged before it is stopped.
            await source.wait_for_line(": about ", within=WITHIN)
            end = time.time()
            ticks = (server.files / "ticks").read_text()
            cached = await deferToThread(_cached, server.files)
            await source.wait_for_line(f"{server.uuid}: state success", within=WITHIN)
            return _QuietMove(
                _lateness(ticks, moving, end),
                _lateness(ticks, resting, moving),
                end - moving,
                cached,
            )


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


async def _measure(run: Run) -> Measured:
    one = await run.dataset("server")
    plain, lowered = list[_QuietMove](), list[_QuietMove]()
    for _ in range(run.rounds):
        for moves in (plain, lowered):
            is_lowered = moves is lowered
            with fresh_disk(run.directory) as disk:
                moves.append(await _measure_quiet(one, disk, lowered=is_lowered))
            late = moves[-1].moving - moves[-1].resting
            run.say(f"quiet{', with less of the CPU' if is_lowered else ''}: {late:.1f} ms later")
    table = _table({"as it is": plain, "with a tenth of the CPU": lowered})
    return Measured(rounds=str(run.rounds), tables=[table])


def _table(rows: Mapping[str, Sequence[_QuietMove]]) -> Table:
    return grid(
        rows,
        Column(_LATE[0], lambda one: one.moving - one.resting, _LATER),
        Column(_LATE[1], lambda one: one.moving),
        Column(_LATE[2], lambda one: one.resting),
        Column("seconds of the rounds", lambda one: one.seconds),
        Column("MiB in the page cache after them", lambda one: one.cached),
    )


QUIET = Series(
    "quiet",
    "How late a game is while it moves",
    f"""
    While a server moves, its game's loop is some 2 ms later. The server has 2,048 MiB in 50,028
    files, none of which is in the page cache, and its loop writes a block every 50 ms. It is
    watched for {_WITHOUT} s without a move, and then until the server is stopped; how late it was
    at the 99th percentile is compared. In the second row both daemons have a tenth of the game's
    share of the CPU, as with `CPUWeight=10` in their unit.
    """,
    _measure,
    (Bars("ms at the 99th percentile", columns=_LATE),),
)
