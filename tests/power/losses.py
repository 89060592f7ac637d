"""The loop of power losses: a move runs on a disk with a log, and goes on from what is left."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import define

from tests.power.disks import copy_sparse, make_disk, mounted, recorded
from tests.power.log import Kind, notes, write_lost
from tests.power.moved import PAUSE, Promises, Round, Run, disturbed, make_rounds

__all__ = ["MEMORY", "lose_power"]

#: In memory, where disks are copied faster.
MEMORY = "/dev/shm"
#: In how many moments the power fails in one run of a move, and of how many runs it consists.
MOMENTS, RUNS = 12, 3
#: How many of the moments are right after a flush.
FLUSHED = 0.5
#: How much of what was not flushed is on the disk: nothing, all, or some of it.
SHARES = (0.0, 1.0, 0.5, 0.9)


@define
class Losses:
    """What happened in all losses: how often, pages that were lost, and batches sent twice."""

    count: int = 0
    pages: int = 0
    again: int = 0

    def __str__(self) -> str:
        return f"{self.count} losses of {self.pages} pages, {self.again} batches came again"


def lose_power(
    file_system: str,
    count: int,
    seed: int,
    report: Callable[[str], object] = print,
    *,
    flushes: bool = True,
) -> Losses:
    """Have the power fail `count` times in moves on a file system. Raises `Broken`.

    The same seed gives the same moves and moments, but not the same writes of the kernel. Without
    `flushes` nothing is brought to the disk: to see that it is found.
    """
    losses = Losses()
    for number in itertools.count(1):
        if losses.count >= count:
            break
        rng = random.Random(f"{file_system} {seed} {number}")
        with tempfile.TemporaryDirectory(prefix="wingsd-power-", dir=MEMORY) as name:
            move = _Move(Path(name), file_system, rng, losses, count, flushes)
            try:
                move.run()
            except BaseException:
                report(f"{file_system}: seed {seed}, move {number}: {losses}")
                raise
        report(f"{file_system}: move {number}: {losses}")
    return losses


class _Move:
    """One move. `before` is the disk at the beginning of a run, `promises` what holds then."""

    def __init__(
        self,
        place: Path,
        file_system: str,
        rng: random.Random,
        losses: Losses,
        count: int,
        flushes: bool,
    ) -> None:
        self._place = place
        self._rng = rng
        self._losses = losses
        self._count = count
        self._flushes = flushes
        self._rounds: list[Round] = make_rounds(place / "source", rng)
        self._before = place / "before"
        self._promises = Promises()
        make_disk(self._before, file_system)
        with mounted(self._before, place / "after") as disk:
            (disk / "move").mkdir()
            self._run(disk, self._promises, int)
            os.sync()

    def _run(self, disk: Path, promises: Promises, position: Callable[[], int]) -> Run:
        boot = self._rng.randbytes(16)
        return Run(disk / "move", self._place / "source", boot, promises, position)

    def run(self) -> None:
        for _ in range(RUNS):
            promises, log = self._record()
            moments = self._moments(log)
            kept = self._rng.randrange(MOMENTS)
            following = self._promises
            for number, position in enumerate(moments):
                if self._losses.count >= self._count:
                    return
                lost = self._place / f"lost {number}"
                copy_sparse(self._before, lost)
                self._lose(lost, log, position)
                told = promises.at(position)
                if number == kept:
                    copy_sparse(lost, self._place / "next")
                    following = told
                self._recover(lost, told)
                lost.unlink()
            log.unlink()
            (self._place / "next").rename(self._before)
            self._promises = following

    def _moments(self, log: Path) -> list[int]:
        """Return positions in a log: any ones, and some where a flush has just ended."""
        flushes = [each.end for each in notes(log) if each.kind is Kind.FLUSH]
        end = log.stat().st_size
        found = [
            self._rng.choice(flushes) if self._rng.random() < FLUSHED else self._rng.randrange(end)
            for _ in range(MOMENTS)
        ]
        return sorted(found)

    def _record(self) -> tuple[Promises, Path]:
        """Have the move go to its end, once; return what was told, and the log."""
        disk, log = self._place / "disk", self._place / "log"
        copy_sparse(self._before, disk)
        promises = self._promises.at(0)

        def position() -> int:
            return os.stat(log).st_size

        with (
            recorded(disk, log, self._place) as place,
            disturbed(place, self._rng.randrange(1 << 32)),
        ):
            run = self._run(place, promises, position)
            run.flushes, run.pause = self._flushes, PAUSE
            run.go_on(self._rounds, self._rng)
        disk.unlink()
        return promises, log

    def _lose(self, disk: Path, log: Path, position: int) -> None:
        fd = os.open(disk, os.O_RDWR)
        try:
            share = self._rng.choice(SHARES)
            self._losses.pages += write_lost(fd, log, position, share, self._rng)
        finally:
            os.close(fd)
        self._losses.count += 1

    def _recover(self, disk: Path, told: Promises) -> None:
        with mounted(disk, self._place / "after") as place:
            run = self._run(place, told.at(0), int)
            told.check_whole(run.tree, self._rounds)
            self._losses.again += run.go_on(self._rounds, self._rng)
        with suppress(FileNotFoundError):
            (self._place / "after").rmdir()
