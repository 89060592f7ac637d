#!/usr/bin/python3
"""The package is removed and purged: what it made goes, and no server's file ever does."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import CONFIGURATION, HOME, STAGING, VOLUMES, Machine, check, main, run
from package import install, installed_again

OWN = Path("/etc/wingsd/config.yml")


async def test(machine: Machine) -> None:
    """Remove it and purge it, with servers on the node and without."""
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103
        package = await installed_again(Path(directory))
        await machine.configure()
        await run("systemctl", "restart", "wingsd")
        uuid = machine.new_server()
        answer = await machine.send(uuid)
        check("there is a server", answer == (200, ""), answer)
        await remove(machine, uuid)
        await install(package)
        state = await machine.property("ActiveState")
        check("installed again, it runs again", state == "active", state)
        await purge_with_servers(machine, uuid)
        await install(package)
        await purge_without()


async def remove(machine: Machine, uuid: str) -> None:
    """Everything but the program stays."""
    await run("apt-get", "--yes", "remove", "wingsd")
    state = await machine.property("LoadState"), await machine.property("ActiveState")
    check("removed, it runs no more", state == ("not-found", "inactive"), state)
    machine.check_files(uuid)
    check(
        "its configuration and journal stay",
        CONFIGURATION.exists() and (HOME / "wingsd.db").exists(),
    )
    left = list(Path("/usr/lib/python3/dist-packages").glob("wingsd*"))
    check("no module of it is left", not left, left)
    cache = Path("/usr/lib/python3/dist-packages/twisted/plugins/dropin.cache")
    check("Twisted has forgotten it", b"wingsd" not in cache.read_bytes())


async def purge_with_servers(machine: Machine, uuid: str) -> None:
    """What it made goes, servers' files stay, and it says so."""
    OWN.write_text("token: a secret\n")
    kept = STAGING / ".quarantine" / "a-copy"
    kept.mkdir(parents=True)
    said = await run("apt-get", "--yes", "purge", "wingsd")
    check("purged, it tells of the servers", f"servers' files in {HOME} are kept" in said, said)
    machine.check_files(uuid)
    check("what was only kept stays, with the journal", (HOME / "wingsd.db").exists() and kept)
    check("its own configuration is gone", not OWN.parent.exists())
    check("the Panel's is not", CONFIGURATION.exists())
    check("the servers' user stays", pwd.getpwnam("pterodactyl"))


async def purge_without() -> None:
    """Nothing is left."""
    await run("systemctl", "stop", "wingsd")
    # Other tests' servers, too.
    shutil.rmtree(VOLUMES)
    shutil.rmtree(STAGING / ".quarantine")
    said = await run("apt-get", "--yes", "purge", "wingsd")
    check("without servers it tells of none", "are kept" not in said, said)
    places = [HOME, *map(Path, ("/var/lib/pelican", "/etc/wingsd", "/etc/default/wingsd"))]
    left = [str(place) for place in places if place.exists()]
    check("and leaves nothing", not left, left)


main(test)
