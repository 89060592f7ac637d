#!/usr/bin/python3
"""The package takes over a node that Wings runs, with a game running, and gives it back."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import yaml
from docker import APIClient
from machine import CONFIGURATION, HOME, Machine, check, main, run
from package import install, installed_again
from twisted.internet.threads import deferToThread

from tests.support import process_configuration, server_settings
from tests.support.docker_engine import Engine
from tests.support.image import CHANGES, image_tar
from tests.support.wings_node import DIALECTS, Fate, Places, WingsNode, configuration_faults, fates

IMAGE = "wingsd-test/takeover"
#: Echoes what is typed, and ends by the command "stop"; deaf to signals.
GAME = (
    "trap '' INT TERM; echo up; "
    'while read line; do echo "got $line"; [ "$line" = stop ] && exit 0; done'
)
BY_COMMAND = process_configuration(
    startup={"done": ["up"], "user_interaction": [], "strip_ansi": False},
    stop={"type": "command", "value": "stop"},
)
BUILD = {
    "memory_limit": 64,
    "swap": 0,
    "io_weight": 500,
    "cpu_limit": 0,
    "threads": None,
    "disk_space": 0,
    "oom_disabled": False,
}
PLACES = Places(
    root=HOME,
    logs=Path("/var/log/pterodactyl"),
    identities=Path("/run/wings"),
    scripts=Path("/tmp/pterodactyl"),  # noqa: S108 - the default
    config_file=CONFIGURATION,
    user="pterodactyl",
)
UNIT = Path("/etc/systemd/system/wings.service")
#: What matters of Wings' service here.
WINGS = """\
[Service]
ExecStart=/bin/sleep infinity

[Install]
WantedBy=multi-user.target
"""
LOG_ROTATION = Path("/etc/logrotate.d/wings")


async def test(machine: Machine) -> None:
    """Follow docs/from-wings.md, there and back."""
    client = APIClient(version="auto")
    await deferToThread(
        client.import_image_from_data, image_tar(), repository=IMAGE, tag="latest", changes=CHANGES
    )
    with ExitStack() as cleanup, TemporaryDirectory() as directory:
        engine = Engine(client, f"~{IMAGE}", Path(directory), cleanup)
        wings, settings = await wings_node(machine, engine)
        uuid = settings["uuid"]
        process = wings.run(settings)["State"]["Pid"]
        before = wings.kept()
        await prepare()
        await run("systemctl", "disable", "--now", "wings")
        await run("systemctl", "start", "wingsd")
        await it_has_the_node(machine, uuid)
        untouched(wings, before, set())
        check("the game is the same process", pid(client, uuid) == process)
        await it_is_started_again(machine, client, uuid)
        await go_back(machine, wings, client, uuid)
        untouched(wings, before, {str(HOME / "states.json")})
        await clean()


def remove_places() -> None:
    """Remove what a daemon has on this machine, but for its configuration."""
    for place in (PLACES.root, PLACES.logs, PLACES.identities, PLACES.scripts):
        shutil.rmtree(place, ignore_errors=True)


async def clean() -> None:
    """Leave the machine as the package does."""
    await run("systemctl", "disable", "--now", "wings")
    UNIT.unlink()
    LOG_ROTATION.unlink()
    await run("systemctl", "daemon-reload")
    remove_places()
    await run("systemd-tmpfiles", "--create", "wingsd.conf")
    await run("systemctl", "enable", "wingsd")


async def wings_node(machine: Machine, engine: Engine) -> tuple[WingsNode, dict[str, Any]]:
    """Lay out a node that Wings runs as root, with a server; return both."""
    await run("systemctl", "stop", "wingsd")
    remove_places()
    await machine.configure(engine=True)
    printed = yaml.safe_load(CONFIGURATION.read_text())
    CONFIGURATION.unlink()
    wings = WingsNode(PLACES, DIALECTS["pterodactyl"], engine, printed)
    uuid = engine.will_make_container(str(uuid4()))
    settings = server_settings(uuid, image=engine.image, invocation=GAME, build=BUILD)
    machine.panel.add_server(settings, machine.node, BY_COMMAND)
    wings.lay_out(uuid, states={uuid: "running"})
    LOG_ROTATION.write_text("# Wings' own.\n")
    UNIT.write_text(WINGS)
    await run("systemctl", "daemon-reload")
    await run("systemctl", "enable", "--now", "wings")
    return wings, settings


async def prepare() -> None:
    """Install the package beside Wings, and have the node checked."""
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - apt's own user reads it
        package = await installed_again(Path(directory))
        await run("apt-get", "--yes", "remove", "wingsd")
        said = await install(package)
    check("the package says how to hand over", "systemctl disable --now wings" in said, said)
    said = await run("wingsctl", "check-config")
    check("so does the check", "wings.service runs this node" in said, said)
    check("it counts the servers", "which run on under wingsd: 1\n" in said, said)
    check("it finds no fault", f"{CONFIGURATION}: valid" in said, said)
    check("the service can use all of it", "the service cannot use" not in said, said)


async def it_has_the_node(machine: Machine, uuid: str) -> None:
    """The Panel sees the server run, and its console works."""
    state = await machine.property("ActiveState")
    check("it is active as soon as it is started", state == "active", await machine.log())
    log = await machine.log()
    check("nothing limits it", "the daemon is limited" not in log.rpartition("Stopped")[2])
    await machine.until_answer(f"/api/servers/{uuid}", lambda server: server["state"] == "running")
    check("the server runs for the Panel", True)
    path = f"/api/servers/{uuid}"
    _, logs = await machine.panel.ask(machine.node, "GET", f"{path}/logs")
    check("its console still has the lines written under Wings", "up" in logs["data"], logs)
    typed = {"commands": ["hello"]}
    status, _ = await machine.panel.ask(machine.node, "POST", f"{path}/commands", typed)
    check("a command is taken", status < 300, status)  # noqa: PLR2004
    await machine.until_answer(f"{path}/logs", lambda logs: "got hello" in logs["data"])
    check("and answered by the game", True)
    _, log = await machine.panel.ask(machine.node, "GET", f"{path}/install-logs")
    check("its installation log is read", log == {"data": "all done\n"}, log)


async def it_is_started_again(machine: Machine, client: APIClient, uuid: str) -> None:
    """A restart by the Panel makes a container of this daemon's."""
    before = client.inspect_container(uuid)["Id"]
    await machine.panel.power(uuid, "restart")
    await machine.until(lambda: is_another(client, uuid, before), "the server to run again")
    await machine.until_answer(f"/api/servers/{uuid}", lambda server: server["state"] == "running")
    check("it is started again", True)


