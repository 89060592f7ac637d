#!/usr/bin/python3
"""The configuration exactly as the Panel prints it, and a real Docker engine."""

from __future__ import annotations

from typing import Any

from docker import APIClient
from docker.errors import NotFound
from machine import VOLUMES, Machine, check, main, run
from twisted.internet.threads import deferToThread

from tests.support.image import CHANGES, image_tar

IMAGE = "wingsd-test/busybox"


async def test(machine: Machine) -> None:
    """A server arrives, plays, plays on while the daemon is restarted, and is deleted."""
    engine = APIClient(version="auto")
    await deferToThread(
        engine.import_image_from_data, image_tar(), repository=IMAGE, tag="latest", changes=CHANGES
    )
    await machine.configure(engine=True)
    await run("systemctl", "restart", "wingsd")
    log = await machine.log()
    check("its sandbox lets it reach the engine", "cannot reach the Docker engine" not in log, log)
    uuid = machine.new_server(image=f"~{IMAGE}", invocation="while read -r line; do :; done")
    answer = await machine.send(uuid)
    check("a server is received", answer == (200, ""), answer)
    machine.check_files(uuid)
    await it_plays(machine, engine, uuid)
    status, _ = await machine.panel.ask(machine.node, "DELETE", f"/api/servers/{uuid}")
    check("the Panel has it deleted", status == 204, status)  # noqa: PLR2004
    await machine.until(lambda: container(engine, uuid) is None, "its container to be gone")
    await run("systemctl", "stop", "wingsd")


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
