"""The server that travels: Debian's Luanti game server, its game, some mods, and a world.

Nothing is installed: the packages are fetched, unpacked, and put together as a server's directory.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo.show import Failed

__all__ = ["Summary", "differences", "make_server", "pack", "sha256", "summarize"]

PACKAGES = (
    "luanti-server",
    "luanti-data",
    "luanti-game-minetest",
    "minetest-mod-3d-armor",
    "minetest-mod-ethereal",
    "minetest-mod-homedecor",
    "minetest-mod-mesecons",
    "minetest-mod-pipeworks",
)

WORLD = """\
gameid = minetest_game
backend = sqlite3
auth_backend = sqlite3
player_backend = sqlite3
load_mod_mesecons = mods/mesecons
"""


class Summary(NamedTuple):
    """How many of what a tree holds; `size` in bytes."""

    files: int
    directories: int
    symlinks: int
    size: int


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Failed(f"{' '.join(command)}:\n{done.stderr.strip()}")


def _fetch(packages: Path) -> None:
    packages.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(packages.glob(f"{name}_*.deb"))]
    if not missing:
        return
    # As root, apt would fetch as a user of its own, who may not write here.
    download = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *missing)
    try:
        _run(*download, cwd=packages)
    except Failed:
        if os.getuid() != 0:
            raise
        _run("apt-get", "-qq", "update", cwd=packages)
        _run(*download, cwd=packages)


def make_server(packages: Path, tree: Path) -> None:
    """Put the server together in `tree`. Raises `Failed` when its packages cannot be had."""
    _fetch(packages)
    unpacked = tree.with_name("unpacked")
    for name in PACKAGES:
        (package,) = sorted(packages.glob(f"{name}_*.deb"))[-1:]
        _run("dpkg-deb", "-x", str(package), str(unpacked), cwd=packages)
    (unpacked / "usr").rename(tree)
    shutil.rmtree(unpacked)
    world = tree / "world"
    (world / "worldmods").mkdir(parents=True)
    (world / "world.mt").write_text(WORLD)
    (world / "world.mt.kept").hardlink_to(world / "world.mt")


def pack(tree: Path, archive: Path) -> None:
    """Pack a server as the document wants it, tar.gz, with GNU tar."""
    _run("tar", "-czf", str(archive), "-C", str(tree), ".", cwd=tree)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(tree: Path) -> dict[str, os.stat_result]:
    return {str(path.relative_to(tree)): path.lstat() for path in tree.rglob("*")}


def summarize(tree: Path) -> Summary:
    """Count what is in `tree`."""
    stats = list(_entries(tree).values())
    files = [found for found in stats if stat.S_ISREG(found.st_mode)]
    return Summary(
        len(files),
        sum(stat.S_ISDIR(found.st_mode) for found in stats),
        sum(stat.S_ISLNK(found.st_mode) for found in stats),
        sum(found.st_size for found in files),
    )


def differences(sent: Path, received: Path, owner: int) -> Iterator[str]:
    """Yield how `received` differs from `sent`; all of it should belong to the uid `owner`.

    Compared are names, kinds, modes, times (whole seconds), contents, targets and hard links.
    """
    theirs, ours = _entries(sent), _entries(received)
    yield from (f"{name}: is missing" for name in sorted(theirs.keys() - ours.keys()))
    yield from (f"{name}: was not sent" for name in sorted(ours.keys() - theirs.keys()))
    for name in sorted(theirs.keys() & ours.keys()):
        a, b = theirs[name], ours[name]
        if b.st_uid != owner:
            yield f"{name}: belongs to {b.st_uid}"
        if a.st_mode != b.st_mode:
            yield f"{name}: mode {a.st_mode:o} became {b.st_mode:o}"
        elif stat.S_ISLNK(a.st_mode):
            if (sent / name).readlink() != (received / name).readlink():
                yield f"{name}: another target"
        elif int(a.st_mtime) != int(b.st_mtime):
            yield f"{name}: another time"
        elif stat.S_ISREG(a.st_mode):
            if not filecmp.cmp(sent / name, received / name, shallow=False):
                yield f"{name}: another content"
            if a.st_nlink != b.st_nlink:
                yield f"{name}: {a.st_nlink} links became {b.st_nlink}"
