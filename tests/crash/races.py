"""Races: each action on a server's files while another process swaps links in its directory.

First the actions of wingsd, in both ways to open directories; nothing outside may be touched. Then
the same by paths that are checked and used, each of which must be caught.
"""

from __future__ import annotations

import os
import random
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import attrs

from tests.crash.engine import Broken, Campaign, place
from tests.crash.scene import MARK, OPERATIONS, OUTSIDE_SIZE, Scene, Touched
from wingsd.archive.compress import Compression
from wingsd.archive.pack import pack
from wingsd.archive.tree_writer import TreeWriter
from wingsd.egg_files.changes import Change
from wingsd.egg_files.child import Rewritten
from wingsd.egg_files.process import rewrite
from wingsd.errors import ArchiveError, FileMissing, StorageError, WingsdError
from wingsd.filesystem.openers import DirectoryOpener, Openat2Opener, OpenatOpener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.walk import give_tree, survey
from wingsd.panel.schemas import ConfigurationFile, Replacement

OWNER = (54321, 54321)
#: Paths that exist inside, and outside for an action that is tricked.
PATHS = (
    *("x", "x/f", "x/b", "x/b/f", "x/l", "x/canary", "y", "y/f", "y/b/f", "z/d", "z/d/b/f"),
    *("via", "via/f", "via/b/f", "via2/f", "via2/b/f", "a/b/c/f", "m/b/f"),
    *("f", "g", "h", "k", "z/f", "f.out", "g.fifo", "x.out/f", "z/d.out/f"),
)
DIRECTORIES = ("x", "x/b", "y", "y/b", "z/d", "via", "via/b", "via2", "m", "x.out", "z/d.out")
#: New names of each operation in a directory, until the attacker makes that again.
_NEW_NAMES = 20
#: Paths of some operations; a symlink is read beside its path.
_PLACES = {
    "list": DIRECTORIES,
    "read link": ("x/f", "y/f", "z/d/f", "via/f", "via2/f", "x/b/f"),
}
#: The lowest status of errors that a user must not get.
_INTERNAL = 500
#: Work on whole trees meets all that is swapped each time, and takes as much longer.
TREE_SHARE = 10
OPENERS: dict[str, DirectoryOpener] = {"openat2": Openat2Opener(), "openat": OpenatOpener()}


class Actor:
    """Paths for actions in one scene, and one root for each action, as calls of users have it."""

    def __init__(self, scene: Scene, opener: DirectoryOpener, chance: random.Random) -> None:
        self.home = scene.home
        self.chance = chance
        self._opener = opener

    def root(self) -> ServerRoot:
        """Open the server's directory."""
        return ServerRoot(str(self.home), self._opener, OWNER)

    def one_of(self, paths: Sequence[str]) -> ServerPath:
        """Return one of these paths."""
        return ServerPath.parse(self.chance.choice(paths))

    def path(self) -> ServerPath:
        """Return a path that is attacked."""
        return self.one_of(PATHS)

    def new(self) -> ServerPath:
        """Return a path in a directory that is attacked."""
        directory = self.one_of(DIRECTORIES)
        return directory.joined(f"new{self.chance.randrange(8)}")

    def checked(self, *paths: str) -> Path:
        """Return one of some paths that leads inside at this moment, as naive actions do."""
        path = os.path.join(self.home, self.chance.choice(paths or PATHS))
        if not os.path.realpath(path).startswith(f"{self.home}/"):
            raise FileNotFoundError(path)
        return Path(path)

    def clear(self) -> None:
        """Delete what actions have left beside the pairs that the attacker makes again."""
        for name in os.listdir(self.home):
            if name.startswith("renamed"):
                with suppress(OSError), self.root() as root:
                    root.remove(ServerPath.parse(name))


Action = Callable[[Actor], object]


