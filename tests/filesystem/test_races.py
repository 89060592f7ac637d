"""Nothing outside is touched while another process swaps links: a sample of `make races`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.races import ACTIONS, NAIVE, TREES, Actor, race
from tests.crash.scene import OPERATIONS, Scene, Touched
from wingsd.errors import WingsdError
from wingsd.filesystem.openers import DirectoryOpener, Openat2Opener, OpenatOpener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.syscalls import RENAME_EXCHANGE, openat2, renameat2

pytestmark = [pytest.mark.root, pytest.mark.promise("files-stay-inside-the-server")]


COUNT = 100
#: Of naive actions, which end as soon as one is caught.
MOST = 50_000


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory in memory, where names are swapped faster than on a disk."""
    with TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def test_no_action_leaves_the_directory_while_links_are_swapped(
    top: Path, opener: DirectoryOpener
) -> None:
    counted = race(top, opener, ACTIONS, COUNT, seed=1, step=20)
    assert [kind for kind, each in counted.items() if not each.done] == []
    assert sum(each.refused for each in counted.values()) > COUNT


def test_no_work_on_whole_trees_leaves_the_directory(top: Path) -> None:
    counted = race(top, OpenatOpener(), TREES, COUNT // 4, seed=1, step=5)
    assert [kind for kind, each in counted.items() if not each.done] == []


@pytest.mark.parametrize("kind", ["read", "write"])
def test_an_action_that_checks_a_path_and_then_uses_it_is_caught(top: Path, kind: str) -> None:
    def attempt(actor: Actor) -> None:
        with suppress(OSError):
            NAIVE[kind](actor)

    with pytest.raises(Touched):
        race(top, OpenatOpener(), {kind: attempt}, MOST, seed=1, step=20)


# A name on a path is swapped for a link that leads out, before each system call of an action


AT_FDCWD = -100
OWNER = (54321, 54321)
#: Calls with a name. Whether a swap is before or after one with a descriptor makes no difference.
CALLS = (
    *("open", "lstat", "stat", "readlink", "scandir", "unlink", "rmdir", "mkdir", "rename"),
    *("chmod", "utime", "link", "symlink", "chown"),
)
#: More than any action has.
MOST_CALLS = 60
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
@pytest.mark.parametrize("action", OPERATIONS)
def test_a_swap_before_any_system_call_leads_nowhere(scene: Scene, action: str) -> None:
    """Both ways to open directories are tried, each with every other swap."""
    homes = (scene.home / str(number) for number in count())
    ways: list[DirectoryOpener] = [
        Openat2Opener(),
        OpenatOpener(),
        OpenatOpener(),
        Openat2Opener(),
    ]
    openers = cycle(ways)
    done = 0
    for path, swapped in SWAPS:
        for at_first in (False, True):
            done += swap_everywhere(scene, next(openers), homes, action, path, swapped, at_first)
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
    for number in range(MOST_CALLS):
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
            OPERATIONS[action](root, ServerPath.parse(path), "new")
            done += 1
        scene.check_events(f"{action}: {swapped} swapped before call {number}")
        if not swap.has_happened:
            return done
    raise AssertionError(f"{action} makes more than {MOST_CALLS} calls")
