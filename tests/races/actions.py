"""What `ServerRoot` does with files, at random paths; each raises Touched itself if it can."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from types import MappingProxyType

from tests.races.scene import MARK, OUTSIDE_MODE, OUTSIDE_SIZE, Scene, Touched
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.new_file import NewFileOptions
from wingsd.filesystem.openers import DirectoryOpener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot

__all__ = ["ACTIONS", "DIRECTORIES", "OWNER", "PATHS", "Action", "Actor", "clear"]

OWNER = (54321, 54321)
#: Paths that exist inside, and outside for who is tricked.
PATHS = (
    *("x", "x/f", "x/b", "x/b/f", "x/l", "x/canary", "y", "y/f", "y/b/f", "z/d", "z/d/b/f"),
    *("via", "via/f", "via/b/f", "via2/f", "via2/b/f", "a/b/c/f", "m/b/f"),
    *("f", "g", "h", "k", "z/f", "f.out", "g.fifo", "x.out/f", "z/d.out/f"),
)
DIRECTORIES = ("x", "x/b", "y", "y/b", "z/d", "via", "via/b", "via2", "m", "x.out", "z/d.out")
_FAST = NewFileOptions(durable=False)


class Actor:
    """Does actions in one scene, one `root` for each, as calls of users do."""

    def __init__(self, scene: Scene, opener: DirectoryOpener, chance: random.Random) -> None:
        self.scene = scene
        self.chance = chance
        self._opener = opener

    def root(self) -> ServerRoot:
        """Open the server's directory."""
        return ServerRoot(str(self.scene.home), self._opener, OWNER)

    def path(self) -> ServerPath:
        """Return a path that is attacked."""
        return ServerPath.parse(self.chance.choice(PATHS))

    def new(self) -> ServerPath:
        """Return a path in a directory that is attacked."""
        directory = ServerPath.parse(self.chance.choice(DIRECTORIES))
        return directory.joined(f"new{self.chance.randrange(8)}")

    def own(self) -> ServerPath:
        """Make a file that is not attacked; return its path."""
        (self.scene.home / "own").write_bytes(b"own")
        return ServerPath.parse("own")


Action = Callable[[Actor], object]


def _stat(actor: Actor) -> None:
    with actor.root() as root:
        _inside(root.stat(actor.path()))


def _inside(entry: Entry) -> None:
    if entry.size == OUTSIDE_SIZE or entry.permissions == OUTSIDE_MODE:
        raise Touched(f"its attributes were read: {entry}")


def _list(actor: Actor) -> None:
    path = ServerPath.parse(actor.chance.choice(DIRECTORIES))
    with actor.root() as root, root.directory(path) as directory:
        for entry in directory.entries():
            _inside(entry)


def _read(actor: Actor) -> None:
    with actor.root() as root, root.open_file(actor.path()) as file:
        _inside(file.entry)
        if file.read(100).startswith(MARK):
            raise Touched("its content was read")


def _read_link(actor: Actor) -> None:
    path = actor.chance.choice(("x/l", "y/l", "z/d/l", "via/l", "via2/l", "x/b/l"))
    with actor.root() as root:
        if root.link_text(ServerPath.parse(path)) == MARK:
            raise Touched(f"{path} was read")


def _write(actor: Actor) -> None:
    path = actor.chance.choice((actor.path, actor.new))()
    with actor.root() as root:
        root.write(path, [b"inside"], _FAST)


def _write_durably(actor: Actor) -> None:
    with actor.root() as root:
        root.write(ServerPath.parse(actor.chance.choice(("f", "h", "new"))), [b"inside"])


def _copy_from(actor: Actor) -> None:
    with actor.root() as root:
        entry = root.copy(actor.path(), ServerPath.parse("z/copy"), _FAST)
        _inside(entry)


def _copy_to(actor: Actor) -> None:
    with actor.root() as root:
        root.copy(actor.own(), actor.chance.choice((actor.path, actor.new))(), _FAST)


def _make_directory(actor: Actor) -> None:
    directory = ServerPath.parse(actor.chance.choice(DIRECTORIES))
    name = f"made{actor.chance.randrange(8)}/{actor.chance.randrange(4)}"
    with actor.root() as root:
        _inside(root.make_directory(directory.joined(name)))


def _rename_from(actor: Actor) -> None:
    with actor.root() as root:
        path = ServerPath.parse(f"z/renamed{actor.chance.randrange(20)}")
        root.rename(actor.path(), path, replace=True)


def _rename_to(actor: Actor) -> None:
    with actor.root() as root:
        path = actor.chance.choice((actor.path, actor.new))()
        root.rename(actor.own(), path, replace=actor.chance.random() < 0.5)


def _remove(actor: Actor) -> None:
    with actor.root() as root:
        root.remove(actor.path())


def _set_mode(actor: Actor) -> None:
    with actor.root() as root:
        root.set_mode(actor.path(), actor.chance.choice((0o700, 0o755, 0o644)))


def _set_times(actor: Actor) -> None:
    with actor.root() as root:
        root.set_times(actor.path(), 10**18, 10**18)


ACTIONS: MappingProxyType[str, Action] = MappingProxyType(
    {
        "stat": _stat,
        "list": _list,
        "read": _read,
        "read link": _read_link,
        "write": _write,
        "write durably": _write_durably,
        "copy from": _copy_from,
        "copy to": _copy_to,
        "make directory": _make_directory,
        "rename from": _rename_from,
        "rename to": _rename_to,
        "remove": _remove,
        "chmod": _set_mode,
        "utimes": _set_times,
    }
)


def clear(actor: Actor) -> None:
    """Delete what actions have left beside the pairs that the attacker makes again."""
    with os.scandir(actor.scene.home / "z") as entries:
        names = [entry.name for entry in entries if entry.name.startswith("renamed")]
    for name in names:
        with suppress(OSError), actor.root() as root:
            root.remove(ServerPath.parse(f"z/{name}"))
