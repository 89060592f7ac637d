"""Histories of a server that changes at random: any act is killed, or meets a disk that fails.

`history` runs each trial in this process, with deaths and errors at any call of the operating
system. `history-killed` kills processes, while a program writes to the server's files.
"""

from __future__ import annotations

import marshal
import mmap
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.crash.disks import copy_sparse, make_disk, mounted
from tests.crash.engine import Broken, Campaign, place
from tests.crash.recorded_disk import SHARES, disturbed, notes, recorded, write_lost
from tests.history.worlds import FAST, Model, World, model, trusted
from tests.support.archives import Tree, seen
from tests.support.points import rebuild
from wingsd.errors import HistoryDamaged
from wingsd.history import store as store_module
from wingsd.history.capture import HistorySource
from wingsd.history.format import PointLabel
from wingsd.history.rebuilding import merge_deltas
from wingsd.history.store import HistoryStore
from wingsd.moves.unchanged import KERNEL, MeasuredFileSystems

#: Acts of one history.
ACTS = 15
#: The share of histories with `ACTS` acts; all others are short, with few files.
_LONG = 0.01
_SHORT_ACTS, _FEW_FILES = (3, 7), 6
#: Histories between two lines of a report.
_REPORTED = 100
#: Acts of one whose disk loses its power, the share of removals, and at how many moments.
_LOST_ACTS, _REMOVED, _MOMENTS = 12, 0.3, 20


class AnyHistories(Campaign):
    """Histories with a model in memory: their acts die at any call, or a call fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "history"
        self._counts: Counter[str] = Counter()

    async def trial(self, number: int) -> str:
        """Run some histories; count them."""
        for _ in range(min(_REPORTED, self.count - self.done)):
            self._run_one()
            self.done += 1
        return self.summary()

    def _run_one(self) -> None:
        seed = self.rng.randrange(1 << 32)
        is_long = self.rng.random() < _LONG
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        max_size = self.rng.choice((None, None, self.rng.randrange(1 << 16, 1 << 20)))
        self.plan_of_trial = f"history {seed}, {max_size} bytes, {'long' if is_long else 'short'}"
        files = {} if is_long else {"most_files": _FEW_FILES}
        with model(self._directory, seed, max_size=max_size, **files) as history:
            for _ in range(ACTS if is_long else self.rng.randrange(*_SHORT_ACTS)):
                history.act()
            history.check()
            if damaged := history.store.verify():
                raise Broken(f"history {seed} is damaged: {damaged}")
            self._counts.update(history.kinds)
            self._counts["interrupted"] += history.interrupted
            self._counts["points"] += len(history.trees)
            self._counts["long" if is_long else "short"] += 1

    def summary(self) -> str:
        """Return how often each act was done."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items()))


