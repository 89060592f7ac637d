"""The game that is moved: Debian's Luanti, with mods and a world that changes all the time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from demo.engine import HOST, Engine
from demo.game import BALLAST, NAME_SETTING, Landmark, last_number, port_line
from demo.luanti.probe import ask
from demo.output import Failed
from demo.process import run
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
#: Where the installation script finds the mods in the image.
_SUPPLIES = "/opt/installation"
_WORLD = """\
gameid = minetest_game
backend = sqlite3
auth_backend = sqlite3
player_backend = sqlite3
mod_storage_backend = sqlite3
load_mod_3d_armor = true
load_mod_mesecons = true
"""
_SETTINGS = f"""\
# What the node writes before every start is the port.
{NAME_SETTING}A server that travels
port = 1
# The world is saved as often.
server_map_save_interval = 0.5
"""
_LANDMARK_MOD = Path(__file__).with_name("landmark.lua").read_text(encoding="utf-8")
# The image has Debian's packages of the mods.
_INSTALL = f"""\
set -e
cd /mnt/server
mkdir -p .minetest world/worldmods/landmark unpacked
for package in {_SUPPLIES}/*.deb; do
    echo "Unpacking ${{package##*/}}"
    dpkg-deb -x "$package" unpacked
done
mv unpacked/usr/share/games/minetest/mods .minetest/mods
rm -r unpacked
cat >world/worldmods/landmark/init.lua <<'END'
{_LANDMARK_MOD}END
echo "name = landmark" >world/worldmods/landmark/mod.conf
cat >world/world.mt <<'END'
{_WORLD}END
cat >minetest.conf <<'END'
{_SETTINGS}END
ln -s debug.txt latest.log
echo "Writing 48 MiB of a world"
{BALLAST}"""
_LANDMARK = re.compile(r"\[landmark\] start (\d+), (seed \d+, \S+ reads \w{16}), (\d+) changes")
_STOP = re.compile(r"\[landmark\] stop, (\d+) changes")
_PORT = re.compile(r"^port = (\d+)$", re.MULTILINE)


class Luanti:
    """A Luanti server with a world that a mod of its own has put a sign into."""

    title = f"Luanti, its game and {len(_MODS)} packages of mods; its world changes all the time"
    image = f"wingsd-demo/luanti-with-mods:{_SUITE}"
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

    script = _INSTALL
    settings = "minetest.conf"
    treasure = "world/map_meta.txt"

    def make_image(self, engine: Engine, cache: Path) -> str:
        """Build the image with mmdebstrap, unless it is there from another time."""
        if engine.has_image(self.image):
            return "kept from an earlier demo"
        packages = cache / "packages"
        _fetch(packages)
        tar = cache / "luanti.tar"
        try:
            bootstrap = ("mmdebstrap", "--variant=minbase", "--include=luanti-server")
            run(
                *bootstrap,
                f'--customize-hook=mkdir -p "$1{_SUPPLIES}"',
                f"--customize-hook=sync-in {packages} {_SUPPLIES}",
                _SUITE,
                str(tar),
                cwd=cache,
            )
            engine.make_image(self.image, tar)
        finally:
            tar.unlink(missing_ok=True)
        return f"built with mmdebstrap from Debian's luanti-server and mods, {_SUITE}"

    def port_written(self, tree: Path) -> int:
        """Return the port in minetest.conf; 0 without one."""
        found = _PORT.search((tree / "minetest.conf").read_text())
        return int(found[1]) if found else 0

    def landmark(self, console: Iterable[str]) -> Landmark | None:
        """Return what the sign in the world says, with the world's seed."""
        return Landmark.found(_LANDMARK, console)

    def changes_at_stop(self, console: Iterable[str]) -> int | None:
        """Return how many changes the world told when it was stopped."""
        return last_number(_STOP, console)

    async def ask(self, reactor: Any, port: int) -> str:
        """Ask for a player's number, in Luanti's own protocol."""
        number = await ask(reactor, HOST, port)
        return f"UDP {HOST}:{port} answers in Luanti's protocol: you are peer {number}"


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
