"""A name on a path is swapped for a link that leads out, before each system call of an action.

`tests.races` finds what happens often enough; this goes through all places where it can happen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import pytest

from tests.races.scene import MARK, OUTSIDE_MODE, OUTSIDE_SIZE, Scene, Touched
from wingsd.errors import WingsdError
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.new_file import NewFileOptions
from wingsd.filesystem.openers import DirectoryOpener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.syscalls import RENAME_EXCHANGE, openat2, renameat2
from wingsd.filesystem.writable_file import OpenFiles

pytestmark = pytest.mark.promise("files-stay-inside-the-server")

AT_FDCWD = -100
OWNER = (54321, 54321)
p = ServerPath.parse
FAST = NewFileOptions(durable=False)
#: Calls with a name. Whether a swap is before or after one with a descriptor makes no difference.
CALLS = (
    *("open", "lstat", "stat", "readlink", "scandir", "unlink", "rmdir", "mkdir", "rename"),
    *("chmod", "utime", "link", "symlink", "chown"),
)
#: More than any action has.
MOST = 60
#: Paths, and what on them is swapped for the links: names, those that are made meanwhile too.
SWAPS = (
    ("x/b/f", "x"),
    ("x/b/f", "x/b"),
    ("x/b/f", "x/b/f"),
    ("x/b/f", "x/b/new"),
    ("x/b/f", "x/b/.wingsd-*"),
    ("x/b", "x"),
    ("x/b", "x/b"),
    ("x/b", "x/new"),
    ("x/b", "x/.wingsd-*"),
)


def inside(entry: Entry) -> None:
    if entry.size == OUTSIDE_SIZE or entry.permissions == OUTSIDE_MODE:
        raise Touched(f"its attributes were read: {entry}")


def read(root: ServerRoot, path: ServerPath) -> None:
    with root.open_file(path) as file:
        inside(file.entry)
        if file.read(100).startswith(MARK):
            raise Touched("its content was read")


def listed(root: ServerRoot, path: ServerPath) -> None:
    with root.directory(path) as directory:
        for entry in directory.entries():
            if entry.name == b"canary":
                raise Touched("it was listed")
            inside(entry)


def link_text(root: ServerRoot, path: ServerPath) -> None:
    if root.link_text(path.parent.child(b"l")) == MARK:
        raise Touched("a symlink was read")


def create(root: ServerRoot, path: ServerPath) -> None:
    with root.writable_file(path, OpenFiles(), mode=0o644) as file:
        file.write_at(0, b"new")


def in_place(root: ServerRoot, path: ServerPath) -> None:
    with root.writable_file(path, OpenFiles()) as file:
        inside(file.stat())
        file.write_at(0, b"new")


ACTIONS: MappingProxyType[str, Callable[[ServerRoot, ServerPath], object]] = MappingProxyType(
    {
        "stat": lambda root, path: inside(root.stat(path)),
        "read": read,
        "list": listed,
        "read link": link_text,
        "write": lambda root, path: root.write(path, [b"new"], FAST),
        "write new": lambda root, path: root.write(path.joined("../new"), [b"new"], FAST),
        "create": lambda root, path: create(root, path.joined("../new")),
        "create in a new directory": lambda root, path: create(root, path.joined("../new/deep")),
        "write in place": in_place,
        "copy from": lambda root, path: inside(root.copy(path, p("copy"), FAST)),
        "copy to": lambda root, path: root.copy(p("own"), path.joined("../new"), FAST),
        "make directory": lambda root, path: root.make_directory(path.joined("../new/deep")),
        "rename from": lambda root, path: root.rename(path, p("renamed")),
        "rename to": lambda root, path: root.rename(p("own"), path, replace=True),
        "remove": ServerRoot.remove,
        "chmod": lambda root, path: root.set_mode(path, 0o700),
        "utimes": lambda root, path: root.set_times(path, 1, 1),
    }
)


class Swap:
    """Exchanges a name, or a pattern's, for a link that leads out, before one of many calls."""

    def __init__(self, home: Path, pattern: str) -> None:
        self._home = home
        self._pattern = pattern
        self._left = 0

    def now(self) -> None:
        """Exchange them, if the name is there."""
        self._left = -1
        name, _, _ = self._pattern.partition("-*")
        for found in self._home.glob(self._pattern):
            here, there = os.fsencode(found), os.fsencode(self._home / f"{name}.out")
            renameat2(AT_FDCWD, here, AT_FDCWD, there, RENAME_EXCHANGE)

    @contextmanager
    def before(self, number: int) -> Iterator[None]:
        """Have call `number` of this context, from 0, happen after the exchange."""
        self._left = number
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._wrapped(getattr(os, name)))
            patch.setattr("wingsd.filesystem.openers.openat2", self._wrapped(openat2))
            patch.setattr("wingsd.filesystem.new_file.renameat2", self._wrapped(renameat2))
            yield

    @property
    def has_happened(self) -> bool:
        """Whether there was such a call."""
        return self._left < 0

    def _wrapped(self, call: Callable[..., object]) -> Callable[..., object]:
        def swapped(*arguments: object, **named: object) -> object:
            if self._left == 0:
                self.now()
            else:
                self._left -= 1
            return call(*arguments, **named)

        return swapped


def build(home: Path) -> None:
    """Make `x/b/f`, and beside each name on it a link to the same outside."""
    (home / "x/b").mkdir(parents=True)
    for name in ("x/b/f", "x/f", "own"):
        (home / name).write_bytes(b"inside")
    for name in ("x/l", "x/b/l"):
        (home / name).symlink_to("inside")
    for name, outside in {
        "x": "",
        "x/b": "/b",
        "x/new": "/b",
        "x/.wingsd": "/f",
        "x/b/f": "/b/f",
        "x/b/new": "/b",
        "x/b/.wingsd": "/f",
    }.items():
        up = "../" * (2 + name.count("/"))
        (home / f"{name}.out").symlink_to(f"{up}outside{outside}")


@pytest.fixture
def scene() -> Iterator[Scene]:
    # In memory, since many directories are made.
    with TemporaryDirectory(dir="/dev/shm") as top:
        scene = Scene(Path(top))
        yield scene
        scene.close()


@pytest.mark.promise("files-stay-inside-the-server")
@pytest.mark.parametrize("action", ACTIONS)
def test_a_swap_before_any_system_call_leads_nowhere(
    scene: Scene, opener: DirectoryOpener, action: str
) -> None:
    homes = (scene.home / str(number) for number in count())
    done = 0
    for path, swapped in SWAPS:
        for at_first in (False, True):
            done += swap_everywhere(scene, opener, homes, action, path, swapped, at_first)
    assert done > 0
    scene.check(action)


def swap_everywhere(
    scene: Scene,
    opener: DirectoryOpener,
    homes: Iterator[Path],
    action: str,
    path: str,
    swapped: str,
    at_first: bool,
) -> int:
    """Do an action once for each of its system calls; return how often it was done."""
    done = 0
    for number in range(MOST):
        home = next(homes)
        build(home)
        swap = Swap(home, swapped)
        if at_first:
            swap.now()
        with (
            ServerRoot(str(home), opener, OWNER) as root,
            swap.before(number),
            suppress(WingsdError),
        ):
            ACTIONS[action](root, p(path))
            done += 1
        scene.check_events(f"{action}: {swapped} swapped before call {number}")
        if not swap.has_happened:
            return done
    raise AssertionError(f"{action} makes more than {MOST} calls")