async def go_back(machine: Machine, wings: WingsNode, client: APIClient, uuid: str) -> None:
    """Hand the node to Wings, and look at it as Wings does."""
    await run("systemctl", "disable", "--now", "wingsd")
    await run("systemctl", "enable", "--now", "wings")
    config = yaml.safe_load(CONFIGURATION.read_text())
    faults = configuration_faults(CONFIGURATION.read_text())
    check("Wings can read the configuration", not faults, faults)
    found = fates(client, config, [uuid])
    check("Wings attaches to the server", found == {uuid: Fate.ATTACHED}, found)
    await run("systemctl", "start", "wingsd")
    state = await machine.property("ActiveState")
    check("wingsd is not started beside it", state == "inactive", state)
    # Of a disabled unit that does not run systemd keeps no result.
    log = await machine.log()
    check("and says why", "wings.service runs this node" in log, log)
    owners = {path.stat().st_uid for path in (wings.data / uuid).rglob("*")}
    check("the files are the servers' user's", owners == {wings.owner[0]}, owners)


def untouched(wings: WingsNode, before: dict[str, Any], but: set[str]) -> None:
    """Raise `Failed` where a file of Wings' has changed, other than these."""
    changed = {name for name, _ in wings.kept().items() ^ before.items()} - but
    check("nothing of Wings' has changed", not changed, changed)
    check("its log rotation stays", LOG_ROTATION.read_text() == "# Wings' own.\n")


def pid(client: APIClient, uuid: str) -> int:
    """Return the id of the game's process."""
    found: int = client.inspect_container(uuid)["State"]["Pid"]
    return found


def is_another(client: APIClient, uuid: str, before: str) -> bool:
    """Tell whether another container than `before` runs."""
    found = client.containers(filters={"name": uuid})
    return any(each["Id"] != before for each in found)


main(test)
