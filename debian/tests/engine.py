#!/usr/bin/python3
"""The configuration exactly as the Panel prints it, and a real Docker engine."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any
from uuid import uuid4

from docker import APIClient
from docker.errors import NotFound
from machine import VOLUMES, Machine, check, main, run
from twisted.internet.threads import deferToThread

from tests.support import server_settings
from tests.support.image import CHANGES, image_tar

IMAGE = "wingsd-test/busybox"
SCRIPT = """\
echo "installing as $(busybox id -u)"\r
echo "level-name=world" >/mnt/server/server.properties\r
"""
#: `system.log_directory`, and where scripts are while they run.
LOGS, SCRIPTS = Path("/var/log/pterodactyl/install"), Path("/tmp/pterodactyl")  # noqa: S108


async def test(machine: Machine) -> None:
    """A server is installed; another one arrives, runs through a restart, and is deleted."""
    engine = APIClient(version="auto")
    await deferToThread(
        engine.import_image_from_data, image_tar(), repository=IMAGE, tag="latest", changes=CHANGES
    )
    await machine.configure(engine=True)
    await run("systemctl", "restart", "wingsd")
    log = await machine.log()
    check("its sandbox lets it reach the engine", "cannot reach the Docker engine" not in log, log)
    await it_installs(machine)
    uuid = machine.new_server(image=f"~{IMAGE}", invocation="while read -r line; do :; done")
    answer = await machine.send(uuid)
    check("a server is received", answer == (200, ""), answer)
    machine.check_files(uuid)
    await it_plays(machine, engine, uuid)
    status, _ = await machine.panel.ask(machine.node, "DELETE", f"/api/servers/{uuid}")
    check("the Panel has it deleted", status == 204, status)  # noqa: PLR2004
    await machine.until(lambda: container(engine, uuid) is None, "its container to be gone")
    await run("systemctl", "stop", "wingsd")


async def it_installs(machine: Machine) -> None:
    """Have the Panel create a server, whose script the engine reads in the machine's /tmp."""
    uuid = str(uuid4())
    settings = server_settings(uuid, image=f"~{IMAGE}", invocation="busybox sleep 600")
    script = {"entrypoint": "/bin/sh", "script": SCRIPT}
    await machine.panel.create_server_on(
        machine.node, settings, script=script, start_on_completion=True
    )
    await machine.until(
        lambda: machine.panel.installed(uuid) is not None, "the result of the installation"
    )
    check("a server is installed", machine.panel.installed(uuid), await machine.log())
    written = VOLUMES / uuid / "server.properties"
    check("by the script of its egg", written.read_text() == "level-name=world\n", SCRIPT)
    log = (LOGS / f"{uuid}.log").read_text()
    check("its output is in the log", log.endswith("installing as 0\n"), log)
    left = list(SCRIPTS.iterdir())
    check("the script is removed", not left, left)
    engine = APIClient(version="auto")
    await machine.until(lambda: is_running(engine, uuid), "the installed server to run")
    owner = pwd.getpwuid(written.stat().st_uid).pw_name
    check("its files are the servers' user's", owner == "pterodactyl", owner)
    status, _ = await machine.panel.ask(machine.node, "DELETE", f"/api/servers/{uuid}")
    await machine.until(lambda: not (VOLUMES / uuid).exists(), "its files to be deleted")
    check("it is deleted", (status, container(engine, uuid)) == (204, None), status)


async def it_plays(machine: Machine, engine: APIClient, uuid: str) -> None:
    """Start it, and restart the daemon."""
    made = container(engine, uuid)
    check("its container is made", made, made)
    assert made is not None  # noqa: S101 - just checked
    sources = [mount["Source"] for mount in made["Mounts"]]
    check("with its files in it", str(VOLUMES / uuid) in sources, sources)
    await machine.panel.power(uuid, "start")
    await machine.until(lambda: is_running(engine, uuid), "the server to run")
    before = container(engine, uuid)
    await run("systemctl", "restart", "wingsd")
    after = container(engine, uuid)
    assert before is not None  # noqa: S101 - it runs
    same = after and after["State"]["Pid"] == before["State"]["Pid"]
    check("it runs on while the daemon is restarted", same, after)
    path = f"/api/servers/{uuid}"
    _, server = await machine.panel.ask(machine.node, "GET", path)
    check("and the daemon has it again", server["state"] == "running", server)


def container(engine: APIClient, uuid: str) -> dict[str, Any] | None:
    """Return what the engine knows of a server's container, if there is one."""
    try:
        found: dict[str, Any] = engine.inspect_container(uuid)
    except NotFound:
        return None
    return found


def is_running(engine: APIClient, uuid: str) -> bool:
    """Tell whether a server's container runs."""
    found = container(engine, uuid)
    return found is not None and bool(found["State"]["Running"])


main(test)
