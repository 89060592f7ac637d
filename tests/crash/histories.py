"""Histories of a server that changes at random: any act is killed, or meets a disk that fails.

`history` runs each trial in this process, with deaths and errors at any call of the operating
system. `history-killed` kills processes, while a program writes to the server's files.
"""

from __future__ import annotations

import marshal
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from tests.crash.disks import copy_sparse, make_disk, mounted
from tests.crash.engine import Broken, Campaign, place
from tests.crash.recorded_disk import SHARES, disturbed, notes, recorded, write_lost
from tests.history.worlds import FAST, World, model, trusted
from tests.support.archives import Tree, seen
from wingsd.errors import WingsdError
from wingsd.history.capture import HistorySource
from wingsd.history.format import PointLabel
from wingsd.history.store import HistoryStore
from wingsd.moves.unchanged import KERNEL, MeasuredFileSystems

#: Acts of one history.
ACTS = 15
#: Acts of one whose disk loses its power, the share of removals, and at how many moments.
_LOST_ACTS, _REMOVED, _MOMENTS = 12, 0.3, 20


class AnyHistories(Campaign):
    """Histories with a model in memory: their acts die at any call, or a call fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "history"
        self._counts: Counter[str] = Counter()

    async def trial(self, number: int) -> str:
        """Run a history; count it."""
        seed = self.rng.randrange(1 << 32)
        self.plan_of_trial = f"history {seed}"
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        with model(self._directory, seed) as history:
            for _ in range(ACTS):
                history.act()
            history.check()
            if damaged := history.store.verify():
                raise Broken(f"history {seed} is damaged: {damaged}")
            self._counts.update(history.kinds)
            self._counts["interrupted"] += history.interrupted
            self._counts["points"] += len(history.trees)
        self.done += 1
        return f"{len(history.trees)} points, {history.interrupted} acts interrupted"

    def summary(self) -> str:
        """Return how often each act was done."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items()))


class KilledHistories(Campaign):
    """Processes that make points of a directory, and are killed by SIGKILL.

    Every other one has a program beside it that writes to the files meanwhile. `kills` is how
    often the processes of one history are killed.
    """

    kills = 4

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "history"
        self._counts: Counter[str] = Counter()

    async def trial(self, number: int) -> str:
        """Let a process make points, and kill it a few times."""
        seed = self.rng.randrange(1 << 32)
        is_written = number % 2 == 0
        self.plan_of_trial = f"history {seed}, {'running' if is_written else 'stopped'}"
        shutil.rmtree(self._directory, ignore_errors=True)
        (self._directory / "server").mkdir(parents=True)
        (self._directory / "models").mkdir()
        rng = random.Random(seed)
        writer = _started("write", self._directory, seed) if is_written else None
        try:
            for _ in range(min(self.kills, self.count - self.done)):
                maker = _started("run" if is_written else "make", self._directory, rng.random())
                wait = rng.random() ** 2 * 1.5
                line = maker.stdout.readline() if maker.stdout else b""
                time.sleep(wait)
                maker.send_signal(signal.SIGKILL)
                maker.wait()
                if line != b"ready\n":
                    raise Broken(f"the process has failed: {line!r}")
                self._check(is_running=is_written)
                self.done += 1
        finally:
            if writer is not None:
                writer.kill()
                writer.wait()
        return f"{self._counts['points']} points so far, {self._counts['undone']} undone"

    def _check(self, *, is_running: bool) -> None:
        history = self._directory / "history"
        newest = max((int(path.stem) for path in history.glob("*.delta")), default=0)
        with closing(HistoryStore(str(history))) as store:
            found = store.points()
            self._counts["undone"] += bool(found) and newest >= found[0].number
            for point in found:
                tree = _rebuilt(store, point.number, self._directory)
                self._counts["points"] += 1
                if is_running:
                    self._check_files(self._directory / "rebuilt")
                elif tree != _loaded(self._directory, point.number):
                    raise Broken(f"point {point.number} is not as it was")

    def _check_files(self, target: Path) -> None:
        """Check that each file is as it was at one moment. Raises `Broken`."""
        for path in target.rglob("*"):
            if path.is_file():
                self._counts["files"] += 1
                data = path.read_bytes()
                each = [
                    int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 4096)
                ]
                # blocks are written from the first to the last
                if each != sorted(each, reverse=True) or each[:1] > [each[-1] + 1]:
                    raise Broken(f"{path.name} was not so at any moment: {each}")

    def summary(self) -> str:
        """Return what was counted."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items()))


class LostHistories(Campaign):
    """Histories on a disk with a log of its writes, whose power fails at some moments."""

    def __init__(self, file_system: str) -> None:
        self._file_system = file_system
        self._counts: Counter[str] = Counter()

    async def trial(self, number: int) -> str:
        """Record one history, and lose the power in it."""
        rng = random.Random(f"{self._file_system} {self.seed} {number}")
        self.plan_of_trial = f"history {number} on {self._file_system}"
        with place("power") as directory:
            image, log = directory / "disk", directory / "log"
            make_disk(directory / "before", self._file_system)
            copy_sparse(directory / "before", image)
            with recorded(image, log, directory) as disk, disturbed(disk, number):
                known, trees = self._recorded(rng, directory, disk, log)
            flushes = [end for _, data, end in notes(log) if not data]
            for each in range(_MOMENTS):
                if not self.is_over:
                    end = rng.choice(flushes) if each % 2 else rng.randrange(log.stat().st_size)
                    self._lose(rng, directory, end, known, trees)
        return self.summary()

    def _recorded(
        self, rng: random.Random, directory: Path, disk: Path, log: Path
    ) -> tuple[list[tuple[int, list[int]]], dict[int, Tree]]:
        """Make and remove points; return the numbers at each position, and all trees."""
        known: list[tuple[int, list[int]]] = [(0, [])]
        trees: dict[int, Tree] = {}
        world = World(directory / "server", rng)
        with (
            closing(HistoryStore(str(disk / "move"))) as store,
            closing(HistorySource(str(world.root), trusted(directory), _ignore, FAST)) as source,
        ):
            for _ in range(_LOST_ACTS):
                numbers = [point.number for point in store.points()]
                if len(numbers) > 1 and rng.random() < _REMOVED:
                    store.remove(rng.choice(numbers[1:]))
                else:
                    world.change(rng.randrange(1, 9))
                    made = store.make(source, PointLabel.STOPPED)
                    if made is not None:
                        trees[made.number] = seen(world.root)
                numbers = [point.number for point in store.points()]
                known.append((log.stat().st_size, numbers))
        return known, trees

    def _lose(
        self,
        rng: random.Random,
        directory: Path,
        position: int,
        known: list[tuple[int, list[int]]],
        trees: dict[int, Tree],
    ) -> None:
        lost = directory / "lost"
        copy_sparse(directory / "before", lost)
        with lost.open("r+b") as file:
            share = rng.choice(SHARES)
            pages = write_lost(file.fileno(), directory / "log", position, share, rng)
            self._counts["pages lost"] += pages
        at = max(number for number, (end, _) in enumerate(known) if end <= position)
        allowed = [numbers for _, numbers in known[at : at + 2]]
        with mounted(lost, directory / "after") as disk:
            self._check(disk, directory, allowed, trees)
        lost.unlink()
        self.done += 1

    def _check(
        self, disk: Path, directory: Path, allowed: list[list[int]], trees: dict[int, Tree]
    ) -> None:
        with closing(HistoryStore(str(disk / "move"))) as store:
            found = [point.number for point in store.points()]
            if found not in allowed:
                raise Broken(f"points {found} are there, and not {allowed}")
            for number in found:
                if _rebuilt(store, number, directory) != trees[number]:
                    raise Broken(f"point {number} is not as it was")
            self._counts["points"] += len(found)
            if damaged := store.verify():
                raise Broken(f"files are damaged: {damaged}")

    def summary(self) -> str:
        """Return what was counted."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items()))
        return f"{self.done} losses, {counts}"


