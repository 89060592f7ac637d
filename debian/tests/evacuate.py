#!/usr/bin/python3
"""A detached evacuation: its unit outlasts kills of itself and of the daemon, and a boot."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from machine import CONFIGURATION, VOLUMES, Failed, Machine, check, main, run

from tests.support import server_settings
from tests.support.application_api import KEY

UNIT, UNIT_FILE = "wingsd-evacuate", Path("/etc/systemd/system/wingsd-evacuate.service")
#: The other node on this machine, and what an operator has in a directory of root's.
OTHER, OWN = Path("/srv/other"), Path("/root/evacuation")
ADDRESS = "https://127.0.0.1:8081"
SERVERS, PORT = 3, 25600


async def test(machine: Machine) -> None:
    """Empty the node to another one on the same machine."""
    servers = await two_nodes(machine)
    await paired()
    key, plan = OWN / "panel.key", OWN / "plan.json"
    key.touch(mode=0o600)
    key.write_text(KEY)
    held = machine.panel.hold("/transfer/success")
    words = ["--to", ADDRESS, "--panel-key-file", str(key), "--plan", str(plan)]
    words += ["--family", "pelican", "--detach"]
    await run("wingsctl", "evacuate", *words)
    check("the unit runs", await state(machine) == ("active", "enabled"), await state(machine))
    check("it names the file of the key, and not the key", KEY not in UNIT_FILE.read_text())
    await machine.within(machine.panel.called("/transfer/success"), "the first transfer")
    before = await machine.property("MainPID", UNIT)
    await run("systemctl", "kill", "--signal", "KILL", UNIT)
    await run("systemctl", "kill", "--signal", "KILL", "wingsd")
    await until_property(machine, "MainPID", lambda found: found not in (before, "0"))
    check("after a kill it goes on", await state(machine) == ("active", "enabled"))
    await run("systemctl", "stop", UNIT, "wingsd")
    check("a stop does not end the plan", not is_over(plan))
    await run("systemctl", "restart", "multi-user.target")  # as a boot starts it
    check("a boot goes on with it", await state(machine) == ("active", "enabled"))
    held.release()
    await machine.until(lambda: is_over(plan), "the end of the plan")
    states = {each["uuid"]: each["state"] for each in read(plan)["servers"]}
    check("all have moved", states == dict.fromkeys(servers, "moved"), states)
    await machine.until(lambda: not any((VOLUMES / each).exists() for each in servers), "the end")
    whole = [(OTHER / "volumes" / each / "world").read_bytes() == data(each) for each in servers]
    check("they are whole at the other node", all(whole), whole)
    await until_property(machine, "ActiveState", lambda found: found != "active")
    found = (await state(machine), await machine.property("Result", UNIT))
    check(
        "the unit has ended, and no boot starts it", found == (("inactive", "disabled"), "success")
    )
    log = await run("journalctl", "--unit", UNIT, "--output", "cat", "--no-pager")
    check("the journal has what became of each", log.count(": moved") >= SERVERS, log)
    check("and not the key", KEY not in log)
    await clean_up()


async def two_nodes(machine: Machine) -> list[str]:
    """Start the installed node with servers, and another one; return their UUIDs."""
    panel, here = machine.panel, machine.node
    await machine.configure()
    printed = yaml.safe_load(CONFIGURATION.read_text())
    here.uuid = printed["uuid"]
    authority = CONFIGURATION.with_name("ca.pem")
    shutil.copyfile(machine.ca, authority)
    printed["system"]["transfers"] = {"ca_file": str(authority), "disk_reserve": 0}
    there = panel.add_node(ADDRESS, reachable=True, ca=str(machine.ca), uuid=str(uuid4()))
    CONFIGURATION.write_text(yaml.safe_dump(printed))
    servers = [str(uuid4()) for _ in range(SERVERS)]
    for number, uuid in enumerate(servers):
        panel.add_server(server_settings(uuid, port=PORT + number), here)
        panel.add_allocation(here, PORT + number, uuid)
        panel.add_allocation(there, PORT + 100 + number)
        (VOLUMES / uuid).mkdir(parents=True)
        (VOLUMES / uuid / "world").write_bytes(data(uuid))
        await run("chown", "--recursive", "pterodactyl:", str(VOLUMES / uuid))
    OWN.mkdir(mode=0o700)
    await run("systemctl", "restart", "wingsd")
    await start_other(machine, printed, there)
    return servers


async def start_other(machine: Machine, printed: dict[str, Any], node: Any) -> None:
    """Start the node that takes the servers, in a directory of its own."""
    OTHER.mkdir()
    system = printed["system"] | {
        "data": str(OTHER / "volumes"),
        "root_directory": str(OTHER),
        "backup_directory": str(OTHER / "backups"),
        "log_directory": str(OTHER / "logs"),
        "tmp_directory": str(OTHER / "tmp"),
        "machine_id": {"directory": str(OTHER / "machine-id")},
        "sftp": {"enabled": False},
        "username": "",
        "user": {"uid": 0, "gid": 0},
    }
    own = {"uuid": node.uuid, "token_id": node.token_id, "token": node.token, "system": system}
    own["api"] = printed["api"] | {"port": 8081}
    own["control"] = {"socket": str(OTHER / "control.sock")}
    path = OTHER / "config.yml"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(printed | own))
    command = ["twistd3", "--nodaemon", "--pidfile=", "wingsd", "--config", str(path)]
    await run("systemd-run", "--unit", "other-node", "--working-directory", "/", *command)
    await machine.within(machine.panel.called("/reset", 2), "the start of both nodes")


async def paired() -> None:
    """Pair the two nodes, so that the installed one sends copies to the second."""
    socket = str(OTHER / "control.sock")
    made = json.loads(
        await run("wingsctl", "--socket", socket, "pair", "--url", ADDRESS, "--json")
    )
    await run("wingsctl", "pair", "--accept", ADDRESS, made["key"])


async def state(machine: Machine) -> tuple[str, str]:
    """Return whether the unit of the evacuation is active, and enabled."""
    active = await machine.property("ActiveState", UNIT)
    return active, await machine.property("UnitFileState", UNIT)


async def until_property(machine: Machine, name: str, holds: Callable[[str], bool]) -> None:
    """Return when what systemd knows of the unit is so. Raises `Failed` when it is not in time."""
    for _ in range(600):
        if holds(await machine.property(name, UNIT)):
            return
        await run("sleep", "0.1")
    raise Failed(f"{name} of {UNIT} does not change")


def read(plan: Path) -> dict[str, Any]:
    """Return a plan."""
    found: dict[str, Any] = json.loads(plan.read_text())
    return found


def is_over(plan: Path) -> bool:
    """Return whether no server is left to be moved."""
    return not {each["state"] for each in read(plan)["servers"]} & {"waiting", "ordered"}


def data(uuid: str) -> bytes:
    """Return the content of a server."""
    return uuid.encode() * 100_000


async def clean_up() -> None:
    """Leave the machine as the tests before did."""
    await run("systemctl", "stop", "other-node", "wingsd")
    UNIT_FILE.unlink()
    await run("systemctl", "daemon-reload")
    for path in (OTHER, OWN):
        shutil.rmtree(path)
    settings = yaml.safe_load(CONFIGURATION.read_text())
    os.unlink(settings["system"].pop("transfers")["ca_file"])
    CONFIGURATION.write_text(yaml.safe_dump(settings))


main(test)
