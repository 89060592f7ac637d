"""A move on a disk whose power fails: its rounds, a run of its destination, and what was told."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import Factory, define, frozen

from tests.moves.changing import NAMES, Changes
from tests.moves.moving import Destination, Source, differing, feed, resume
from tests.support.archives import Tree, seen
from wingsd.errors import ShapeMissing
from wingsd.filesystem.syscalls import syncfs
from wingsd.moves.destination import MoveDestination
from wingsd.moves.filling import Batch

__all__ = ["Broken", "Promises", "Round", "Run", "disturbed", "make_rounds"]

#: Most changes of a tree before each round, and most bytes of a batch.
CHANGES, BATCH = 40, 140_000
#: Seconds at most between what disturbs a disk.
PAUSE = 0.02
#: Of batches, how many are sent twice, and after how many all is flushed; of rounds, after how
#: many the ledger is written anew, and after how many modes and times are set.
TWICE, FLUSHED, COMPACTED, FINISHED = 0.1, 0.2, 0.5, 0.5
#: How many runs begin with a round of what the destination says that it lacks, as a source does.
RESUMED = 0.5
KINDS = (
    *("file", "big", "big", "big", "directory", "symlink", "hard link", "touch", "mode"),
    *("write", "write", "rewrite", "truncate", "grow", "rename", "rename", "swap", "delete"),
)


class Broken(AssertionError):
    """What was told durable is missing or wrong; the text says what."""


@frozen
class Round:
    """What is sent in a round, and what the tree is then."""

    batches: list[Batch]
    last: int
    root: bytes
    expected: Tree


def make_rounds(place: Path, rng: random.Random, count: int = 3) -> list[Round]:
    """Change a tree at `place` at random, and return what is sent of it in each round."""
    place.mkdir()
    source, changes = Source(BATCH, place), Changes(place)
    found = []
    for _ in range(count):
        for _ in range(rng.randrange(CHANGES // 2, CHANGES)):
            where = rng.randrange(10**6), rng.randrange(10**6)
            changes.run((rng.choice(KINDS), *where, rng.choice(NAMES)))
        batches = source.round()
        expected = seen(place, owner=False)
        found.append(Round(batches, source.filler.number, source.sent.root(), expected))
    return found


@define
class Promises:
    """What a destination has told, each with the position in the disk's log where it begins."""

    #: Batches on stable storage: all up to a number, and single ones.
    durable: list[tuple[int, int]] = Factory(list)
    shapes: list[tuple[int, int]] = Factory(list)
    #: Rounds that were closed.
    rounds: list[tuple[int, int]] = Factory(list)
    #: Batches that have arrived; nothing is promised of them.
    sent: list[tuple[int, int]] = Factory(list)
    #: Rounds that were begun anew: the batches of `make_rounds` do not fit any more.
    anew: list[tuple[int, int]] = Factory(list)
    #: The round that the tree is whole of, with modes and times; 0 from where it may change again.
    whole: list[tuple[int, int]] = Factory(list)

    def at(self, position: int) -> Promises:
        """Return what had been told when the power failed, as of the beginning of a log."""
        kept = Promises()
        for mine, others in zip(self._lists(), kept._lists(), strict=True):
            others += [(0, number) for at, number in mine if at <= position]
        return kept

    def _lists(self) -> tuple[list[tuple[int, int]], ...]:
        return self.durable, self.shapes, self.rounds, self.sent, self.anew, self.whole

    def check(self, to: MoveDestination) -> None:
        """Check what a destination holds that was opened again. Raises `Broken`."""
        told = {number for _, number in self.shapes}
        told |= set(range(1, max((number for _, number in self.durable), default=0) + 1))
        missing = sorted(number for number in told if not to.received.has(number))
        if missing:
            raise Broken(f"batches that were told durable are missing: {missing}")
        closed = max((number for _, number in self.rounds), default=0)
        if to.received.round <= closed:
            raise Broken(f"round {closed} was closed, and {to.received.round} is open")

    def check_whole(self, tree: Path, rounds: list[Round]) -> None:
        """Check the tree on the disk before anything opens it. Raises `Broken`."""
        number = self.whole[-1][1] if self.whole else 0
        if number and seen(tree, owner=False) != rounds[number - 1].expected:
            raise Broken(f"the tree of round {number} was told whole, and is not")