def _operation(kind: str) -> Action:
    """Return an operation of `ServerRoot` at a random path."""

    def action(actor: Actor) -> None:
        path = actor.one_of(_PLACES.get(kind, PATHS))
        new = f"new {kind} {actor.chance.randrange(_NEW_NAMES)}"
        (actor.home / "own").write_bytes(b"own")
        with actor.root() as root:
            OPERATIONS[kind](root, path, new)

    return action


ACTIONS: MappingProxyType[str, Action] = MappingProxyType(
    {kind: _operation(kind) for kind in OPERATIONS}
)


def _rewrite(actor: Actor) -> None:
    """Rewrite an egg file."""

    def parse(_: str, data: bytes, __: Sequence[Change]) -> Rewritten:
        if data.startswith(MARK):
            raise Touched("its content was read")
        return Rewritten(data[:100] + b"1", [])

    name = actor.chance.choice((*PATHS, *(f"{each}/new" for each in DIRECTORIES)))
    file = ConfigurationFile(name, "file", (Replacement("a", replace_with="b"),))
    if lines := rewrite(actor.root, [file], {}, parse):
        if "Touched" in lines[0]:
            raise Touched(lines[0])
        raise FileMissing(lines[0])


def _give(actor: Actor) -> None:
    """Give all files to the user of servers."""
    owner = OWNER[0] + actor.chance.randrange(2)
    given = give_tree(str(actor.home), (owner, owner), lambda: False)
    if not given.changed:
        raise FileMissing(given.why)


def _measure(actor: Actor) -> None:
    """Measure the disk usage."""
    if survey(str(actor.home)).largest_size == OUTSIDE_SIZE:
        raise Touched("a file was measured")


def _pack(actor: Actor) -> None:
    """Send everything, with symlinks or the files that they lead to."""
    packed = bytearray()
    pack(
        str(actor.home),
        packed.extend,
        links=actor.chance.random() < 0.5,
        compression=Compression.NONE,
        warn=lambda line: None,
        progress=lambda size, files: None,
    )
    if MARK + b"." * 100 in packed:
        raise Touched("a file was packed")


def _extract(actor: Actor) -> None:
    """Extract a member of any kind over what is there."""
    writer = TreeWriter(str(actor.home), OWNER)
    path, other = actor.chance.choice((actor.path, actor.new))().parts, actor.path().parts
    members: tuple[Callable[[], None], ...] = (
        lambda: writer.file(path, 0o644, 10**18, [memoryview(b"extracted")]),
        lambda: writer.directory(path, 0o755, 10**18),
        lambda: writer.symlink(path, 10**18, b"../outside"),
        lambda: writer.hard_link(path, other),
    )
    try:
        actor.chance.choice(members)()
        writer.finish()
    finally:
        writer.close()


#: The parts of wingsd that work on whole directories of servers.
TREES: MappingProxyType[str, Action] = MappingProxyType(
    {
        "egg file": _rewrite,
        "give": _give,
        "measure": _measure,
        "pack": _pack,
        "extract": _extract,
    }
)
#: Of these, an archive or a tree that cannot be read or written counts as refused.
_EXCUSED = (_give, _measure, _pack, _extract)


def _naive_stat(actor: Actor) -> None:
    if actor.checked().stat().st_size == OUTSIDE_SIZE:
        raise Touched("its attributes were read")


def _naive_list(actor: Actor) -> None:
    if "canary" in os.listdir(actor.checked()):
        raise Touched("it was listed")


def _naive_read(actor: Actor) -> None:
    if actor.checked("x/f", "x/b/f", "y/f", "f", "via/f").read_bytes().startswith(MARK):
        raise Touched("its content was read")


def _naive_remove(actor: Actor) -> None:
    path = actor.checked("x/b", "y/b", "x/f", "via/b")
    with suppress(NotADirectoryError):
        shutil.rmtree(path)
        return
    path.unlink()


def _naive_rename(actor: Actor) -> None:
    (actor.home / "own").write_bytes(b"own")
    (actor.home / "own").rename(actor.checked(str(actor.new())))


