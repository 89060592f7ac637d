#!/usr/bin/python3
"""Upgrades from the previous version, with transfers, a move and an SFTP session under way.

The previous version's package is that which the variable PREVIOUS names. Without one it is the
installed package again under a lower version, which takes the same way through dpkg.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from interrupted import (
    while_a_server_arrives,
    while_a_server_is_moved,
    while_a_user_downloads,
    while_the_panel_hears_of_it,
)
from machine import HOME, Machine, check, main, run
from package import install, installed_again, with_version

SETTING = Path("/etc/default/wingsd")


async def test(machine: Machine) -> None:
    """Go back and forth, for each kind of work that is under way."""
    with TemporaryDirectory() as directory:
        # Where apt's own user can read it.
        os.chmod(directory, 0o755)  # noqa: S103
        current = await installed_again(Path(directory))
        given = os.environ.get("PREVIOUS")
        previous = Path(given) if given else await with_version(current, "0~previous")
        await go_back(previous)
        SETTING.write_text(changed := SETTING.read_text() + "# An administrator was here.\n")
        await machine.configure()
        await run("systemctl", "restart", "wingsd")
        await while_a_server_arrives(machine, partial(upgrade, machine, current))
        check("a changed conffile is kept", SETTING.read_text() == changed)
        for under_way in (while_a_user_downloads, while_a_server_is_moved):
            await go_back(previous)
            await under_way(machine, partial(upgrade, machine, current))
        await go_back(previous)
        await while_the_panel_hears_of_it(machine, partial(upgrade, machine, current))


async def go_back(previous: Path) -> None:
    """Install the older version; it cannot read the state that the newer one has written."""
    await run("systemctl", "stop", "wingsd")
    for file in HOME.glob("wingsd.db*"):
        file.unlink()
    await install(previous)
    await run("systemctl", "start", "wingsd")


async def upgrade(machine: Machine, package: Path) -> None:
    """Have apt install the newer version."""
    before = await machine.property("MainPID")
    await install(package)
    state = await machine.property("ActiveState"), await machine.property("MainPID") != before
    check("the upgrade restarts it", state == ("active", True), state)


main(test)