class Run:
    """One run of a destination, from the start of its process to the end of the move."""

    def __init__(
        self,
        place: Path,
        source: Path,
        boot: bytes,
        promises: Promises,
        position: Callable[[], int],
    ) -> None:
        self._destination = Destination(place)
        self._destination.boot = boot
        self._destination.synced = self._sync
        self._source = source
        self._promises = promises
        self._position = position
        #: Whether anything is brought to the disk, and seconds at most between batches.
        self.flushes = True
        self.pause = 0.0

    def _sync(self) -> None:
        if not self.flushes:
            return
        fd = os.open(self._destination.place, os.O_RDONLY)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

    @property
    def tree(self) -> Path:
        return self._destination.tree

    def go_on(self, rounds: list[Round], rng: random.Random) -> int:
        """Check what was promised, send what is missing, and end the move.

        Returns the number of batches that were sent before and had to come again.
        """
        promises = self._promises
        self._changes()
        with self._destination.open() as to:
            promises.check(to)
            again = sum(not to.received.has(number) for number in {at[1] for at in promises.sent})
            if promises.anew or rng.random() < RESUMED:
                self._round_anew(to, rng)
            else:
                self._rounds(to, rounds, rng)
            self._finish(to, len(rounds))
            if different := differing(to, self.tree):
                raise Broken(f"files are not as they were sent: {different}")
        if seen(self.tree, owner=False) != rounds[-1].expected:
            raise Broken("the tree is not that of the source")
        if os.listdir(self._destination.place / "aside"):
            raise Broken("a file that was renamed is left over")
        return again

    def _rounds(self, to: MoveDestination, rounds: list[Round], rng: random.Random) -> None:
        for number, each in enumerate(rounds, 1):
            if number >= to.received.round:
                self._send(to, each.batches, rng)
                self._close(to, number, each.last, each.root)
                if rng.random() < COMPACTED:
                    to.compact()
                if rng.random() < FINISHED:
                    self._finish(to, number)

    def _round_anew(self, to: MoveDestination, rng: random.Random) -> None:
        self._promises.anew.append((self._position(), to.received.round))
        self._changes()
        source = resume(to, self._source, BATCH)
        self._send(to, source.round(), rng)
        filler = source.filler
        self._close(to, filler.round, filler.number, source.sent.root())

    def _close(self, to: MoveDestination, number: int, last: int, root: bytes) -> None:
        to.close_round(number, last, root)
        self._promises.rounds.append((self._position(), number))

    def _changes(self) -> None:
        whole = self._promises.whole
        if whole and whole[-1][1]:
            whole.append((self._position(), 0))

    def _finish(self, to: MoveDestination, number: int) -> None:
        to.finish()
        self._promises.whole.append((self._position(), number))

    def _send(self, to: MoveDestination, batches: list[Batch], rng: random.Random) -> None:
        waiting = [each for each in batches if not to.received.has(each.index.number)]
        while waiting:
            batch = rng.choice(waiting)
            number = batch.index.number
            self._changes()
            # what others do may come between
            time.sleep(self.pause * rng.random())
            try:
                feed(to, batch.pieces())
            except ShapeMissing:
                continue
            self._promises.sent.append((self._position(), number))
            if batch.index.shapes:
                self._promises.shapes.append((self._position(), number))
            if rng.random() >= TWICE:
                waiting.remove(batch)
            if rng.random() < FLUSHED:
                to.checkpoint()
            self._promises.durable.append((self._position(), to.durable))


@contextmanager
def disturbed(place: Path, seed: int) -> Iterator[None]:
    """Do what other programs and the kernel do meanwhile, within the `with` statement.

    A file of another program is flushed, and files of the move are written to the disk at random
    moments, without a flush.
    """
    stopped = threading.Event()
    rng = random.Random(seed)

    def disturb() -> None:
        with (place / "other").open("ab", buffering=0) as other:
            while not stopped.wait(rng.uniform(0, PAUSE)):
                if rng.random() < 0.5:
                    other.write(b"a line of another program\n")
                    os.fsync(other.fileno())
                    continue
                paths = [path for path in (place / "move").rglob("*") if path.is_file()]
                with suppress(OSError):
                    fd = os.open(rng.choice([*paths, place / "move/ledger"]), os.O_RDONLY)
                    try:
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(fd)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
