"""Random changes of a tree, for hypothesis."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st

from tests.support.attributes import ACCESS, DEFAULT, acl

NAMES = (b"a", b"b", b"c", b"\xff", b"sp ace", b"z" * 200)
SIZES = (0, 1, 4096, 65_536, 65_537, 70_000, 300_000, 1 << 20)

name = st.sampled_from(NAMES)
where = st.integers(0, 10**6)
change = st.tuples(
    st.sampled_from(
        (
            *("file", "file", "big", "directory", "symlink", "hard link", "touch", "mode"),
            *("attribute", "attribute", "acl", "no attribute"),
            *("write", "rewrite", "truncate", "grow", "rename", "rename", "swap", "delete"),
        )
    ),
    where,
    where,
    name,
)


Change = Callable[[bytes, int, bytes], None]


class Changes:
    """Changes a tree, each time some of what is there."""

    def all(self, kind: str) -> list[bytes]:
        found = [self.root] if kind == "d" else []
        for directory, directories, files in os.walk(self.root):
            links = [each for each in directories if os.path.islink(os.path.join(directory, each))]
            below = {
                "d": [each for each in directories if each not in links],
                "f": [each for each in files if not os.path.islink(os.path.join(directory, each))],
                "n": [*directories, *files],
            }[kind]
            found += [os.path.join(directory, each) for each in below]
        return sorted(found)

    def one(self, kind: str, number: int) -> bytes | None:
        found = self.all(kind)
        return found[number % len(found)] if found else None

    def run(self, step: tuple[str, int, int, bytes]) -> None:
        kind, first, second, leaf = step
        directory = self.one("d", first)
        assert directory is not None
        path = os.path.join(directory, leaf)
        with suppress(OSError):
            if kind in ("file", "big"):
                self._make(path, second, len(SIZES) if kind == "big" else 5)
            elif kind == "directory":
                os.mkdir(path)
            elif kind == "symlink":
                os.symlink(leaf, path)
            elif (entry := self.one("n", first)) and kind in self.of_any:
                self.of_any[kind](entry, second, path)
            elif (file := self.one("f", first)) and kind in self.of_files:
                self.of_files[kind](file, second, path)

    def run_one_of(self, kinds: Sequence[str], rng: random.Random) -> None:
        """Run a step of one of these kinds at a random place."""
        where = rng.randrange(10**6), rng.randrange(10**6)
        self.run((rng.choice(kinds), *where, rng.choice(NAMES)))

    @staticmethod
    def _make(path: bytes, number: int, sizes: int) -> None:
        with open(path, "xb") as made:
            size = SIZES[number % sizes]
            made.write(random.Random(number).randbytes(size))
            if number % 3 == 0:
                made.truncate(size + 150_000)

    @staticmethod
    def _touch(entry: bytes, number: int, path: bytes) -> None:
        os.utime(entry, ns=(number * 1_000_003,) * 2, follow_symlinks=False)

    @staticmethod
    def _rename(entry: bytes, number: int, path: bytes) -> None:
        os.rename(entry, path)

    @staticmethod
    def _attribute(entry: bytes, number: int, path: bytes) -> None:
        value = random.Random(number).randbytes(number % 900)
        os.setxattr(entry, f"user.{number % 3}", value, follow_symlinks=False)

    @staticmethod
    def _acl(entry: bytes, number: int, path: bytes) -> None:
        bits, users = number % 8, {4001 + number % 2: number % 7}
        value = acl(users=users, owner=7, group=bits, mask=(number >> 3) % 8)
        name = DEFAULT if number % 2 and os.path.isdir(entry) else ACCESS
        os.setxattr(entry, name, value, follow_symlinks=False)

    @staticmethod
    def _no_attribute(entry: bytes, number: int, path: bytes) -> None:
        names = os.listxattr(entry, follow_symlinks=False)
        if names:
            os.removexattr(entry, names[number % len(names)], follow_symlinks=False)

    @staticmethod
    def _delete(entry: bytes, number: int, path: bytes) -> None:
        if os.path.isdir(entry) and not os.path.islink(entry):
            shutil.rmtree(entry)
        else:
            os.unlink(entry)

    @staticmethod
    def _write(file: bytes, number: int, path: bytes) -> None:
        data = random.Random(number)
        with open(file, "r+b") as opened:
            opened.seek(data.randrange(os.path.getsize(file) + 1))
            opened.write(data.randbytes(5_000))

    @staticmethod
    def _rewrite(file: bytes, number: int, path: bytes) -> None:
        shutil.copy(file, path + b".new")
        os.rename(path + b".new", file)

    @staticmethod
    def _truncate(file: bytes, number: int, path: bytes) -> None:
        os.truncate(file, number % (os.path.getsize(file) + 1))

    @staticmethod
    def _grow(file: bytes, number: int, path: bytes) -> None:
        os.truncate(file, os.path.getsize(file) + number % 200_000)

    def _swap(self, file: bytes, number: int, path: bytes) -> None:
        if (other := self.one("f", number)) and file != other:
            os.rename(file, self.root + b"/swap")
            os.rename(other, file)
            os.rename(self.root + b"/swap", other)

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self.of_any: dict[str, Change] = {
            "touch": self._touch,
            "rename": self._rename,
            "delete": self._delete,
            "attribute": self._attribute,
            "acl": self._acl,
            "no attribute": self._no_attribute,
        }
        self.of_files: dict[str, Change] = {
            "hard link": lambda file, number, path: os.link(file, path),
            "mode": lambda file, number, path: os.chmod(file, number % 0o1000),
            "write": self._write,
            "rewrite": self._rewrite,
            "truncate": self._truncate,
            "grow": self._grow,
            "swap": self._swap,
        }
