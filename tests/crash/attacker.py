"""`python -m tests.crash.attacker DIRECTORY SEED`: a server's program that tries to trick a node.

It swaps pairs of names: directories for symlinks that lead out, files for FIFOs and devices,
directories for others higher up. It makes again what actions of the node have moved or deleted. It
has only descriptors of directories inside, so that it never leaves the directory itself.
"""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import attrs

from wingsd.filesystem.syscalls import RENAME_EXCHANGE, renameat2

#: Swaps between two looks at whether all pairs are still there.
ROUND = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_TEMPORARY = re.compile(r"\.wingsd-[0-9a-f]{32}\.part")


@contextmanager
def opened(parent: int, name: str) -> Iterator[int]:
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def file(parent: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    fd = os.open(name, flags, dir_fd=parent)
    os.write(fd, b"inside: 1\n")
    os.close(fd)


def tree(parent: int, name: str) -> None:
    """Make a directory with the same names as those outside, but for the canaries."""
    os.mkdir(name, 0o755, dir_fd=parent)
    with opened(parent, name) as fd:
        for each in ("f", "g"):
            file(fd, each)
        os.symlink("inside", "l", dir_fd=fd)
        os.mkdir("b", dir_fd=fd)
        with opened(fd, "b") as below:
            file(below, "f")


def fifo(parent: int, name: str) -> None:
    os.mkfifo(name, dir_fd=parent)


def device(parent: int, name: str) -> None:
    """Make the device /dev/zero, which can be read for ever; a FIFO without root."""
    try:
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(1, 5), dir_fd=parent)
    except PermissionError:
        fifo(parent, name)


@attrs.frozen
class Side:
    """A name in a directory, and what it is at first: of a `kind`, or a symlink to `make`."""

    parent: int
    name: str
    kind: int
    make: Callable[[int, str], object] | str

    def found(self) -> int:
        """Return the kind of what is there now, 0 for nothing."""
        with suppress(FileNotFoundError):
            return stat.S_IFMT(os.lstat(self.name, dir_fd=self.parent).st_mode)
        return 0

    def replace(self) -> None:
        """Delete what is there, and make what is to be there."""
        with suppress(FileNotFoundError):
            if self.found() == stat.S_IFDIR:
                shutil.rmtree(self.name, ignore_errors=True, dir_fd=self.parent)
            else:
                os.unlink(self.name, dir_fd=self.parent)
        with suppress(OSError):  # of something that was made there in between
            if isinstance(self.make, str):
                os.symlink(self.make, self.name, dir_fd=self.parent)
            else:
                self.make(self.parent, self.name)

    @property
    def is_filled(self) -> bool:
        """True if it is no directory, or one with a usual number of names."""
        if self.found() != stat.S_IFDIR:
            return True
        with suppress(OSError), opened(self.parent, self.name) as fd:
            return len(os.listdir(fd)) in range(4, 40)
        return False


@attrs.frozen
class Pair:
    """Two names that are swapped."""

    one: Side
    other: Side

    def swap(self) -> None:
        """Exchange them at once."""
        exchange(self.one.parent, self.one.name, self.other.parent, self.other.name)

    def repair(self) -> None:
        """Make both again unless they are what they are to be, in either order."""
        sides = (self.one, self.other)
        are_there = sorted(side.found() for side in sides) == sorted(side.kind for side in sides)
        if not are_there or not all(side.is_filled for side in sides):
            for side in sides:
                side.replace()


def exchange(parent: int, name: str, other_parent: int, other: str) -> None:
    with suppress(FileNotFoundError):
        names = os.fsencode(name), os.fsencode(other)
        renameat2(parent, names[0], other_parent, names[1], RENAME_EXCHANGE)


def pairs(home: int, outside: str) -> list[Pair]:
    """Make what stays where it is; return what is swapped."""
    for name in ("a", "z"):
        os.mkdir(name, dir_fd=home)
    a, z = (os.open(name, _DIRECTORY, dir_fd=home) for name in ("a", "z"))
    os.mkdir("b", dir_fd=a)
    b = os.open("b", _DIRECTORY, dir_fd=a)
    tree(a, "x")
    # These lead out where ".." is that of the directory by now.
    os.symlink("a/b/c/../../../x", "via", dir_fd=home)
    os.symlink("a/b/c/../../x", "via2", dir_fd=home)
    regular, directory, link = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
    sides: list[tuple[Side, Side]] = [
        (Side(home, "x", directory, tree), Side(home, "x.out", link, "../outside")),
        (Side(home, "y", directory, tree), Side(home, "y.out", link, outside)),
        (Side(home, "f", regular, file), Side(home, "f.out", link, "../outside/f")),
        (Side(home, "g", regular, file), Side(home, "g.fifo", stat.S_IFIFO, fifo)),
        (Side(home, "h", regular, file), Side(home, "h.directory", directory, tree)),
        (Side(home, "k", regular, file), Side(home, "k.device", stat.S_IFCHR, device)),
        (Side(z, "d", directory, tree), Side(z, "d.out", link, "../../outside")),
        (Side(z, "f", regular, file), Side(z, "f.out", link, "../../outside/f")),
        (Side(b, "c", directory, tree), Side(home, "m", directory, tree)),
    ]
    return [Pair(one, other) for one, other in sides]


def swap_new_files(home: int) -> None:
    """Put a symlink in the place of a file that is being written."""
    for name in os.listdir(home):
        if _TEMPORARY.fullmatch(name):
            with suppress(OSError):
                os.symlink("../outside/f", "new.out", dir_fd=home)
            with suppress(OSError):
                exchange(home, name, home, "new.out")


def main() -> None:
    """Attack until the standard input ends; answer each byte of it when all pairs are there."""
    directory, seed = sys.argv[1:]
    home = os.open(directory, _DIRECTORY)
    swapped = pairs(home, os.path.join(os.path.dirname(directory), "outside"))
    chance = random.Random(seed)
    while True:
        for pair in swapped:
            pair.repair()
        if select.select([0], [], [], 0)[0]:
            if not os.read(0, 1):
                return
            os.write(1, b".")
        for _ in range(ROUND):
            chance.choice(swapped).swap()
        swap_new_files(home)


if __name__ == "__main__":
    main()