def _rebuilt(store: HistoryStore, number: int, directory: Path) -> Tree:
    target = directory / "rebuilt"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    fd = os.open(target, os.O_RDONLY)
    try:
        store.rebuild(number, fd)
    finally:
        os.close(fd)
    return seen(target)


def _ignore(line: str) -> None:
    pass


def _started(kind: str, directory: Path, seed: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.crash.histories", kind, str(directory), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _loaded(directory: Path, number: int) -> Tree:
    data = (directory / "models" / str(number)).read_bytes()
    found: Tree = marshal.loads(data)  # noqa: S302 - the other process has written it
    return found


def _make(directory: Path, seed: str, *, is_running: bool) -> None:
    """Make and remove points until this process is killed."""
    rng = random.Random(seed)
    world = World(directory / "server", rng)
    store = HistoryStore(str(directory / "history"))
    systems, kernel = trusted(directory), FAST
    if is_running:
        systems, kernel = MeasuredFileSystems(), KERNEL
        systems.measure_in(str(directory))
    source = HistorySource(str(world.root), systems, lambda line: None, kernel)
    print("ready", flush=True)
    while True:
        points = store.points()
        if not is_running:
            world.change(rng.randrange(1, 9))
            number = points[0].number + 1 if points else 1
            model = directory / "models" / "next"
            model.write_bytes(marshal.dumps(seen(world.root)))
            model.rename(model.parent / str(number))
        with suppress(WingsdError):
            store.make(source, PointLabel.RUNNING if is_running else PointLabel.STOPPED)
        if len(points) > 3:
            store.remove(rng.choice(points[1:]).number)


def _write(directory: Path, seed: str) -> None:
    """Write files until this process is killed: all blocks of one, each time with a new number."""
    rng = random.Random(seed)
    root = directory / "server"
    numbers = Counter[int]()
    while True:
        each = rng.randrange(12)
        numbers[each] += 1
        block = numbers[each].to_bytes(8, "little") * 512
        path, blocks = root / f"f{each}", 1 << (each % 10)
        kind = rng.randrange(3) if path.exists() else 2
        if kind == 2:
            new = root / "new"
            new.write_bytes(block * blocks)
            new.rename(path)
        elif kind == 1:
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
                for at in range(0, len(mapping), 4096):
                    mapping[at : at + 4096] = block
        else:
            fd = os.open(path, os.O_WRONLY)
            for at in range(0, blocks * 4096, 4096):
                os.pwrite(fd, block, at)
            os.close(fd)
        time.sleep(rng.choice((0, 0.001, 0.05)))


if __name__ == "__main__":
    what, where, seed_ = sys.argv[1:]
    if what == "write":
        _write(Path(where), seed_)
    else:
        _make(Path(where), seed_, is_running=what == "run")
