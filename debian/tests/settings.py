#!/usr/bin/python3
"""What changes under a running service: its settings by the Panel, its log by logrotate."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from machine import CONFIGURATION, Machine, check, main, run

COMMENT = "# An administrator was here.\n"
LOG = Path("/var/log/pterodactyl/wingsd.log")
OVERRIDE = Path("/run/systemd/system/wingsd.service.d/log.conf")
OK, FORBIDDEN, UNPROCESSABLE = 200, 403, 422


async def test(machine: Machine) -> None:
    """Save settings as the Panel does, then keep the log in a file."""
    await machine.configure()
    CONFIGURATION.write_text(COMMENT + CONFIGURATION.read_text())
    os.chmod(CONFIGURATION, 0o640)
    await run("systemctl", "restart", "wingsd")
    await it_saves_settings(machine)
    await it_refuses_bad_ones(machine)
    await it_writes_what_the_panel_has(machine)
    await logrotate_moves_its_log(machine)


async def it_saves_settings(machine: Machine) -> None:
    """Under the unit's sandbox, in the operator's file, and without a restart."""
    node, pid = machine.node, await machine.property("MainPID")
    old, new = node.token, "0" * 64
    answer = await update(machine, {"token": new, "debug": True, "allowed_mounts": ["/srv"]})
    check("the Panel's settings are saved", answer == (OK, {"applied": True}), answer)
    node.token = new
    check("the new token is accepted", await status(machine, new) == OK)
    check("the old one is refused", await status(machine, old) == FORBIDDEN)
    text = CONFIGURATION.read_text()
    check("the comment is still there", text.startswith(COMMENT), text)
    state = CONFIGURATION.stat()
    mode = stat.S_IMODE(state.st_mode)
    check("the file is for its owner alone", mode == 0o600, oct(mode))  # noqa: PLR2004
    check("and its owner is the same", (state.st_uid, state.st_gid) == (0, 0), state)
    check("it is the same process", await machine.property("MainPID") == pid)
    uuid = machine.new_server()
    check("a server comes by the new token", await machine.send(uuid) == (OK, ""))
    check("the Panel was told by it", machine.reports(uuid) == ["success"])


async def it_refuses_bad_ones(machine: Machine) -> None:
    """As a whole: nothing is changed."""
    before = CONFIGURATION.read_text()
    answer = await update(machine, {"remote": "nowhere", "token": "1" * 64})
    check("an invalid value is refused", answer[0] == UNPROCESSABLE, answer)
    await update(machine, {"system": {"data": "/", "root_directory": "/etc"}})
    check("nothing is changed", CONFIGURATION.read_text() == before)
    check("directories are named", "system.root_directory" in await machine.log())


async def it_writes_what_the_panel_has(machine: Machine) -> None:
    """`wingsctl configure` changes the same file, from a Panel that cannot be reached."""
    before = CONFIGURATION.read_text()
    command = "wingsctl configure --panel-url https://127.0.0.1:1 --token t --node 1 --override"
    refused = await run("sh", "-c", f"{command}; echo $?")
    check("without a Panel nothing is written", refused.strip().endswith("\n1"), refused)
    check("and the file is as it was", CONFIGURATION.read_text() == before)


async def logrotate_moves_its_log(machine: Machine) -> None:
    """The daemon goes on in a new file."""
    OVERRIDE.parent.mkdir(parents=True, exist_ok=True)
    command = f"/usr/bin/twistd3 --nodaemon --pidfile= --logfile={LOG} wingsd $WINGSD_OPTIONS"
    OVERRIDE.write_text(f"[Service]\nExecStart=\nExecStart={command}\n")
    await run("systemctl", "daemon-reload")
    await run("systemctl", "restart", "wingsd")
    configured = "/etc/logrotate.d/wingsd"
    await run("logrotate", "--debug", configured)
    await run("logrotate", "--force", configured)
    moved = LOG.with_name("wingsd.log.1")
    await machine.until(LOG.exists, "a new file of the log")
    check("the old log is kept", "wingsd" in moved.read_text())
    await update(machine, {"debug": False})
    await machine.until(lambda: "changed by the Panel" in LOG.read_text(), "a line in it")
    check("and the log goes on in a new file", True)
    OVERRIDE.unlink()
    await run("systemctl", "daemon-reload")
    await run("systemctl", "restart", "wingsd")


async def update(machine: Machine, settings: dict[str, Any]) -> tuple[int, Any]:
    """Send settings with curl; return status and answer."""
    header = f"Authorization: Bearer {machine.node.token}"
    return await machine.curl("/api/update", "--header", header, "--json", json.dumps(settings))


async def status(machine: Machine, token: str) -> int:
    """Return how a request with this token is answered."""
    answer = await machine.curl("/api/system", "--header", f"Authorization: Bearer {token}")
    return answer[0]


main(test)