class DamagedHistories(Campaign):
    """Histories that lose or change bytes between acts, but never of both catalogues.

    Points are made nevertheless, each file that is not as it was is listed, and the next point
    after that has only good copies.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "history"
        self._counts: Counter[str] = Counter()
        self._has_hurt_catalogue = False

    async def trial(self, number: int) -> str:
        """Run a history; count it."""
        seed = self.rng.randrange(1 << 32)
        self.plan_of_trial = f"history {seed}"
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        rng = random.Random(seed)
        with closing(Model(self._directory, rng, rng.random() < 0.7)) as history:
            for _ in range(ACTS):
                self._act(history, rng)
        self.done += 1
        return self.summary()

    def _act(self, history: Model, rng: random.Random) -> None:
        home = self._directory / "history"
        for _ in range(rng.choice((0, 1, 1, 3))):
            self._damage(home, rng)
        if self._has_hurt_catalogue or rng.random() < 0.5:
            history.reopen(source=rng.random() < 0.5)  # which repairs the catalogue
            self._has_hurt_catalogue = False
        numbers = history.numbers()
        if len(numbers) > 1 and rng.random() < 0.2:
            number = rng.choice(numbers[1:])
            try:
                history.store.remove(number)
            except HistoryDamaged:
                self._counts["not removed"] += 1
        else:
            history.world.change(rng.randrange(1, 7))
            if history.make() is not None:
                self._counts["made"] += 1
        if rng.random() < 0.4:
            self._check(history)

    def _damage(self, home: Path, rng: random.Random) -> None:
        files = [path for path in home.rglob("*") if path.is_file()]
        if not files:
            return
        path = rng.choice(files)
        if path.name.startswith("catalogue"):
            if self._has_hurt_catalogue:
                return
            self._has_hurt_catalogue = True
        size = path.stat().st_size
        kind = rng.choice(("changed", "changed", "cut", "lost"))
        if kind == "lost":
            path.unlink()
        elif kind == "cut":
            os.truncate(path, rng.randrange(size + 1))
        elif size:
            with path.open("r+b") as file:
                file.seek(rng.randrange(size))
                (before,) = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([before ^ (1 << rng.randrange(8))]))
        self._counts[kind] += 1

    def _check(self, history: Model) -> None:
        """Check that what is damaged is listed, and that the next point is whole."""
        for is_last in (False, True):
            damaged = history.store.verify()
            for number in history.numbers():
                try:
                    is_whole = history.rebuilt(number) == history.trees[number]
                except HistoryDamaged:
                    is_whole = False
                if is_whole != (number not in damaged):
                    raise Broken(f"point {number}: {is_whole}, and {damaged.get(number)} damaged")
                self._counts["points" if is_whole else "damaged points"] += 1
            newest = max(history.numbers(), default=0)
            if is_last and newest in damaged:
                raise Broken(f"point {newest} was not healed: {damaged[newest]}")
            history.world.change(3)
            history.make()

    def summary(self) -> str:
        """Return what was counted."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items()))


#: What is done with a history when it is killed. "change" is the changing of the tree by a new
#: point, "undo" that of an interrupted one; both, and "merge", are a part of others.
KINDS = ("open", "undo", "make", "change", "merge", "remove", "verify")
#: The share of all kills that each kind must have in the end, and in which the next process that
#: opens a history is killed, too, before anybody else looks at it.
_LEAST_SHARE, _UNSEEN = 0.02, 0.6
#: "undo" comes only after "change".
_OFTEN = ("open", "change", "change")
#: These take the least time.
_RARE = ("open", "open", "merge", "merge")
_DONE_BY = {"merge": "remove", "remove": "remove", "verify": "verify"}
#: Seconds within which a process does what it is to be killed in.
_DOES_WITHIN = 10.0
#: Seconds within which a process starts, or ends, on a machine with much other work.
_STARTS_WITHIN = 600.0


