"""The game server that travels: Debian's Luanti, in an image of its own, with mods and a world."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from demo.engine import HOST, Engine
from demo.game import Landmark, port_line
from demo.luanti.probe import probe
from demo.output import Failed
from demo.process import run
from demo.trees import add_odds_and_ends
from demo.watch import Watch
from tests.support import process_configuration

__all__ = ["Luanti"]

_SUITE = "trixie"
_MODS = (
    "minetest-mod-3d-armor",
    "minetest-mod-ethereal",
    "minetest-mod-homedecor",
    "minetest-mod-mesecons",
    "minetest-mod-pipeworks",
)
_WORLD = """\
gameid = minetest_game
backend = sqlite3
auth_backend = sqlite3
player_backend = sqlite3
mod_storage_backend = sqlite3
load_mod_3d_armor = true
load_mod_mesecons = true
"""
_SETTINGS = """\
# What the node writes before every start is the port.
server_name = A server that travels
port = 1
"""
_LANDMARK = re.compile(r"\[landmark\] start (\d+), (seed \d+, \S+ reads \w{16})")
_PORT = re.compile(r"^port = (\d+)$", re.MULTILINE)
_BALLAST = 48 * 1024 * 1024


class Luanti:
    """A Luanti server with a world that a mod of its own has put a sign into."""

    title = f"Luanti, its game and {len(_MODS)} packages of mods"
    image = f"wingsd-demo/luanti:{_SUITE}"
    keeps_image = True
    # Without a log file of its own it dies on the read-only root.
    invocation = (
        "/usr/games/luantiserver --config minetest.conf --world world --gameid minetest_game "
        "--logfile debug.txt"
    )
    process = process_configuration(
        startup={"done": ["listening on"], "user_interaction": [], "strip_ansi": False},
        stop={"type": "signal", "value": "SIGTERM"},
        configs=[port_line("minetest.conf")],
    )

    def make_image(self, engine: Engine, cache: Path) -> str:
        """Build the image with mmdebstrap, unless it is there from another time."""
        if engine.has_image(self.image):
            return "kept from before"
        tar = cache / "luanti.tar"
        try:
            bootstrap = ("mmdebstrap", "--variant=minbase", "--include=luanti-server")
            run(*bootstrap, _SUITE, str(tar), cwd=cache)
            engine.make_image(self.image, tar)
        finally:
            tar.unlink(missing_ok=True)
        return f"built with mmdebstrap from Debian's luanti-server, {_SUITE}"

    def make_files(self, cache: Path, tree: Path) -> None:
        """Put mods, settings and a world to be together."""
        packages = cache / "packages"
        _fetch(packages)
        unpacked = tree.with_name("unpacked")
        for name in _MODS:
            (package,) = sorted(packages.glob(f"{name}_*.deb"))[-1:]
            run("dpkg-deb", "-x", str(package), str(unpacked), cwd=packages)
        (tree / ".minetest").mkdir(parents=True)
        (unpacked / "usr/share/games/minetest/mods").rename(tree / ".minetest/mods")
        shutil.rmtree(unpacked)
        landmark = Path(__file__).with_name("landmark")
        shutil.copytree(landmark, tree / "world/worldmods/landmark")
        (tree / "world/world.mt").write_text(_WORLD)
        (tree / "minetest.conf").write_text(_SETTINGS)
        (tree / "latest.log").symlink_to("debug.txt")
        add_odds_and_ends(tree, _BALLAST)

    def port_written(self, tree: Path) -> int:
        """Return the port in minetest.conf; 0 without one."""
        found = _PORT.search((tree / "minetest.conf").read_text())
        return int(found[1]) if found else 0

    def landmark(self, console: Iterable[str]) -> Landmark | None:
        """Return what the sign in the world says, with the world's seed."""
        told = [found for line in console if (found := _LANDMARK.search(line))]
        return Landmark(int(told[-1][1]), told[-1][2]) if told else None

    async def greet(self, reactor: Any, watch: Watch, port: int) -> str:
        """Ask for a player's number, in Luanti's own protocol."""
        return await probe(reactor, HOST, port)


def _fetch(packages: Path) -> None:
    packages.mkdir(parents=True, exist_ok=True)
    missing = [name for name in _MODS if not list(packages.glob(f"{name}_*.deb"))]
    if not missing:
        return
    # As root, apt would fetch as a user of its own, who may not write here.
    download = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *missing)
    try:
        run(*download, cwd=packages)
    except Failed:
        if os.getuid() != 0:
            raise
        run("apt-get", "-qq", "update", cwd=packages)
        run(*download, cwd=packages)
