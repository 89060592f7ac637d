"""`python -m tests.races.attacker DIRECTORY SEED`: what a server's program may do to trick a node.

It swaps pairs of names for each other: directories for symlinks that
lead out, files for FIFOs and devices, directories for others higher up. What actions of the node
have moved or deleted it makes again. It has only descriptors of directories inside, so that it
never leaves the directory itself.
"""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import suppress

import attrs

from wingsd.filesystem.syscalls import RENAME_EXCHANGE, renameat2

#: Swaps between two looks at whether all pairs are still there.
ROUND = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_TEMPORARY = re.compile(r"\.wingsd-[0-9a-f]{32}\.part")

Make = Callable[[int, str], object]


def file(parent: int, name: str) -> None:
    """Make a regular file."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=parent)
    os.write(fd, b"inside: 1\n")
    os.close(fd)


def tree(parent: int, name: str) -> None:
    """Make a directory with the same names as those outside, but for the canaries."""
    os.mkdir(name, 0o755, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    for each in ("f", "g"):
        file(fd, each)
    os.symlink("inside", "l", dir_fd=fd)
    os.mkdir("b", dir_fd=fd)
    below = os.open("b", _DIRECTORY, dir_fd=fd)
    file(below, "f")
    os.close(below)
    os.close(fd)


def link(text: str) -> Make:
    """Return what makes a symlink."""
    return lambda parent, name: os.symlink(text, name, dir_fd=parent)


def fifo(parent: int, name: str) -> None:
    """Make a FIFO."""
    os.mkfifo(name, dir_fd=parent)


def device(parent: int, name: str) -> None:
    """Make the device /dev/zero, which can be read for ever; a FIFO without root."""
    try:
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(1, 5), dir_fd=parent)
    except PermissionError:
        fifo(parent, name)


@attrs.frozen
class Side:
    """A name in a directory and what it is at first."""

    parent: int
    name: str
    make: Make
    kind: int

    def found(self) -> int:
        """Return the kind of what is there now, 0 for nothing."""
        with suppress(FileNotFoundError):
            return stat.S_IFMT(os.lstat(self.name, dir_fd=self.parent).st_mode)
        return 0

    def remove(self) -> None:
        """Delete what is there."""
        with suppress(FileNotFoundError):
            if self.found() == stat.S_IFDIR:
                shutil.rmtree(self.name, ignore_errors=True, dir_fd=self.parent)
            else:
                os.unlink(self.name, dir_fd=self.parent)


@attrs.frozen
class Pair:
    """Two names that are swapped."""

    one: Side
    other: Side

    def swap(self) -> None:
        """Exchange them at once."""
        one, other = self.one, self.other
        with suppress(FileNotFoundError):
            names = os.fsencode(one.name), os.fsencode(other.name)
            renameat2(one.parent, names[0], other.parent, names[1], RENAME_EXCHANGE)

    def repair(self) -> None:
        """Make both again unless they are what they are to be, in either order."""
        kinds = sorted((self.one.kind, self.other.kind))
        if sorted((self.one.found(), self.other.found())) == kinds and self._is_filled():
            return
        for side in (self.one, self.other):
            side.remove()
            with suppress(OSError):  # of something that was made there in between
                side.make(side.parent, side.name)

    def _is_filled(self) -> bool:
        for side in (self.one, self.other):
            if side.found() == stat.S_IFDIR:
                with suppress(OSError):
                    fd = os.open(side.name, _DIRECTORY, dir_fd=side.parent)
                    try:
                        return len(os.listdir(fd)) in range(4, 40)
                    finally:
                        os.close(fd)
                return False
        return True


def pairs(home: int, outside: str) -> list[Pair]:
    """Make what stays where it is; return what is swapped."""
    for name in ("a", "z"):
        os.mkdir(name, dir_fd=home)
    a, z = (os.open(name, _DIRECTORY, dir_fd=home) for name in ("a", "z"))
    os.mkdir("b", dir_fd=a)
    b = os.open("b", _DIRECTORY, dir_fd=a)
    tree(a, "x")
    # Leads out where ".." is that of the directory by now.
    os.symlink("a/b/c/../../../x", "via", dir_fd=home)
    os.symlink("a/b/c/../../x", "via2", dir_fd=home)
    regular, directory, symlink = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
    sides = [
        ((home, "x", tree, directory), (home, "x.out", link("../outside"), symlink)),
        ((home, "y", tree, directory), (home, "y.out", link(outside), symlink)),
        ((home, "f", file, regular), (home, "f.out", link("../outside/f"), symlink)),
        ((home, "g", file, regular), (home, "g.fifo", fifo, stat.S_IFIFO)),
        ((home, "h", file, regular), (home, "h.directory", tree, directory)),
        ((home, "k", file, regular), (home, "k.device", device, stat.S_IFCHR)),
        ((z, "d", tree, directory), (z, "d.out", link("../../outside"), symlink)),
        ((z, "f", file, regular), (z, "f.out", link("../../outside/f"), symlink)),
        ((b, "c", tree, directory), (home, "m", tree, directory)),
    ]
    return [Pair(Side(*one), Side(*other)) for one, other in sides]


def swap_new_files(home: int) -> None:
    """Put a symlink in the place of a file that is being written."""
    for name in os.listdir(home):
        if _TEMPORARY.fullmatch(name):
            with suppress(OSError):
                os.symlink("../outside/f", "new.out", dir_fd=home)
            with suppress(OSError):
                renameat2(home, os.fsencode(name), home, b"new.out", RENAME_EXCHANGE)


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