class KilledHistories(Campaign):
    """Processes that make, remove and verify points of a directory, and are killed by SIGKILL.

    Every other history has a program beside it that writes to the files meanwhile. `kills` is how
    often the processes of one history are killed. They say what they begin and end, so that each
    kind of work is interrupted, and no point is missing that was reported.
    """

    kills = 25

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "history"
        self._counts: Counter[str] = Counter()
        self._killed: Counter[str] = Counter()
        #: Seconds that each kind of work takes, about.
        self._seconds = dict.fromkeys(KINDS, 0.05)

    async def start(self) -> None:
        """Start the process that forks the others."""
        self._makers = _Makers()

    async def close(self) -> None:
        """End it."""
        self._makers.close()

    async def trial(self, number: int) -> str:
        """Let processes make points, and kill each."""
        seed = self.rng.randrange(1 << 32)
        is_written = number % 2 == 0
        self.plan_of_trial = f"history {seed}, {'running' if is_written else 'stopped'}"
        shutil.rmtree(self._directory, ignore_errors=True)
        (self._directory / "server").mkdir(parents=True)
        (self._directory / "models").mkdir()
        rng = random.Random(seed)
        writer = _started("write", self._directory, seed) if is_written else None
        #: The points that were reported, and what may have been done since.
        self._known: set[int] = set()
        self._pending: tuple[str, int] | None = None
        self._was, self._is_unseen = "", False
        try:
            for _ in range(min(self.kills, self.count - self.done)):
                self._kill(rng, is_written)
                self._is_unseen = self._was in ("change", "undo") and rng.random() < _UNSEEN
                if not self._is_unseen:
                    self._check(is_running=is_written)
                self.done += 1
            self._check(is_running=is_written)
        finally:
            if writer is not None:
                writer.kill()
                writer.wait()
        return f"{self._counts['points']} points so far, killed in {dict(self._killed)}"

    def _kill(self, rng: random.Random, is_written: bool) -> None:
        wanted = "undo" if self._is_unseen else rng.choice([*_OFTEN, *KINDS[2:], *_RARE])
        self._makers.begin(self._directory, rng.random(), wanted, is_running=is_written)
        begun: list[tuple[str, float]] = []
        deadline = time.monotonic() + (2 if wanted in ("open", "undo") else _DOES_WITHIN)
        kill_at = deadline
        while (left := kill_at - time.monotonic()) > 0:
            line = self._makers.line(left)
            if line is None:
                break
            self._note(line, begun)
            if kill_at == deadline and wanted in (kind for kind, _ in begun):
                kill_at = time.monotonic() + rng.uniform(0, 1.2) * self._seconds[wanted]
        for line in self._makers.kill():
            self._note(line, begun)
        kinds = [kind for kind, _ in begun]
        self._was = "undo" if "undo" in kinds else (kinds or ["nothing"])[-1]
        self._killed[self._was] += 1

    def _note(self, line: str, begun: list[tuple[str, float]]) -> None:
        """Note what a process says. Raises `Broken` where it has failed, or a point is missing."""
        word, *rest = line.split()
        if word == "begin":
            begun.append((rest[0], time.monotonic()))
            if rest[0] in ("make", "remove"):
                self._pending = (rest[0], int(rest[1]))
        elif word == "end":
            kind, since = begun.pop()
            if kind != rest[0]:
                raise Broken(f"{kind} ends as {rest[0]}")
            seconds = self._seconds.get(kind, 0)
            self._seconds[kind] = 0.7 * seconds + 0.3 * (time.monotonic() - since)
        elif word == "points":
            self._compare({int(each) for each in rest})
        else:
            raise Broken(f"the process has failed: {line}")

    def _compare(self, found: set[int]) -> None:
        """Compare what is listed with what was reported, and may have been done since."""
        kind, number = self._pending or ("", 0)
        allowed = [self._known]
        if kind == "make":
            allowed.append(self._known | {number})
        elif kind == "remove":
            allowed.append(self._known - {number})
        if found not in allowed:
            raise Broken(f"points {found} are there, and not {self._known}, {kind} {number}")
        self._counts["made"] += len(found - self._known)
        self._known, self._pending = found, None

    def _check(self, *, is_running: bool) -> None:
        history = self._directory / "history"
        newest = max((int(path.stem) for path in history.glob("*.delta")), default=0)
        with closing(HistoryStore(str(history))) as store:
            found = store.points()
            self._compare({point.number for point in found})
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

    def check_all(self) -> None:
        """Check that points were made, and that each kind of work was interrupted."""
        if self.count < 300:
            return
        least = _LEAST_SHARE * self.count
        if rare := [kind for kind in KINDS if self._killed[kind] < least]:
            raise Broken(f"too few kills in {', '.join(rare)}")
        for what, share in {"made": 0.5, "points": 1, "undone": 0.01, "files": 1}.items():
            if self._counts[what] < share * self.count:
                raise Broken(f"only {self._counts[what]} {what} in {self.count} kills")

    def summary(self) -> str:
        """Return what was counted."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items()))
        kills = ", ".join(f"{count} in {kind}" for kind, count in sorted(self._killed.items()))
        return f"{counts}; kills: {kills}"


class _Makers:
    """Processes that make points, one at a time, forked by one that has imported everything."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.crash.histories", "fork"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._pending = b""
        self._pid = 0

    def close(self) -> None:
        """End all."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def begin(self, directory: Path, seed: float, wanted: str, *, is_running: bool) -> None:
        """Start a process, which does the wanted kind of work soon."""
        assert self._process.stdin is not None
        line = f"{directory}\t{seed}\t{wanted}\t{is_running:d}\n"
        self._process.stdin.write(line.encode())
        while not self._pid:
            line = self.line(_STARTS_WITHIN) or "nothing"
            if not line.startswith("pid "):
                raise Broken(f"no process was started: {line}")
            self._pid = int(line.split()[1])

    def line(self, seconds: float) -> str | None:
        """Return the next line, None when none comes for so long."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if not select.select([self._process.stdout], [], [], max(left, 0))[0]:
                return None
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            if not more:
                raise Broken("the process that forks others has ended")
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def kill(self) -> Iterator[str]:
        """Kill the process, and yield what it has said before."""
        os.kill(self._pid, signal.SIGKILL)
        while (line := self.line(_STARTS_WITHIN)) != f"ended {self._pid} {signal.SIGKILL}":
            if line is None:
                raise Broken("the process does not end")
            yield line
        self._pid = 0


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
        rebuild(store, number, fd)
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


