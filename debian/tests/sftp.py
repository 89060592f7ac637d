#!/usr/bin/python3
"""SFTP under the unit: users log in by password and key, upload and download."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from clients import PASSWORD, SftpClient
from machine import VOLUMES, Failed, Machine, check, main, run

CONTENT = hashlib.shake_128(b"file").digest(3_000_001)
#: What the process may not gain by the daemon's privileges: nothing beyond them.
LIMITS = ("NoNewPrivs:\t1", "Seccomp:\t2")


async def test(machine: Machine) -> None:
    """Receive a server, and use its files."""
    await machine.configure()
    await run("systemctl", "restart", "wingsd")
    uuid = machine.new_server()
    await machine.until_answer("/api/system", lambda _: True)
    check("a server is received", await machine.send(uuid) == (200, ""))
    with TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "local").write_bytes(CONTENT)
        client = SftpClient(machine, uuid, place)
        for password in (True, False):
            await transfer(client, uuid, place, password=password)
        await refused(client)
    await confined(machine)
    await run("systemctl", "stop", "wingsd")
    check("it ends cleanly", await machine.property("Result") == "success")


async def transfer(client: SftpClient, uuid: str, place: Path, *, password: bool) -> None:
    """Upload a file and download it."""
    await client.add_user()
    how = "password" if password else "key"
    await client.run(
        *(f"put -p {place}/local /maps/{how}", f"get /maps/{how} {place}/{how}", "ls -l /maps"),
        password=PASSWORD if password else "",
    )
    stored = VOLUMES / uuid / "maps" / how
    check(f"a file is uploaded by {how}", stored.read_bytes() == CONTENT)
    check("it is downloaded again", (place / how).read_bytes() == CONTENT)
    owner = (VOLUMES / uuid).stat()
    found = [path.stat() for path in (stored, stored.parent)]
    owned = all((one.st_uid, one.st_gid) == (owner.st_uid, owner.st_gid) for one in found)
    check("it belongs to the servers' user", owned, found)


async def refused(client: SftpClient) -> None:
    """A wrong password is refused."""
    try:
        await client.run("ls", password="wrong")  # noqa: S106
    except Failed as failed:
        check("a wrong password is refused", "Permission denied" in str(failed), failed)
    else:
        raise Failed("a wrong password is accepted")


async def confined(machine: Machine) -> None:
    """The process that serves it is the daemon's child, with the unit's sandbox."""
    pid = await machine.property("MainPID")
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text().split()]
    processes = [Path(f"/proc/{child}") for child in children]
    serving = [one for one in processes if b"sftp" in (one / "cmdline").read_bytes()]
    check("a process of its own serves it", len(serving) == 1, children)
    status = (serving[0] / "status").read_text()
    check("it has the unit's sandbox", all(limit in status for limit in LIMITS), status)
    log = await machine.log()
    check("nothing of it has failed", "has failed" not in log, log)


main(test)
