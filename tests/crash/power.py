"""Power losses: moves on a disk with a log of its writes, which go on from what a loss has left.

Whatever the destination had reported as durable must be there, and the move must end equal to its
source.
"""

from __future__ import annotations

import os
import random
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from tests.crash.disks import FILE_SYSTEMS, copy_sparse, make_disk, mounted
from tests.crash.engine import Broken, Campaign, place
from tests.crash.histories import LostHistories
from tests.crash.recorded_disk import PAUSE, SHARES, disturbed, notes, recorded, write_lost
from tests.moves.changing import Changes
from tests.moves.moving import Destination, Source, differing, feed, resume
from tests.support.archives import Tree, seen
from wingsd.errors import ShapeMissing
from wingsd.filesystem.syscalls import syncfs
from wingsd.moves.destination import MoveDestination
from wingsd.moves.filling import Batch

#: Before the name of a file system: histories in place of moves.
HISTORY = "history-"
KINDS = (*FILE_SYSTEMS, *(HISTORY + name for name in FILE_SYSTEMS))
#: At how many moments the power fails in one run of a move, and how many runs a move has.
MOMENTS, RUNS = 12, 3
#: The share of the moments that are right after a flush.
AFTER_FLUSH = 0.5
#: Rounds of a move; most changes of a tree before each of them, and most bytes of a batch.
ROUNDS, CHANGES, BATCH = 3, 40, 140_000
#: The shares of batches that are sent twice, and after which all is flushed; and of rounds after
#: which the ledger is compacted, and after which modes and times are set.
TWICE, FLUSHED, COMPACTED, FINISHED = 0.1, 0.2, 0.5, 0.5
#: The share of runs that begin with a round of what the destination lacks, as a source does.
RESUMED = 0.5
CHANGED = (
    *("file", "big", "big", "big", "directory", "symlink", "hard link", "touch", "mode"),
    *("write", "write", "rewrite", "truncate", "grow", "rename", "rename", "swap", "delete"),
)


@frozen
class Round:
    """The batches of a round, and the tree after it."""

    batches: list[Batch]
    last: int
    root: bytes
    expected: Tree


