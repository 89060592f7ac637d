"""What the writer does to directories: it renames, swaps, replaces, makes and removes them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from wingsd.filesystem.syscalls import RENAME_EXCHANGE, renameat2

__all__ = ["DirectoryChanges", "exchange"]

#: How often a symlink is made anew in one go: so that several are in one step of the clock.
_SYMLINKS = 5


def exchange(one: Path, other: Path) -> None:
    """Swap two names."""
    here = os.open(one.parent, os.O_RDONLY)
    there = os.open(other.parent, os.O_RDONLY)
    try:
        renameat2(here, os.fsencode(one.name), there, os.fsencode(other.name), RENAME_EXCHANGE)
    finally:
        os.close(here)
        os.close(there)


class DirectoryChanges:
    """Changes the directories `places` below a root; `moved` is told what has another path."""

    def __init__(
        self,
        root: Path,
        places: list[Path],
        chance: random.Random,
        moved: Callable[[Path, Path], object],
    ) -> None:
        self._root = root
        self._places = places
        self._chance = chance
        self._moved = moved
        self._count = 0
        self._own: list[Path] = []
        self._changes: list[Callable[[], object]] = [
            self._rename,
            self._swap,
            self._replace,
            self._make,
            self._make,
            self._remove,
            self._set_times,
            self._set_mode,
            self._make_symlinks,
            self._make_symlinks,
        ]

    def change(self) -> None:
        """Change one. Raises OSError where it cannot be done."""
        self._chance.choice(self._changes)()

    def _name(self) -> str:
        self._count += 1
        return f"p{os.getpid()}.{self._count}"

    def _note(self, old: Path, new: Path) -> None:
        for at, path in enumerate(self._places):
            if path.is_relative_to(old):
                self._places[at] = new / path.relative_to(old)
        self._own = [
            new / path.relative_to(old) if path.is_relative_to(old) else path for path in self._own
        ]
        self._moved(old, new)

    def _rename(self) -> None:
        old = self._chance.choice(self._places)
        new = self._chance.choice([self._root, *self._places]) / self._name()
        if not new.is_relative_to(old):
            old.rename(new)
            self._note(old, new)

    def _swap(self) -> None:
        one, other = self._chance.sample(self._places, 2)
        if not one.is_relative_to(other) and not other.is_relative_to(one):
            exchange(one, other)
            between = self._root / self._name()  # only in what is noted
            for old, new in ((one, between), (other, one), (between, other)):
                self._note(old, new)

    def _replace(self) -> None:
        """Put another directory with the same names, sizes and times in the place of one."""
        old = self._chance.choice(self._places)
        new = self._root / self._name()
        shutil.copytree(old, new, symlinks=True)
        for copied in new.rglob("*"):
            if copied.is_file() and not copied.is_symlink():
                found = copied.stat()
                copied.write_bytes(self._chance.randbytes(found.st_size))
                os.utime(copied, ns=(found.st_atime_ns, found.st_mtime_ns))
        found = old.stat()
        os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
        exchange(old, new)
        shutil.rmtree(new)

    def _make(self) -> None:
        made = self._chance.choice([self._root, *self._places]) / self._name()
        made.mkdir()
        for index in range(self._chance.randrange(3)):
            (made / f"f{index}").write_bytes(self._chance.randbytes(self._chance.randrange(9_000)))
        self._own.append(made)

    def _remove(self) -> None:
        if self._own:
            shutil.rmtree(self._own.pop(self._chance.randrange(len(self._own))))

    def _set_times(self) -> None:
        when = self._chance.randrange(10**18)
        os.utime(self._chance.choice(self._places), ns=(when, when))

    def _set_mode(self) -> None:
        path = self._chance.choice(self._places)
        path.chmod(0o700 if path.stat().st_mode & 0o055 else 0o755)

    def _make_symlinks(self) -> None:
        """Make one anew under the same name, with another target of the same length."""
        place = self._chance.choice(self._places)
        found = place.stat()
        path = place / "symlink"
        for _ in range(self._chance.randrange(1, _SYMLINKS)):
            path.unlink(missing_ok=True)
            path.symlink_to(f"target{self._chance.randrange(1000):03}")
        os.utime(place, ns=(found.st_atime_ns, found.st_mtime_ns))