def _fork() -> None:
    """Start a process for each line, and tell when it has ended.

    It is waited for with the next line: until then no other process gets its id, and is killed.
    """
    pid = 0
    while line := sys.stdin.readline():
        if pid:
            os.waitpid(pid, 0)
        directory, seed, wanted, is_running = line.split("\t")
        pid = os.fork()
        if not pid:
            try:
                _say(f"pid {os.getpid()}")
                _make(Path(directory), seed, wanted, is_running=is_running == "1\n")
            except BaseException as error:
                _say(f"failed {error!r}".replace("\n", " "))
                time.sleep(60)
            finally:
                os._exit(1)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        _say(f"ended {pid} {ended.si_status}")


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


@contextmanager
def _saying(kind: str, number: int = 0) -> Iterator[None]:
    _say(f"begin {kind} {number}")
    yield
    _say(f"end {kind}")


def _make(directory: Path, seed: str, wanted: str, *, is_running: bool) -> None:
    """Make, remove and verify points until this process is killed."""
    rng = random.Random(seed)
    for name, kind in (("_undo", "undo"), ("_change_tree", "change")):
        setattr(HistoryStore, name, _announced(kind, getattr(HistoryStore, name)))
    setattr(store_module, "merge_deltas", _announced("merge", merge_deltas))  # noqa: B010
    with _saying("open"):
        store = HistoryStore(str(directory / "history"))
    points = store.points()
    _say(" ".join(["points", *(str(point.number) for point in points)]))
    world = World(directory / "server", rng)
    systems, kernel = trusted(directory), FAST
    if is_running:
        systems, kernel = MeasuredFileSystems(), KERNEL
        systems.measure_in(str(directory))
    source = HistorySource(str(world.root), systems, lambda line: None, kernel)
    while True:
        numbers = [point.number for point in store.points()]
        kind = _next(rng, wanted, len(numbers))
        number = numbers[0] + 1 if numbers else 1
        if kind == "make" and not is_running:
            world.change(rng.randrange(1, 9))
            model = directory / "models" / "next"
            model.write_bytes(marshal.dumps(seen(world.root)))
            model.rename(model.parent / str(number))
        elif kind == "remove":
            number = rng.choice(numbers[1:])
        with _saying(kind, number):
            if kind == "make":
                store.make(source, PointLabel.RUNNING if is_running else PointLabel.STOPPED)
            elif kind == "remove":
                store.remove(number)
            elif damaged := store.verify():
                raise Broken(f"files are damaged: {damaged}")
        _say(" ".join(["points", *(str(point.number) for point in store.points())]))


def _next(rng: random.Random, wanted: str, count: int) -> str:
    """Choose the next operation on a history, by its number of points."""
    if count > rng.randrange(2, 7):
        return "remove"
    kind = rng.choice(("make", _DONE_BY.get(wanted, "make")))
    return "make" if kind == "remove" and count < 3 else kind


def _announced(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def announced(*args: Any, **kwargs: Any) -> Any:
        with _saying(kind):
            return function(*args, **kwargs)

    return announced


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
    what, *arguments = sys.argv[1:]
    if what == "write":
        _write(Path(arguments[0]), arguments[1])
    else:
        _fork()
