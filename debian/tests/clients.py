"""The users of a machine's node: one who makes and restores backups, and one with SFTP."""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

from machine import VOLUMES, Machine, check, run

from tests.support.sftp_users import SftpUser

__all__ = ["BROKEN", "PASSWORD", "WORLD", "SftpClient", "made", "restored"]

WORLD = "world/region/r.0.0.mca"
#: What the server's program made of its world.
BROKEN = b"broken"
PASSWORD = "correct horse"  # noqa: S105
USER = "2f0c0b1e-5d0a-4d57-8d0c-6b1f3c7a9e21"


async def made(machine: Machine, uuid: str, adapter: str) -> tuple[str, dict[str, Any]]:
    """Order a backup and wait for its end; return its UUID, and the node's report to the Panel."""
    backup = str(uuid4())
    known = machine.panel.backups.add(backup, uuid)
    body = {"adapter": adapter, "uuid": backup, "ignore": ""}
    path = f"/api/servers/{uuid}/backup"
    status, answer = await machine.panel.ask(machine.node, "POST", path, body)
    check(f"a backup is begun ({adapter})", status == HTTPStatus.ACCEPTED, answer)
    await machine.until(lambda: known.is_over, "the report of the backup")
    told = known.told or {}
    check("the Panel hears that it is made", told["successful"], told)
    return backup, told


async def restored(machine: Machine, uuid: str, backup: str, **request: Any) -> bool:
    """Break the server, and have a backup restored; return what the Panel hears."""
    world = VOLUMES / uuid / WORLD
    world.unlink()
    world.write_bytes(BROKEN)
    await machine.panel.restore(uuid, backup, **request)
    panel = machine.panel
    await machine.until(lambda: panel.restored(uuid) is not None, "the report of the restore")
    return bool(panel.restored(uuid))


class SftpClient:
    """OpenSSH's `sftp` of a user whom the Panel knows, for one server, with files in `place`."""

    def __init__(self, machine: Machine, uuid: str, place: Path) -> None:
        self._machine = machine
        self._uuid = uuid
        self._place = place

    async def add_user(self) -> None:
        """Add the user to the Panel, with a password and a key."""
        key = self._place / "key"
        if not key.exists():
            await run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
        user = SftpUser(USER, PASSWORD, {public}, {self._uuid: ["*"]})
        self._machine.panel.sftp_users.add("anna", user)

    async def run(self, *lines: str, password: str = "", rate: int = 0) -> str:
        """Run commands, with the key where there is no password. Raises `Failed`.

        `rate` is the most kbit a second, if there is one.
        """
        place = self._place
        batch, askpass = place / f"batch-{os.urandom(4).hex()}", place / "askpass"
        batch.write_text("".join(f"{line}\n" for line in lines))
        askpass.write_text(f"#!/bin/sh\necho '{password}'\n")
        askpass.chmod(0o700)
        options = ["Port=2022", "StrictHostKeyChecking=accept-new", "BatchMode=no"]
        options += [f"UserKnownHostsFile={place}/known", "NumberOfPasswordPrompts=1"]
        options += ["IdentitiesOnly=yes", f"IdentityFile={place}/key"]
        options += [f"PubkeyAuthentication={'no' if password else 'yes'}"]
        limit = ["-l", f"{rate}"] if rate else []
        command = ["sftp", *limit, *(f"-o{option}" for option in options)]
        asking = {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
        user = f"anna.{self._uuid[:8]}@127.0.0.1"
        return await run(*command, "-b", str(batch), user, env=asking)