def make_rounds(directory: Path, rng: random.Random) -> list[Round]:
    """Change a new tree at random; return what is sent of it in each round."""
    directory.mkdir()
    source, changes = Source(BATCH, directory), Changes(directory)
    found = []
    for _ in range(ROUNDS):
        for _ in range(rng.randrange(CHANGES // 2, CHANGES)):
            changes.run_one_of(CHANGED, rng)
        batches = source.round()
        expected = seen(directory, owner=False)
        found.append(Round(batches, source.filler.number, source.sent.root(), expected))
    return found


class Promises:
    """The reports of a destination: the position in the disk's log where each begins, and more.

    Each has a kind and a number. "durable": all batches up to this one are on stable storage;
    "shape": this one is; "closed": this round is. "sent": this batch has arrived; nothing is
    promised of it. "begun again": this round was, and the batches of `make_rounds` do not fit any
    more. "whole": the tree is that of this round, with modes and times; 0 where it may change.
    """

    def __init__(self, reports: Iterable[tuple[int, str, int]] = ()) -> None:
        self._reports = [*reports]

    def note(self, position: int, kind: str, number: int) -> None:
        self._reports.append((position, kind, number))

    def of(self, kind: str) -> list[int]:
        """Return the numbers of one kind, in their order."""
        return [number for _, of, number in self._reports if of == kind]

    def last(self, kind: str) -> int:
        """Return the last number of one kind, 0 for none."""
        return (self.of(kind) or [0])[-1]

    def at(self, position: int) -> Promises:
        """Return what had been reported when the power failed, as of the beginning of a log."""
        return Promises((0, kind, number) for at, kind, number in self._reports if at <= position)

    def check(self, to: MoveDestination) -> None:
        """Check what a destination holds that was opened again. Raises `Broken`."""
        durable = {*self.of("shape"), *range(1, max(self.of("durable"), default=0) + 1)}
        if missing := sorted(number for number in durable if not to.received.has(number)):
            raise Broken(f"batches that were reported durable are missing: {missing}")
        closed = max(self.of("closed"), default=0)
        if to.received.round <= closed:
            raise Broken(f"round {closed} was closed, and {to.received.round} is open")

    def check_whole(self, tree: Path, rounds: list[Round]) -> None:
        """Check the tree on the disk before anything opens it. Raises `Broken`."""
        number = self.last("whole")
        if number and seen(tree, owner=False) != rounds[number - 1].expected:
            raise Broken(f"the tree of round {number} was reported whole, and is not")


class Run:
    """One run of a destination, from the start of its process to the end of the move.

    `position` returns the position in the disk's log. Without `flushes` nothing is brought to the
    disk; `pause` is the most seconds between batches.
    """

    def __init__(
        self,
        disk: Path,
        source: Path,
        rng: random.Random,
        promises: Promises,
        position: Callable[[], int] = int,
    ) -> None:
        self._destination = Destination(disk / "move")
        self._destination.boot = rng.randbytes(16)
        self._destination.synced = self._sync
        self._source = source
        self._rng = rng
        self._promises = promises
        self._position = position
        self.flushes = True
        self.pause = 0.0

    def _sync(self) -> None:
        if self.flushes:
            fd = os.open(self._destination.place, os.O_RDONLY)
            try:
                syncfs(fd)
            finally:
                os.close(fd)

    @property
    def tree(self) -> Path:
        return self._destination.tree

    def go_on(self, rounds: list[Round]) -> int:
        """Check what was promised, send what is missing, and end the move.

        Returns the number of batches that were sent before and had to come again.
        """
        promises = self._promises
        self._changes()
        with self._destination.open() as to:
            promises.check(to)
            again = sum(not to.received.has(number) for number in {*promises.of("sent")})
            if promises.of("begun again") or self._rng.random() < RESUMED:
                self._resume(to)
            else:
                self._rounds(to, rounds)
            self._finish(to, len(rounds))
            if different := differing(to, self.tree):
                raise Broken(f"files are not as they were sent: {different}")
        if seen(self.tree, owner=False) != rounds[-1].expected:
            raise Broken("the tree is not that of the source")
        if os.listdir(self._destination.place / "aside"):
            raise Broken("a file that was renamed is left over")
        return again

    def _rounds(self, to: MoveDestination, rounds: list[Round]) -> None:
        for number, each in enumerate(rounds, 1):
            if number >= to.received.round:
                self._send(to, each.batches)
                self._close(to, number, each.last, each.root)
                if self._rng.random() < COMPACTED:
                    to.compact()
                if self._rng.random() < FINISHED:
                    self._finish(to, number)

    def _resume(self, to: MoveDestination) -> None:
        self._note("begun again", to.received.round)
        self._changes()
        source = resume(to, self._source, BATCH)
        self._send(to, source.round())
        filler = source.filler
        self._close(to, filler.round, filler.number, source.sent.root())

    def _note(self, kind: str, number: int) -> None:
        self._promises.note(self._position(), kind, number)

    def _close(self, to: MoveDestination, number: int, last: int, root: bytes) -> None:
        to.close_round(number, last, root)
        self._note("closed", number)

    def _changes(self) -> None:
        if self._promises.last("whole"):
            self._note("whole", 0)

    def _finish(self, to: MoveDestination, number: int) -> None:
        to.finish()
        self._note("whole", number)

    def _send(self, to: MoveDestination, batches: list[Batch]) -> None:
        rng = self._rng
        waiting = [each for each in batches if not to.received.has(each.index.number)]
        while waiting:
            batch = rng.choice(waiting)
            self._changes()
            # the disturbances may come between
            time.sleep(self.pause * rng.random())
            try:
                feed(to, batch.pieces())
            except ShapeMissing:
                continue
            self._note("sent", batch.index.number)
            if batch.index.shapes:
                self._note("shape", batch.index.number)
            if rng.random() >= TWICE:
                waiting.remove(batch)
            if rng.random() < FLUSHED:
                to.checkpoint()
            self._note("durable", to.durable)


class PowerLosses(Campaign):
    """Moves on one file system, in whose runs the power fails.

    `done` counts the losses. Without `flushes` nothing is brought to the disk: a campaign must
    find that.
    """

    def __init__(self, file_system: str, *, flushes: bool = True) -> None:
        self._file_system = file_system
        self._flushes = flushes
        #: Pages that were lost, and batches that came again.
        self._pages = self._again = 0

    def summary(self) -> str:
        return f"{self.done} losses of {self._pages} pages, {self._again} batches came again"

    async def trial(self, number: int) -> str:
        """Run one move."""
        self.rng = random.Random(f"{self._file_system} {self.seed} {number}")
        with place("power") as directory:
            self._place = directory
            #: The disk at the beginning of a run, and the promises that hold for it.
            self._before, self._promises = directory / "before", Promises()
            self._rounds = make_rounds(directory / "source", self.rng)
            make_disk(self._before, self._file_system)
            with mounted(self._before, directory / "after") as disk:
                (disk / "move").mkdir()
                self._run(disk, self._promises)
                os.sync()
            for _ in range(RUNS):
                if self.done < self.count:
                    self._lose_power()
        return self.summary()

    def _run(self, disk: Path, promises: Promises, position: Callable[[], int] = int) -> Run:
        return Run(disk, self._place / "source", self.rng, promises, position)

    def _lose_power(self) -> None:
        """Lose the power at some moments of one run; one of them is where the next one begins."""
        promises, log = self._record()
        moments = self._moments(log)
        kept = self.rng.randrange(MOMENTS)
        following, after = self._promises, self._place / "next"
        for number, position in enumerate(moments):
            if self.is_over:
                return
            lost = self._place / f"lost {number}"
            copy_sparse(self._before, lost)
            self._lose(lost, log, position)
            promised = promises.at(position)
            if number == kept:
                copy_sparse(lost, after)
                following = promised
            self._recover(lost, promised)
            lost.unlink()
        log.unlink()
        after.rename(self._before)
        self._promises = following

    def _record(self) -> tuple[Promises, Path]:
        """Run the move to its end, once; return what was reported, and the log."""
        disk, log = self._place / "disk", self._place / "log"
        copy_sparse(self._before, disk)
        promises = self._promises.at(0)
        with (
            recorded(disk, log, self._place) as directory,
            disturbed(directory, self.rng.randrange(1 << 32)),
        ):
            run = self._run(directory, promises, lambda: os.stat(log).st_size)
            run.flushes, run.pause = self._flushes, PAUSE
            run.go_on(self._rounds)
        disk.unlink()
        return promises, log

    def _moments(self, log: Path) -> list[int]:
        """Return positions in a log: any ones, and some where a flush has just ended."""
        flushes = [end for _, data, end in notes(log) if not data]
        end = log.stat().st_size
        found = [
            self.rng.choice(flushes)
            if self.rng.random() < AFTER_FLUSH
            else self.rng.randrange(end)
            for _ in range(MOMENTS)
        ]
        return sorted(found)

    def _lose(self, disk: Path, log: Path, position: int) -> None:
        fd = os.open(disk, os.O_RDWR)
        try:
            self._pages += write_lost(fd, log, position, self.rng.choice(SHARES), self.rng)
        finally:
            os.close(fd)
        self.done += 1

    def _recover(self, disk: Path, promised: Promises) -> None:
        with mounted(disk, self._place / "after") as directory:
            run = self._run(directory, promised.at(0))
            promised.check_whole(run.tree, self._rounds)
            self._again += run.go_on(self._rounds)


def campaigns(kinds: Sequence[str], options: Namespace) -> Iterator[tuple[str, Campaign]]:
    """Yield the power losses of these file systems, for moves or histories."""
    for name in kinds:
        system = name.removeprefix(HISTORY)
        yield name, PowerLosses(name) if name == system else LostHistories(system)
