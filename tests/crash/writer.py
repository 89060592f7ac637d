"""`python -m tests.crash.writer DIRECTORY SEED [links]`: a server that changes its files.

It stores through shared mappings, writes, truncates, renames, swaps, links, punches holes, clones,
writes past the page cache, and sets times back; directories it renames, swaps and replaces. Each
file that it changes has a pace of its own, between a third of a second and eight seconds, so that
many are changed again after they were read. Some directories stay as they are, and in some only
mapped files are stored into: half of these get some stores into one page, and then rest.
With `links` files have several names for long, else only for a moment.
It runs until it is killed; a line says that it is ready.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import mmap
import os
import random
import resource
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wingsd.filesystem.syscalls import RENAME_EXCHANGE, renameat2

READY = "ready"
PAGE = mmap.PAGESIZE
LINKED = "linked"
"""The prefix of directories whose files have several names from the beginning."""
#: The share of a directory's files that one run changes, and of those the share that is mapped.
ACTIVE = 0.7
MAPPED = 0.5
#: The shares of directories in which files are changed, and only stored into; and seconds between
#: two changes of directories.
BUSY, STORED = 0.3, 0.4
_DIRECTORIES = 0.1
FILE_CHANGES = (
    *("write", "write_hidden", "append", "truncate", "rewrite", "rename", "swap", "link", "punch"),
    *("zero", "set_back", "set_mode", "write_directly", "copy", "clone", "map_again", "flush"),
)
DIRECTORY_CHANGES = (
    *("rename_directory", "swap_directories", "replace_directory", "remove_directory"),
    *("make_directory", "make_directory", "make_symlinks", "make_symlinks"),
    *("set_times_of_directory", "set_mode_of_directory"),
)
#: Seconds between two changes of a file.
PACES = (0.3, 8.0)
#: Of files that are stored into and then rest: how many stores at a time, the seconds from one to
#: the next, and those of a rest.
STORES = (2, 5)
BURST, REST = (0.3, 1.2), (3.0, 9.0)
#: The most bytes that a file grows to.
MAX_SIZE = 100_000
#: The most times that a symlink is replaced in one go, so that several are in one clock step.
_SYMLINKS = 5
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
_FICLONE = 0x40049409
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    """Swap two names."""
    names = os.fsencode(one), os.fsencode(other)
    renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], RENAME_EXCHANGE)


def set_times_of(path: Path | int, found: os.stat_result) -> None:
    """Set the times back to those of an earlier look."""
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


class Writer:
    """Changes files below a directory."""

    def __init__(self, directory: Path, seed: int, *, links: bool) -> None:
        self._chance = random.Random(seed)
        self._links = links
        places = sorted(path for path in directory.rglob("*") if path.is_dir())
        if not links:
            places = [path for path in places if not path.name.startswith(LINKED)]
        self._chance.shuffle(places)
        busy, stored = int(len(places) * BUSY), int(len(places) * (BUSY + STORED))
        #: Where anything is changed.
        self._places = places[:busy]
        active = self._active(self._places)
        #: From this index on files are only stored into.
        self._stored_from = len(active)
        self._paths = [*active, *self._active(places[busy:stored])]
        #: Of files that rest at times: the page that is stored into, and how often it still is.
        self._bursts = {
            index: (0, 0) for index in range(self._stored_from, len(self._paths)) if index % 2
        }
        self._root = directory
        #: Directories that it has made.
        self._own: list[Path] = []
        self._mappings: dict[int, mmap.mmap] = {}
        #: The indexes that a file was mapped for, by its inode: names are swapped meanwhile.
        self._mapped_by: dict[int, set[int]] = {}
        self._page = mmap.mmap(-1, PAGE)
        self._made = 0

    def _active(self, places: list[Path]) -> list[Path]:
        files = sorted(
            path
            for place in places
            for path in place.iterdir()
            if path.is_file() and not path.is_symlink()
        )
        return self._chance.sample(files, int(len(files) * ACTIVE))

    def run(self) -> None:
        """Change files for ever."""
        for index in range(len(self._paths)):
            if index >= self._stored_from or self._chance.random() < MAPPED:
                self._map(index)
        print(READY, flush=True)
        now = time.monotonic()
        due = [(now, -1, _DIRECTORIES)]
        for index in range(len(self._paths)):
            pace = PACES[0] * (PACES[1] / PACES[0]) ** self._chance.random()
            due.append((now + pace * self._chance.random(), index, pace))
        heapq.heapify(due)
        while True:
            at, index, pace = due[0]
            time.sleep(max(at - time.monotonic(), 0))
            with suppress(OSError):  # of names that were replaced, or what the disk cannot do
                self._change(index)
            again = max(at, time.monotonic() - 1) + self._delay(index, pace)
            heapq.heapreplace(due, (again, index, pace))

    def _delay(self, index: int, pace: float) -> float:
        """Return the seconds until a file's next change."""
        if index not in self._bursts:
            return pace * (0.5 + self._chance.random())
        page, left = self._bursts[index]
        if left:
            self._bursts[index] = (page, left - 1)
            return self._chance.uniform(*BURST)
        mapping = self._mappings.get(index, b"")
        page = self._chance.randrange(max(len(mapping) // PAGE, 1))
        self._bursts[index] = (page, self._chance.randint(*STORES))
        return self._chance.uniform(*REST)

    def _change(self, index: int) -> None:
        if index < 0:
            getattr(self, f"_{self._chance.choice(DIRECTORY_CHANGES)}")()
        elif index >= self._stored_from or (
            index in self._mappings and self._chance.random() < 0.8
        ):
            self._store(index)
        else:
            getattr(self, f"_{self._chance.choice(FILE_CHANGES)}")(index)

    def _store(self, index: int) -> None:
        mapping = self._mappings.get(index)
        if mapping is None:
            return
        first, length = 0, len(mapping)
        if index in self._bursts:
            first = self._bursts[index][0] * PAGE
            length = min(PAGE, length - first)
        at = first + self._chance.randrange(length - 8)
        mapping[at : at + 8] = self._chance.randbytes(8)
        if self._chance.random() < (0.1 if index < self._stored_from else 0.01):
            self._set_back(index)

    @contextmanager
    def _opened(self, index: int, flags: int = os.O_RDWR) -> Iterator[tuple[int, os.stat_result]]:
        """Yield a file's descriptor, and its stat result."""
        fd = os.open(self._paths[index], flags | os.O_NOFOLLOW)
        try:
            yield fd, os.fstat(fd)
        finally:
            os.close(fd)

    def _map(self, index: int) -> None:
        """Map a file, made a page long if it is too short to store into."""
        with self._opened(index) as (fd, found):
            size = found.st_size
            if size < 16:
                os.ftruncate(fd, PAGE)
                size = PAGE
            self._mappings[index] = mmap.mmap(fd, size)
            self._mapped_by.setdefault(found.st_ino, set()).add(index)

    def _unmap(self, inode: int) -> None:
        """Unmap a file that is about to get shorter: a store behind its end would be SIGBUS."""
        for index in self._mapped_by.pop(inode, set()):
            self._mappings.pop(index).close()

    def _map_again(self, index: int) -> None:
        if index not in self._mappings:
            self._map(index)
            return
        for inode, indexes in self._mapped_by.items():
            if index in indexes:
                self._unmap(inode)
                return

    def _write(self, index: int) -> None:
        with self._opened(index) as (fd, found):
            at = self._chance.randrange(found.st_size + 1)
            os.pwrite(fd, self._chance.randbytes(self._chance.choice((1, 100, 5000))), at)

    def _write_hidden(self, index: int) -> None:
        """Write as many bytes as were there, and set the times back."""
        with self._opened(index) as (fd, found):
            if found.st_size:
                os.pwrite(fd, self._chance.randbytes(1), self._chance.randrange(found.st_size))
            set_times_of(fd, found)

    def _append(self, index: int) -> None:
        with self._opened(index, os.O_WRONLY | os.O_APPEND) as (fd, found):
            if found.st_size < MAX_SIZE:
                os.write(fd, self._chance.randbytes(self._chance.choice((10, 3000, 40_000))))

    def _truncate(self, index: int) -> None:
        with self._opened(index) as (fd, found):
            self._unmap(found.st_ino)
            size = found.st_size
            os.ftruncate(fd, self._chance.choice((0, size // 2, min(size + 5000, MAX_SIZE))))

    def _rewrite(self, index: int) -> None:
        """Write a file under another name, and rename it over the old one."""
        path = self._paths[index]
        new = path.with_name(f"{path.name[:40]}.new")
        data = self._chance.randbytes(self._chance.choice((20, 6000, 70_000)))
        new.write_bytes(data)
        if self._chance.random() < 0.5:
            set_times_of(new, path.stat())
        new.replace(path)

    def _new_path(self) -> Path:
        return self._chance.choice(self._places) / self._name()

    def _rename(self, index: int) -> None:
        self._paths[index] = self._paths[index].rename(self._new_path())

    def _swap(self, index: int) -> None:
        exchange(self._paths[index], self._chance.choice(self._paths))

    def _link(self, index: int) -> None:
        """Give a file another name, and sometimes let it have both until the next time."""
        old = self._paths[index]
        new = self._new_path()
        os.link(old, new)
        if not self._links or self._chance.random() < 0.8:
            old.unlink()
        self._paths[index] = new

    def _punch(self, index: int) -> None:
        self._allocate(index, _PUNCH_HOLE | _KEEP_SIZE)

    def _zero(self, index: int) -> None:
        self._allocate(index, _ZERO_RANGE | _KEEP_SIZE)

    def _allocate(self, index: int, mode: int) -> None:
        with self._opened(index) as (fd, found):
            at = self._chance.randrange(found.st_size + 1)
            length = self._chance.choice((100, PAGE, 20_000))
            _libc.fallocate(fd, mode, ctypes.c_long(at), ctypes.c_long(length))

    def _set_back(self, index: int) -> None:
        when = self._chance.randrange(10**18)
        os.utime(self._paths[index], ns=(when, when))

    def _set_mode(self, index: int) -> None:
        path = self._paths[index]
        path.chmod(stat.S_IMODE(path.stat().st_mode) ^ 0o040)

    def _write_directly(self, index: int) -> None:
        """Write past the page cache."""
        with self._opened(index, os.O_RDWR | os.O_DIRECT) as (fd, found):
            if pages := found.st_size // PAGE:
                self._page[:] = self._chance.randbytes(PAGE)
                os.pwrite(fd, self._page, self._chance.randrange(pages) * PAGE)

    def _copy(self, index: int) -> None:
        other = self._chance.randrange(len(self._paths))
        with self._opened(index) as (source, _), self._opened(other) as (target, _):
            os.copy_file_range(source, target, 10_000)

    def _clone(self, index: int) -> None:
        """Share blocks with another file, where the file system can."""
        other = self._chance.randrange(len(self._paths))
        with self._opened(index) as (source, _), self._opened(other) as (target, _):
            fcntl.ioctl(target, _FICLONE, source)

    def _flush(self, index: int) -> None:
        if index in self._mappings:
            self._mappings[index].flush()

    # Directories

    def _name(self) -> str:
        self._made += 1
        return f"n{os.getpid()}.{self._made}"

    def _note(self, old: Path, new: Path) -> None:
        """Note that a directory has another path."""
        for paths in (self._places, self._own, self._paths):
            for at, path in enumerate(paths):
                if path.is_relative_to(old):
                    paths[at] = new / path.relative_to(old)

    def _new(self) -> Path:
        return self._chance.choice([self._root, *self._places]) / self._name()

    def _rename_directory(self) -> None:
        old = self._chance.choice(self._places)
        new = self._new()
        if not new.is_relative_to(old):
            old.rename(new)
            self._note(old, new)

    def _swap_directories(self) -> None:
        one, other = self._chance.sample(self._places, 2)
        if not one.is_relative_to(other) and not other.is_relative_to(one):
            exchange(one, other)
            between = self._root / self._name()  # only in what is noted
            for old, new in ((one, between), (other, one), (between, other)):
                self._note(old, new)

    def _replace_directory(self) -> None:
        """Put another directory with the same names, sizes and times in the place of one."""
        old = self._chance.choice(self._places)
        new = self._root / self._name()
        shutil.copytree(old, new, symlinks=True)
        for copied in new.rglob("*"):
            if copied.is_file() and not copied.is_symlink():
                found = copied.stat()
                copied.write_bytes(self._chance.randbytes(found.st_size))
                set_times_of(copied, found)
        set_times_of(new, old.stat())
        exchange(old, new)
        shutil.rmtree(new)

    def _make_directory(self) -> None:
        made = self._new()
        made.mkdir()
        for index in range(self._chance.randrange(3)):
            (made / f"f{index}").write_bytes(self._chance.randbytes(self._chance.randrange(9_000)))
        self._own.append(made)

    def _remove_directory(self) -> None:
        if self._own:
            shutil.rmtree(self._own.pop(self._chance.randrange(len(self._own))))

    def _set_times_of_directory(self) -> None:
        when = self._chance.randrange(10**18)
        os.utime(self._chance.choice(self._places), ns=(when, when))

    def _set_mode_of_directory(self) -> None:
        path = self._chance.choice(self._places)
        path.chmod(0o700 if path.stat().st_mode & 0o055 else 0o755)

    def _make_symlinks(self) -> None:
        """Replace one under the same name, by one with another target of the same length."""
        directory = self._chance.choice(self._places)
        found = directory.stat()
        path = directory / "symlink"
        for _ in range(self._chance.randrange(1, _SYMLINKS)):
            path.unlink(missing_ok=True)
            path.symlink_to(f"target{self._chance.randrange(1000):03}")
        set_times_of(directory, found)


def main() -> None:
    """Run one until it is killed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Writer(Path(sys.argv[1]), int(sys.argv[2]), links="links" in sys.argv[3:]).run()


if __name__ == "__main__":
    main()
