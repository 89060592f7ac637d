#!/usr/bin/python3
"""Backups under the unit: made, verified, restored, sent to a store, restored from it, deleted."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import yaml
from clients import BROKEN, WORLD, made, restored
from machine import (
    CONFIGURATION,
    HOME,
    STAGING,
    VOLUMES,
    Failed,
    Machine,
    check,
    main,
    run,
    serving,
)
from twisted.internet import reactor

from tests.support.s3_store import PartSigner, S3Store

BACKUPS = HOME / "backups"
PRIVATE = 0o600


async def test(machine: Machine) -> None:
    """Receive a server, and make and use its backups."""
    await machine.configure()
    allow_localhost()
    await run("systemctl", "restart", "wingsd")
    uuid = machine.new_server()
    await machine.until_answer("/api/system", lambda _: True)
    check("a server is received", await machine.send(uuid) == (HTTPStatus.OK, ""))
    backup = await it_is_made(machine, uuid)
    await it_is_restored(machine, uuid, backup)
    await a_7z_is_restored(machine, uuid)
    await a_damaged_one_changes_nothing(machine, uuid, backup)
    await it_is_deleted(machine, uuid, backup)
    await it_is_in_a_store(machine, uuid)
    await run("systemctl", "stop", "wingsd")


def allow_localhost() -> None:
    """Have backups restored from this machine by its name, and by no address."""
    settings = yaml.safe_load(CONFIGURATION.read_text())
    settings["system"]["backups"] = {"restore_host_allowlist": ["localhost"]}
    CONFIGURATION.write_text(yaml.safe_dump(settings))


async def it_is_made(machine: Machine, uuid: str) -> str:
    """An archive of the daemon's own, with the checksum that was told."""
    backup, told = await made(machine, uuid, "wings")
    archive = BACKUPS / f"{backup}.tar.gz"
    checksum = hashlib.sha1(archive.read_bytes(), usedforsecurity=False).hexdigest()
    check("it is as it was told", told["checksum"] == checksum, told)
    mode = archive.stat().st_mode & 0o777
    check("the daemon's user alone reads it", mode == PRIVATE, oct(mode))
    check("it is listed", backup in await run("wingsctl", "backups"))
    await run("wingsctl", "verify", backup)
    names = (await run("tar", "-tzf", str(archive))).split()
    check("it is whole, and has the server's files", machine.content.keys() <= {*names}, names)
    return backup


async def it_is_restored(machine: Machine, uuid: str, backup: str) -> None:
    """Over the present files, and in place of all of them."""
    check("it is laid over the files", await restored(machine, uuid, backup))
    machine.check_files(uuid)
    later = VOLUMES / uuid / "later"
    later.write_bytes(b"later")
    done = await restored(machine, uuid, backup, truncate_directory=True)
    check("it is restored in place of them", done and not later.exists())
    (kept,) = (STAGING / ".quarantine").glob(f"{uuid}.replaced.*")
    check("they are in quarantine", (kept / WORLD).read_bytes() == BROKEN, kept)


async def a_7z_is_restored(machine: Machine, uuid: str) -> None:
    """As nodes of Calagopus' make it; a process without rights parses it."""
    backup = str(uuid4())
    archive = BACKUPS / f"{backup}.7z"
    await run("sh", "-c", f"cd {VOLUMES / uuid} && 7z a -bd -bso0 {archive} .")
    check("a 7z is restored", await restored(machine, uuid, backup))
    check("it is whole", (VOLUMES / uuid / WORLD).read_bytes() == machine.content[WORLD])


async def a_damaged_one_changes_nothing(machine: Machine, uuid: str, backup: str) -> None:
    """It is found out by a restore, and by an operator."""
    archive = BACKUPS / f"{backup}.tar.gz"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    done = await restored(machine, uuid, backup, truncate_directory=True)
    check("a damaged one is not restored", not done)
    check("the server is as it was", (VOLUMES / uuid / WORLD).read_bytes() == BROKEN)
    try:
        await run("wingsctl", "verify", backup)
    except Failed as failed:
        check("wingsctl finds it, too", "damaged" in str(failed), failed)
    else:
        raise Failed("wingsctl takes a damaged backup for a whole one")


async def it_is_deleted(machine: Machine, uuid: str, backup: str) -> None:
    """The archive and its catalogue."""
    path = f"/api/servers/{uuid}/backup/{backup}"
    status, answer = await machine.panel.ask(machine.node, "DELETE", path)
    check("a backup is deleted", status == HTTPStatus.NO_CONTENT, answer)
    left = [*BACKUPS.glob(f"*{backup}*")]
    check("nothing of it is left", not left, left)


async def it_is_in_a_store(machine: Machine, uuid: str) -> None:
    """It is uploaded in parts, and restored by a link."""
    (VOLUMES / uuid / WORLD).write_bytes(machine.content[WORLD])
    store = S3Store(reactor)
    store.listen()
    signer = machine.panel.backups.signer = PartSigner(store)
    try:
        backup, told = await made(machine, uuid, "s3")
    finally:
        await store.close()
    data = store.object(signer.upload_of(backup))
    checksum = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    check("the store has it", told["checksum"] == checksum, told)
    await machine.until(lambda: not [*BACKUPS.glob(f"*{backup}*")], "its removal from the node")
    with TemporaryDirectory() as directory, serving(Path(directory)) as port:
        (Path(directory) / "backup.gz").write_bytes(data)
        link = {"adapter": "s3", "download_url": f"http://localhost:{port}/backup.gz"}
        check("it is restored from there", await restored(machine, uuid, backup, **link))
    check("it is whole", (VOLUMES / uuid / WORLD).read_bytes() == machine.content[WORLD])


main(test)
