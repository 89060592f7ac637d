"""The same actions by paths that are checked and then used. The race finds what is wrong here.

Only for a test of the test: never to be used.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from tests.races.actions import Action, Actor
from tests.races.scene import MARK, OUTSIDE_SIZE, Touched

__all__ = ["NAIVE"]


def _checked(actor: Actor, path: str) -> Path:
    """Return a path that leads inside at this moment."""
    home = str(actor.scene.home)
    full = os.path.join(home, path)
    if not os.path.realpath(full).startswith(f"{home}/"):
        raise FileNotFoundError(path)
    return Path(full)


def _path(actor: Actor) -> Path:
    return _checked(actor, str(actor.path()))


def _stat(actor: Actor) -> None:
    if _path(actor).stat().st_size == OUTSIDE_SIZE:
        raise Touched("its attributes were read")


def _list(actor: Actor) -> None:
    if "canary" in os.listdir(_path(actor)):
        raise Touched("it was listed")


def _read(actor: Actor) -> None:
    path = _checked(actor, actor.chance.choice(("x/f", "x/b/f", "y/f", "f", "via/f")))
    if path.read_bytes().startswith(MARK):
        raise Touched("its content was read")


def _write(actor: Actor) -> None:
    _checked(actor, actor.chance.choice(("x/f", "x/b/f", "y/f", "via/f"))).write_bytes(b"new")


def _copy(actor: Actor) -> None:
    shutil.copyfile(_checked(actor, "x/f"), actor.scene.home / "z" / "copy")


def _make_directory(actor: Actor) -> None:
    _checked(actor, str(actor.new())).mkdir()


def _rename(actor: Actor) -> None:
    actor.own()
    (actor.scene.home / "own").rename(_checked(actor, str(actor.new())))


def _remove(actor: Actor) -> None:
    path = _checked(actor, actor.chance.choice(("x/b", "y/b", "x/f", "via/b")))
    with suppress(NotADirectoryError):
        shutil.rmtree(path)
        return
    path.unlink()


def _set_mode(actor: Actor) -> None:
    _path(actor).chmod(0o700)


def _set_times(actor: Actor) -> None:
    os.utime(_path(actor), ns=(1, 1))


NAIVE: MappingProxyType[str, Action] = MappingProxyType(
    {
        "stat": _stat,
        "list": _list,
        "read": _read,
        "write": _write,
        "copy": _copy,
        "make directory": _make_directory,
        "rename": _rename,
        "remove": _remove,
        "chmod": _set_mode,
        "utimes": _set_times,
    }
)
