"""A server's directory that changes at random, and a model of its history in memory."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import pytest
from attrs import define, field

from tests.crash.mortal import Death, Life, points_of_the_system
from tests.support.archives import Tree, seen
from tests.support.points import rebuild
from wingsd.errors import HistoryFull, PointNamed, StorageError
from wingsd.history.capture import HistorySource
from wingsd.history.format import BLOCK, Point, PointLabel
from wingsd.history.names import PointName
from wingsd.history.reading import past_files
from wingsd.history.store import HistoryStore
from wingsd.moves.unchanged import KernelCalls, MeasuredFileSystems

__all__ = ["FAST", "Model", "World", "bad_block", "distrusted", "trusted"]

T = TypeVar("T")

_HOUR = 3600 * 10**9
#: All that was not changed just now is settled, and nothing is waited for.
FAST = KernelCalls(
    wall_time=lambda: time.time_ns() + _HOUR, pause=lambda seconds: None, sync=lambda fd: None
)
_NAMES = (b"a", b"b", b"c", b"a.b", b" ", b"\xff\n", b"-", b"n" * 255)
_MODES = (0o600, 0o644, 0o755, 0o640)
_SIZES = (0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 10 * BLOCK + 7)
_MOST_FILES = 40
#: What a history takes beside points: stamps, and what is known of it.
_LITTLE = 4 * BLOCK


def trusted(directory: Path) -> MeasuredFileSystems:
    """Return what says that the rule holds in a directory, measured or not."""
    found = MeasuredFileSystems(type_of=lambda fd: "ext4")
    found._objections[directory.stat().st_dev] = ""
    return found


def distrusted() -> MeasuredFileSystems:
    """Return what says that the rule holds nowhere."""
    return MeasuredFileSystems(is_allowed=False)


def _is_file(path: bytes) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


@define
class World:
    """The directory of a server with at most so many files, and what draws the changes."""

    root: Path
    rng: random.Random
    most: int = _MOST_FILES
    #: The ctime at which something was changed last, or a later one.
    _noted: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)

    def change(self, count: int) -> None:
        """Make so many changes, all at another ctime than those before."""
        while self._ctime() == self._noted:
            pass
        for _ in range(count):
            with suppress(OSError):  # a name is in use, or something of another kind
                self.rng.choice(self._acts())()
        self.note()

    def note(self) -> None:
        """Note that files may have changed just now: later changes are made at another ctime."""
        self._noted = self._ctime()

    def _ctime(self) -> int:
        """Return the ctime that a change gets now."""
        probe = self.root.parent / "tick"
        probe.write_bytes(b"")
        return probe.stat().st_ctime_ns

    def _acts(self) -> list[Callable[[], object]]:
        often = [self._write, self._overwrite, self._overwrite, self._resize]
        rare = [self._directory, self._remove, self._rename, self._symlink, self._hard_link]
        return [*often, *rare, self._metadata, self._replace, self._attribute, self._grow]

    def _new(self) -> bytes:
        directories = [os.fsencode(self.root), *self._found(os.path.isdir)]
        return os.path.join(self.rng.choice(directories), self.rng.choice(_NAMES))

    def _found(self, is_kind: Callable[[bytes], bool]) -> list[bytes]:
        every = [
            os.path.join(directory, name)
            for directory, directories, files in os.walk(os.fsencode(self.root))
            for name in (*directories, *files)
        ]
        return sorted(path for path in every if is_kind(path) and len(path) < 2000)

    def files(self) -> list[bytes]:
        """Return all names of regular files, relative to the root."""
        return [os.path.relpath(path, os.fsencode(self.root)) for path in self._found(_is_file)]

    def _file(self) -> bytes:
        files = self._found(_is_file)
        if not files:
            raise FileNotFoundError
        return self.rng.choice(files)

    def _any(self) -> bytes:
        found = self._found(os.path.lexists)
        if not found:
            raise FileNotFoundError
        return self.rng.choice(found)

    def _bytes(self, size: int) -> bytes:
        kind = self.rng.randrange(4)
        if kind == 0:
            return bytes(size)
        if kind == 1:
            return bytes([self.rng.randrange(256)]) * size
        return self.rng.randbytes(size)

    def _size(self) -> int:
        return self.rng.choice(_SIZES) + self.rng.choice((0, 0, self.rng.randrange(3 * BLOCK)))

    def _write(self) -> None:
        if len(self._found(os.path.lexists)) >= self.most:
            self._remove()
        with open(self._new(), "xb") as file:
            file.write(self._bytes(self._size()))

    def _overwrite(self) -> None:
        with open(self._file(), "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for _ in range(self.rng.randrange(1, 4)):
                file.seek(self.rng.randrange(size + 1))
                file.write(self._bytes(self.rng.choice((1, 100, BLOCK, 2 * BLOCK))))

    def _resize(self) -> None:
        os.truncate(self._file(), self._size())

    def _grow(self) -> None:
        with open(self._file(), "ab") as file:
            file.write(self._bytes(self._size()))

    def _directory(self) -> None:
        os.mkdir(self._new(), self.rng.choice((0o700, 0o755)))

    def _remove(self) -> None:
        path = self._any()
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def _rename(self) -> None:
        os.rename(self._any(), self._new())

    def _symlink(self) -> None:
        os.symlink(self.rng.choice((b"a", b"../b", b"/etc/passwd")), self._new())

    def _hard_link(self) -> None:
        os.link(self._any(), self._new(), follow_symlinks=False)

    def _metadata(self) -> None:
        path = self._any()
        os.utime(path, ns=(0, self.rng.randrange(-(10**9), 10**18)), follow_symlinks=False)
        if not os.path.islink(path):
            os.chmod(path, self.rng.choice((0o700, 0o755)) if os.path.isdir(path) else 0o644)
        if os.path.isfile(path) and not os.path.islink(path):
            os.chmod(path, self.rng.choice(_MODES))

    def _attribute(self) -> None:
        path = self._any()
        if not os.path.islink(path):
            os.setxattr(path, b"user." + self.rng.choice((b"a", b"b")), self._bytes(10))

    def _replace(self) -> None:
        path = self._file()
        new = path[:200] + b".new"
        with open(new, "wb") as file:
            file.write(self._bytes(self._size()))
        os.rename(new, path)


class Faulty(Life):
    """A life in which calls that need space, or any that change files, fail from a point on."""

    def __init__(self, at: int, code: int, count: int) -> None:
        super().__init__("faulty", lambda: None)
        self._at, self._code, self._left = at, code, count
        self.failed = 0

    def passes(self, kind: str, what: str) -> bool:
        """Raise OSError where the call fails."""
        passed = super().passes(kind, what)
        needs_space = what in ("write", "pwrite", "mkdir", "fsync", "ftruncate", "syncfs")
        is_counted = kind == "change" and (needs_space or self._code == errno.EIO)
        if is_counted:
            self._at -= 1
            if self._at < 0 < self._left:
                self._left -= 1
                self.failed += 1
                raise OSError(self._code, os.strerror(self._code))
        return passed


@contextmanager
def bad_block(path: Path, number: int) -> Iterator[None]:
    """Let the reading of a block of a file fail, as on a disk with a bad sector."""
    inode, read = path.stat().st_ino, os.pread

    def failing(fd: int, length: int, at: int) -> bytes:
        is_there = at < (number + 1) * BLOCK and at + length > number * BLOCK
        if is_there and os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, length, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", failing)
        yield


@define(slots=False)
class Model:
    """A store with its server's directory, and what each point has to be."""

    directory: Path
    rng: random.Random
    is_trusted: bool = True
    max_size: int | None = None
    most_files: int = _MOST_FILES
    trees: dict[int, Tree] = field(init=False, factory=dict)
    #: How often an act was interrupted.
    interrupted: int = field(init=False, default=0)
    kinds: dict[str, int] = field(init=False, factory=dict)
    #: The points that have names.
    names: dict[str, int] = field(init=False, factory=dict)
    #: How many changes of files acts have made so far, at most.
    _most: int = field(init=False, default=40)

    def __attrs_post_init__(self) -> None:
        self.world = World(self.directory / "server", self.rng, self.most_files)
        self.store = self._opened()
        systems = trusted(self.directory) if self.is_trusted else distrusted()
        self.source = HistorySource(
            str(self.world.root), systems, lambda line: None, FAST, self.rng
        )

    def _opened(self) -> HistoryStore:
        return HistoryStore(str(self.directory / "history"), max_size=self.max_size)

    def _source(self) -> HistorySource:
        systems = trusted(self.directory) if self.is_trusted else distrusted()
        root = str(self.world.root)
        return HistorySource(root, systems, lambda line: None, FAST, random.Random(1))

    def close(self) -> None:
        """Close the store and the source."""
        self.store.close()
        self.source.close()

    def numbers(self) -> list[int]:
        """Return the numbers of the points."""
        return [point.number for point in self.store.points()]

    def make(self) -> Point | None:
        """Make a point."""
        label = self.rng.choice([*PointLabel])
        self.world.note()
        made = self.store.make(self.source, label)
        if made is not None:
            self.trees[made.number] = seen(self.world.root)
        return made

    def _make(self) -> None:
        with suppress(HistoryFull):
            self.make()
            if self.max_size is not None:
                assert self.store.size <= self.max_size + _LITTLE

    def reopen(self, *, source: bool = False) -> None:
        """Open the store again, as after a restart; with `source` the server's directory, too."""
        self.store.close()
        if source:
            self.source.close()
            self.source = self._source()
        self.store = self._opened()

    def check(self, *, only: int | None = None) -> None:
        """Rebuild points and compare them with the model."""
        for number in self.numbers() if only is None else [only]:
            assert self.rebuilt(number) == self.trees[number], f"point {number}"
            self._check_reading(number)

    def _check_reading(self, number: int) -> None:
        """Compare what is read of a point with the tree that was rebuilt last."""
        rebuilt = os.fsencode(self.directory / "rebuilt")
        with past_files(self.store, number) as past, TemporaryFile(buffering=0) as copy:
            for path, directories, files in os.walk(rebuilt):
                place = os.path.relpath(path, rebuilt)
                inside = b"" if place == b"." else place + b"/"
                found = [entry.path for entry in past.directory(inside[:-1])]
                names = sorted(inside + name for name in (*directories, *files))
                assert sorted(found) == names, f"point {number}: {place!r}"
                for name in files:
                    file = os.path.join(path, name)
                    if os.path.isfile(file) and not os.path.islink(file):
                        os.ftruncate(copy.fileno(), 0)
                        past.copy(inside + name, copy.fileno())
                        size = os.stat(file).st_size
                        data = os.pread(copy.fileno(), size + 1, 0)
                        assert data == Path(os.fsdecode(file)).read_bytes()

    def rebuilt(self, number: int) -> Tree:
        """Return the tree of a point."""
        target = self.directory / "rebuilt"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        fd = os.open(target, os.O_RDONLY)
        try:
            rebuild(self.store, number, fd)
        finally:
            os.close(fd)
        return seen(target)

    def act(self, *, keeps_oldest: bool = False) -> None:
        """Do something at random, which may be interrupted."""
        kind = self.rng.choice((*["make"] * 5, "name", "remove", "reopen", "check", "restart"))
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        numbers = self.numbers()
        if kind == "make":
            self.world.change(self.rng.randrange(1, 7))
            self.may_fail(self._make)
        elif kind == "remove" and len(numbers) > 1 + keeps_oldest:
            number = self.rng.choice(numbers[1:-1] if keeps_oldest else numbers[1:])
            if number in self.names.values():
                with pytest.raises(PointNamed):
                    self.store.remove(number)
            else:
                self.may_fail(lambda: self.store.remove(number))
            if number not in self.numbers():
                del self.trees[number]
        elif kind == "name" and numbers:
            self._name(self.rng.choice(self.store.points()))
        elif kind == "check" and numbers:
            self.check(only=self.rng.choice(numbers))
        elif kind in ("reopen", "restart"):
            self.reopen(source=kind == "restart")
        self._compare()

    def _name(self, point: Point) -> None:
        """Give a name, or remove one."""
        name = self.rng.choice("xyz")
        after = dict(self.names)
        if name in self.names and self.rng.random() < 0.6:
            del after[name]
            self.may_fail(lambda: self.store.unname(name))
        else:
            after[name] = point.number
            given = PointName(name, point.number, point.root.hex(), 1.5, "test", ignored=("a\n",))
            self.may_fail(lambda: self.store.name(given))
        self.reopen()
        known = self.store.names or {}
        found = {each.name: each.number for each in known.values()}
        assert found in (self.names, after)
        self.names = found

    def _compare(self) -> None:
        """Compare the numbers of points with the model's."""
        numbers = self.numbers()
        assert set(self.names.values()) <= set(numbers)
        if self.max_size is not None:
            for number in [*self.trees]:
                if number not in numbers:
                    del self.trees[number]
        assert numbers == sorted(self.trees, reverse=True)

    def may_fail(self, act: Callable[[], object]) -> None:
        """Do it; in some cases the process dies, the disk is full or fails meanwhile."""
        fault = self.rng.randrange(4)
        if fault == 0:
            act()
            return
        at = self.rng.randrange(self._most)
        code = self.rng.choice((errno.ENOSPC, errno.EIO))
        life: Life = (
            Faulty(at, code, self.rng.choice((1, 1, 2, 1000)))
            if fault == 1
            else Life("", _nothing)
        )
        if fault > 1:
            life.plan(Death("change", at + 1))
        number = max(self.trees, default=0) + 1
        with points_of_the_system(), suppress(StorageError):
            life.run(act)
        self._most = max(self._most, life.counts["change"] * 5 // 4)
        is_failed = life.is_dead or (isinstance(life, Faulty) and life.failed > 0)
        self.interrupted += bool(is_failed)
        if life.is_dead or self.rng.randrange(2):
            self.reopen(source=life.is_dead and self.rng.random() < 0.5)
        # it may have been made, and not been reported
        if number in self.numbers() and number not in self.trees:
            self.trees[number] = seen(self.world.root)


def _nothing() -> None:
    pass


@contextmanager
def model(
    directory: Path, seed: int, *, max_size: int | None = None, most_files: int = _MOST_FILES
) -> Iterator[Model]:
    """Yield a model whose history is drawn by a seed."""
    rng = random.Random(seed)
    made = Model(directory, rng, rng.random() < 0.7, max_size, most_files)
    try:
        yield made
    finally:
        made.close()