#: The same by paths that are checked and then used: a race must find each of them.
NAIVE: MappingProxyType[str, Action] = MappingProxyType(
    {
        "stat": _naive_stat,
        "list": _naive_list,
        "read": _naive_read,
        "write": lambda actor: actor.checked("x/f", "x/b/f", "y/f", "via/f").write_bytes(b"new"),
        "copy": lambda actor: shutil.copyfile(actor.checked("x/f"), actor.home / "z" / "copy"),
        "make directory": lambda actor: actor.checked(str(actor.new())).mkdir(),
        "rename": _naive_rename,
        "remove": _naive_remove,
        "chmod": lambda actor: actor.checked().chmod(0o700),
        "utimes": lambda actor: os.utime(actor.checked(), ns=(1, 1)),
    }
)
KINDS = (*ACTIONS, *TREES)


@attrs.define
class Counted:
    """How often an action was done, and how often it was refused."""

    done: int = 0
    refused: int = 0


def race(
    top: Path,
    opener: DirectoryOpener,
    actions: Mapping[str, Action],
    count: int,
    seed: int,
    step: int = 500,
) -> dict[str, Counted]:
    """Do each action `count` times below the empty directory `top`; look outside after `step`.

    Raises Touched, and whatever else than a refusal an action raises.
    """
    scene = Scene(top)
    counted = {kind: Counted() for kind in actions}
    try:
        with scene.attacked(seed) as wait:
            actor = Actor(scene, opener, random.Random(seed))
            for kind, action in actions.items():
                for start in range(0, count, step):
                    wait()
                    for _ in range(start, min(start + step, count)):
                        _do(actor, action, counted[kind])
                    scene.check(kind)
                    actor.clear()
    finally:
        scene.close()
    return counted


def _do(actor: Actor, action: Action, counted: Counted) -> None:
    try:
        action(actor)
        counted.done += 1
    except WingsdError as error:
        excused = (ArchiveError, StorageError) if action in _EXCUSED else ()
        if error.status >= _INTERNAL and not isinstance(error, excused):
            raise
        counted.refused += 1


class Race(Campaign):
    """All chosen actions by one opener in one scene."""

    def __init__(self, opener: DirectoryOpener, actions: Mapping[str, Action], share: int) -> None:
        self._opener = opener
        self._actions = actions
        self._share = share

    async def trial(self, number: int) -> str:
        with place("races") as top:
            found = race(top, self._opener, self._actions, self.count // self._share, self.seed)
        self.done = self.count
        if left := [kind for kind, each in found.items() if not each.done]:
            raise Broken(f"never done: {left}")
        return ", ".join(
            f"{kind}: {each.done} done, {each.refused} refused" for kind, each in found.items()
        )


class NaiveRace(Campaign):
    """A naive action, which must be caught within the count."""

    def __init__(self, kind: str) -> None:
        self._action = NAIVE[kind]

    async def trial(self, number: int) -> str:
        def attempt(actor: Actor) -> None:
            self.done += 1
            with suppress(OSError):
                self._action(actor)

        with place("races") as top:
            try:
                race(top, OPENERS["openat"], {"": attempt}, self.count, self.seed, step=20)
            except Touched:
                caught, self.done = self.done, self.count
                return f"caught within {caught}"
        raise Broken(f"not caught within {self.done}")


def campaigns(kinds: Sequence[str], options: Namespace) -> Iterator[tuple[str, Campaign]]:
    """Yield the races of these actions; of all of them, also the naive ones."""
    for name, opener in OPENERS.items():
        for label, table, share in ((name, ACTIONS, 1), (f"{name}, trees", TREES, TREE_SHARE)):
            if chosen := {kind: table[kind] for kind in kinds if kind in table}:
                yield label, Race(opener, chosen, share)
    if list(kinds) == list(KINDS):
        for kind in NAIVE:
            yield f"naive: {kind}", NaiveRace(kind)
