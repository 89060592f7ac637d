"""Histories, and rewinds of servers, on a disk that fails.

They run in a virtual machine whose root may set up devices. Each act of a history is done on a
disk that is whole, that fails at some moment until the next act, that takes no writes from some
moment on, that is full, or has lost sectors of files of the history. Then the disk is whole again,
and mounted again. Each point that was reported is there, and is as it was, or those of its files
that are not are listed; files can be lost only with sectors.

A rewind is done of a server on such a disk, whose history is elsewhere. Files that cannot be read
are replaced. After a rewind that has failed before its exchange the server is as before, and after
one whose exchange has begun it becomes as at the point.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path

from tests.crash.disks import run
from tests.crash.engine import Broken
from tests.history.worlds import FAST, World, trusted
from tests.support.archives import Tree, seen
from tests.support.points import rebuild
from wingsd.errors import HistoryDamaged, StorageError
from wingsd.history.capture import HistorySource
from wingsd.history.format import PointLabel
from wingsd.history.rebuilding import EVERYTHING_DAMAGED
from wingsd.history.rewriting import Difference, Rewriting
from wingsd.history.store import HistoryStore
from wingsd.history.wanted import Wanted

DEVICE = "/dev/ubda"
"""The disk of the machine."""

ACTS = 30
"""Acts of a history."""

_NAME, _DEVICE = "disk", "/dev/dm-0"
#: The highest status of e2fsck(8) when it has mended all.
_MENDED = 1
_FAULTS = ("none", "dead", "unwritable", "full", "sectors", "sectors")
_FIBMAP = 1
_BLOCK = 4096
#: Seconds within which a disk fails, after the beginning of an act.
_FAILS_WITHIN = 0.4


class Disk:
    """A disk with a file system, below a device whose table is changed."""

    def __init__(self, place: Path, file_system: str) -> None:
        self.place = place
        self._type = file_system
        with open(DEVICE, "rb") as device:
            sectors = device.seek(0, os.SEEK_END) // 512
        self._good = f"0 {sectors} dust {DEVICE} 0 {_BLOCK}"
        self._tables = {
            "dead": f"0 {sectors} error",
            "unwritable": f"0 {sectors} flakey {DEVICE} 0 0 1 1 error_writes",
        }
        run("dmsetup", "create", "--noudevsync", _NAME, "--table", self._good)
        run("dmsetup", "message", _NAME, "0", "enable")
        self.mount()

    def mount(self) -> None:
        """Mount it."""
        self.place.mkdir(exist_ok=True)
        run("mount", "-t", self._type, _DEVICE, str(self.place))

    def again(self) -> None:
        """Make it whole but for lost sectors, and mount it again.

        After errors of writing ext4 says that it has to be checked before.
        """
        self.set(self._good)
        run("dmsetup", "message", _NAME, "0", "enable")
        run("umount", str(self.place))
        if self._type == "ext4":
            checked = subprocess.run(["e2fsck", "-fy", _DEVICE], capture_output=True, check=False)
            if checked.returncode > _MENDED:
                raise Broken(f"the file system is lost: {checked.stdout!r}")
        self.mount()

    def set(self, table: str) -> None:
        """Replace the table of the device; what is under way comes first."""
        run("dmsetup", "suspend", "--noudevsync", "--noflush", "--nolockfs", _NAME)
        run("dmsetup", "load", _NAME, "--table", self._tables.get(table, table))
        run("dmsetup", "resume", "--noudevsync", _NAME)

    def lose(self, rng: random.Random, below: str = "") -> str:
        """Make a sector of a random file unreadable; return its name, empty without files."""
        files = [
            path
            for path in (self.place / below).rglob("*")
            if path.is_file() and not path.is_symlink() and path.stat().st_blocks
        ]
        if not files:
            return ""
        path = rng.choice(files)
        with path.open("rb") as file:
            os.fsync(file.fileno())
            number = rng.randrange(-(-path.stat().st_size // _BLOCK))
            raw = fcntl.ioctl(file.fileno(), _FIBMAP, struct.pack("i", number))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        (block,) = struct.unpack("i", raw)
        if block:
            with suppress(OSError):  # it was lost before
                run("dmsetup", "message", _NAME, "0", "addbadblock", str(block))
        return path.name if block else ""

    @contextmanager
    def failing(self, fault: str, rng: random.Random) -> Iterator[None]:
        """Let it fail at some moment of the context."""
        failing = threading.Timer(rng.random() ** 2 * _FAILS_WITHIN, self.set, [fault])
        failing.start()
        try:
            yield
        finally:
            failing.join()

    @contextmanager
    def full(self, rng: random.Random) -> Iterator[None]:
        """Let it have little free space in the context."""
        found = os.statvfs(self.place)
        left = rng.choice((0, 1, 4, 16, 64, 256)) * _BLOCK
        size = max(found.f_bavail * found.f_frsize - left, 0)
        fill = self.place / "fill"
        with suppress(OSError), fill.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        try:
            yield
        finally:
            fill.unlink(missing_ok=True)


class OneHistory:
    """A history on a disk that fails, and what its points are."""

    def __init__(self, disk: Disk, place: Path, rng: random.Random, counts: Counter[str]) -> None:
        self._disk = disk
        self._rng = rng
        self._counts = counts
        self._place = place
        self._home = disk.place / "history"
        self._trees: dict[int, Tree] = {}
        self._world = World(place / "server", rng)
        #: Whether sectors were lost.
        self._is_lossy = False

    def act(self) -> None:
        """Do something while the disk fails, and check all points."""
        fault = self._rng.choice(_FAULTS)
        if self._rng.random() < 0.7:
            self._world.change(self._rng.randrange(1, 9))
        numbers = sorted(self._trees)
        is_removal = len(numbers) > 3 and self._rng.random() < 0.5
        number = self._rng.choice(numbers[:-1]) if is_removal else max(numbers, default=0) + 1
        tree = seen(self._world.root)
        done = self._removed(number) if is_removal else self._made(number)
        if fault == "sectors":
            lost = [self._disk.lose(self._rng) for _ in range(self._rng.choice((1, 1, 3)))]
            self._is_lossy |= any(lost)
            self._counts["sectors"] += sum(map(bool, lost))
            self._tried(done)
        elif fault == "full":
            with self._disk.full(self._rng):
                self._tried(done)
        elif fault == "none":
            self._tried(done)
        else:
            with self._disk.failing(fault, self._rng):
                self._tried(done)
        self._disk.again()
        self._counts[fault] += 1
        self._check(number, tree, is_removal=is_removal)

    def _tried(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (StorageError, OSError) as error:
            self._counts["failed"] += 1
            if isinstance(error, HistoryDamaged) and not self._is_lossy:
                raise Broken(f"damage without lost sectors: {error}") from error

    def _made(self, number: int) -> Callable[[], None]:
        def act() -> None:
            systems = trusted(self._place)
            with (
                closing(HistoryStore(str(self._home))) as store,
                closing(HistorySource(str(self._world.root), systems, _ignore, FAST)) as source,
            ):
                made = store.make(source, PointLabel.STOPPED)
                if made is not None:
                    self._trees[number] = seen(self._world.root)
                    self._counts["made"] += 1

        return act

    def _removed(self, number: int) -> Callable[[], None]:
        def act() -> None:
            with closing(HistoryStore(str(self._home))) as store:
                store.remove(number)
                del self._trees[number]
                self._counts["removed"] += 1

        return act

    def _check(self, number: int, tree: Tree, *, is_removal: bool) -> None:
        with closing(HistoryStore(str(self._home))) as store:
            found = {point.number for point in store.points()}
            damaged = store.verify()
            listed = found | {each for each, it in damaged.items() if it == EVERYTHING_DAMAGED}
            wanted = set(self._trees)
            if is_removal and number in wanted and number not in found:
                del self._trees[number]
                wanted = set(self._trees)
            elif not is_removal and number in found:
                self._trees.setdefault(number, tree)
                wanted = set(self._trees)
            if not wanted <= listed or not found <= wanted:
                raise Broken(f"points {found} and damaged {set(damaged)}, and not {wanted}")
            if damaged and not self._is_lossy:
                raise Broken(f"damage without lost sectors: {damaged}")
            for each in found:
                self._check_point(store, each, damaged.get(each, ()))
            self._trees = {each: it for each, it in self._trees.items() if each in found}
            if lost := set(damaged) - found:
                for each in lost:
                    store.remove(each)

    def _check_point(self, store: HistoryStore, number: int, damaged: tuple[bytes, ...]) -> None:
        target = self._place / "rebuilt"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        fd = os.open(target, os.O_RDONLY)
        try:
            rebuild(store, number, fd)
        except HistoryDamaged:
            self._counts["damaged points"] += 1
            if not damaged:
                raise
        else:
            self._counts["points"] += 1
            if seen(target) != self._trees[number]:
                raise Broken(f"point {number} is not as it was")
            if damaged:
                raise Broken(f"point {number} is whole, and {damaged} are not")
        finally:
            os.close(fd)


class OneServer:
    """A server on a disk that fails, which is rewound again and again."""

    def __init__(self, disk: Disk, place: Path, rng: random.Random, counts: Counter[str]) -> None:
        self._disk = disk
        self._rng = rng
        self._counts = counts
        self._home = disk.place / "server"
        self._history = place / "history"
        self._place = disk.place / "rewind"
        self._world = World(self._home, rng)

    def act(self) -> None:
        """Rewind the server to a point while the disk fails, and check all of its files."""
        self._world.change(self._rng.randrange(1, 9))
        with closing(HistoryStore(str(self._history))) as store:
            self._point(store)
            number = store.points()[0].number
            then = seen(self._home)
            self._world.change(self._rng.randrange(1, 9))
            drafted = None
            if self._rng.randrange(2):
                lost = self._point(store)
                with self._opened() as rewriting:
                    drafted = rewriting.prepare(store, Wanted(number), lost)
                self._world.change(self._rng.randrange(1, 9))
            before = seen(self._home)
            fault = self._rng.choice(_FAULTS)
            if fault == "sectors":
                self._counts["sectors"] += bool(self._lose())
            os.sync()
            with self._faulty(fault):
                is_committed, is_done = self._tried(store, number, drafted)
            if fault in ("none", "sectors") and not is_done and self._is_writable():
                raise Broken("it is not rewound on a disk that can be written")
            self._disk.again()
            self._counts[f"rewind: {fault}"] += 1
            if is_committed:
                with self._opened() as rewriting:
                    rewriting.apply()
                self._counts["rewound"] += 1
            if seen(self._home) != (then if is_committed else before):
                raise Broken(f"the server is not as {'then' if is_committed else 'before'}")
        shutil.rmtree(self._place, ignore_errors=True)

    def _faulty(self, fault: str) -> AbstractContextManager[None]:
        if fault in ("dead", "unwritable"):
            return self._disk.failing(fault, self._rng)
        return self._disk.full(self._rng) if fault == "full" else nullcontext()

    def _lose(self) -> str:
        """Change a file, so that it is read, and lose a sector of it."""
        lost = self._disk.lose(self._rng, "server")
        for path in self._home.rglob("*"):
            if lost and path.name == lost and path.is_file():
                with suppress(OSError):  # see `_is_writable`
                    os.utime(path)
        return lost

    def _is_writable(self) -> bool:
        """Return whether the file system can be written: a lost sector may have been its own."""
        return not os.statvfs(self._home).f_flag & os.ST_RDONLY

    def _point(self, store: HistoryStore) -> frozenset[bytes]:
        systems = trusted(self._disk.place)
        with closing(HistorySource(str(self._home), systems, _ignore, FAST)) as source:
            store.make(source, PointLabel.STOPPED)
            return source.lost

    def _tried(
        self, store: HistoryStore, number: int, drafted: Difference | None
    ) -> tuple[bool, bool]:
        """Rewind it; return whether the exchange has begun, and whether it is complete."""
        is_committed = False
        try:
            lost = self._point(store)
            self._counts["unreadable files"] += len(lost)
            with self._opened() as rewriting:
                known = drafted or rewriting.prepare(store, Wanted(number), lost)
                rewriting.commit(store, Wanted(number), lost, known)
                self._counts["amended"] += (self._place / "draft").exists()
                is_committed = True
                rewriting.apply()
        except (StorageError, OSError):
            self._counts["failed"] += 1
            return is_committed, False
        return True, True

    def _opened(self) -> Rewriting:
        return Rewriting(str(self._home), str(self._place))


def _ignore(line: str) -> None:
    pass


def main() -> None:
    """Run `count` histories and servers on a file system, and print how often what was done."""
    file_system, *numbers = sys.argv[1:]
    count, seed, acts = map(int, numbers)
    run("umount", f"/run/{file_system}")
    counts: Counter[str] = Counter()
    place = Path("/run/work")
    disk = Disk(Path("/run/disk"), file_system)
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        for path in (place, *(disk.place / name for name in ("history", "server", "rewind"))):
            shutil.rmtree(path, ignore_errors=True)
        place.mkdir()
        kind = OneServer if number % 2 else OneHistory
        tried = kind(disk, place, rng, counts)
        try:
            for _ in range(acts):
                tried.act()
        except BaseException:
            print(f"history {number}, seed {seed}: {dict(counts)}", flush=True)
            raise
        run("dmsetup", "message", "disk", "0", "clearbadblocks")
        print(f"history {number}: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
