#!/usr/bin/python3
"""Files of a server under the unit: by signed URLs, as browsers use them, and from a URL."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from machine import CONFIGURATION, VOLUMES, Machine, check, main, run, serving

from tests.support.tokens import signed_url_token

#: As a browser shows it, in three alphabets.
NAME = "мир 例 world.zip"
CONTENT = hashlib.shake_128(b"file").digest(3_000_001)
OK, BAD_REQUEST = 200, 400


async def test(machine: Machine) -> None:
    """Receive a server, and use its files."""
    await machine.configure()
    allow_localhost()
    await run("systemctl", "restart", "wingsd")
    uuid = machine.new_server()
    await machine.until_answer("/api/system", lambda _: True)
    check("a server is received", await machine.send(uuid) == (OK, ""))
    with TemporaryDirectory() as directory:
        place = Path(directory)
        (place / NAME).write_bytes(CONTENT)
        await upload(machine, uuid, place)
        await resume(machine, uuid, place)
        await download(machine, uuid, place)
        await pull(machine, uuid, place)
    await run("systemctl", "stop", "wingsd")


def allow_localhost() -> None:
    """Have users download from this machine by its name, and by no address."""
    settings = yaml.safe_load(CONFIGURATION.read_text())
    settings["api"]["remote_download"] = {"host_allowlist": ["localhost"]}
    CONFIGURATION.write_text(yaml.safe_dump(settings))


async def upload(machine: Machine, uuid: str, place: Path) -> None:
    """By a form, as a page sends it."""
    address = url(machine, uuid, "/upload/file", "file-upload")
    form = ("--form", f"files=@{place / NAME}")
    await curl(machine, *form, f"{address}&directory=maps")
    stored = VOLUMES / uuid / "maps" / NAME
    check("a file is uploaded by a signed URL", stored.read_bytes() == CONTENT)
    owner = (VOLUMES / uuid).stat().st_uid
    check("it belongs to the servers' user", stored.stat().st_uid == owner, stored.stat())
    again = await run("sh", "-c", f"curl -sk --form files=@/etc/hostname '{address}'")
    check("its address is good once", "was not found on this server" in again, again)


async def resume(machine: Machine, uuid: str, place: Path) -> None:
    """In parts, between which the service is started again."""
    path = "&directory=parts&file=world.zip"
    size = len(CONTENT)
    for begin, end, more in ((0, 2_000_000, ()), (2_000_000, size, ("Upload-Complete: ?1",))):
        (place / "part").write_bytes(CONTENT[begin:end])
        sent = (f"Upload-Offset: {begin}", f"Upload-Length: {size}", *more)
        headers = [part for header in sent for part in ("--header", header)]
        body = ("--request", "PATCH", "--data-binary", f"@{place / 'part'}")
        address = url(machine, uuid, "/upload/file", "file-upload") + path
        await curl(machine, *body, *headers, address)
        await run("systemctl", "restart", "wingsd")
        await machine.until_answer("/api/system", lambda _: True)
    stored = VOLUMES / uuid / "parts" / "world.zip"
    check("an upload goes on after a restart", stored.read_bytes() == CONTENT)


async def download(machine: Machine, uuid: str, place: Path) -> None:
    """By the name that the node gives, and the rest of one that was broken off."""
    saved = place / "saved"
    saved.mkdir()
    address = url(machine, uuid, "/download/file", "file-download", file_path=f"maps/{NAME}")
    await curl(machine, "--remote-name", "--remote-header-name", "--output-dir", saved, address)
    (file,) = saved.iterdir()
    check("a file is downloaded by a signed URL", file.read_bytes() == CONTENT, file)
    await curl(machine, "--range", "1000000-1999999", "--output", saved / "part", address)
    part = (saved / "part").read_bytes()
    check("its range as well", part == CONTENT[1_000_000:2_000_000], len(part))


async def pull(machine: Machine, uuid: str, place: Path) -> None:
    """From a server on this machine, which is allowed by its name alone."""
    with serving(place) as port:
        path = f"{port}/%D0%BC%D0%B8%D1%80%20%E4%BE%8B%20world.zip"
        status, answer = await pulled(machine, uuid, f"http://localhost:{path}")
        check("a file is downloaded from a URL", status == OK, answer)
        stored = VOLUMES / uuid / "pulled" / NAME
        check("and is whole", stored.read_bytes() == CONTENT)
        status, answer = await pulled(machine, uuid, f"http://127.0.0.1:{path}")
        found = (status, answer["code"])
        check(
            "an address of the node is refused", found == (BAD_REQUEST, "address-blocked"), found
        )


async def pulled(machine: Machine, uuid: str, address: str) -> tuple[int, Any]:
    """Have the node download a file; return status and answer."""
    body = json.dumps({"root": "/pulled", "url": address, "foreground": True})
    header = f"Authorization: Bearer {machine.node.token}"
    path = f"/api/servers/{uuid}/files/pull"
    return await machine.curl(path, "--header", header, "--json", body)


def url(machine: Machine, uuid: str, path: str, scope: str, **claims: Any) -> str:
    """Return an address as the Panel makes it for a click."""
    return f"{machine.node.address}{path}?token=" + signed_url_token(
        machine.node.token, uuid, scope, **claims
    )


async def curl(machine: Machine, *arguments: str | Path) -> None:
    """Run curl, which trusts the node's certificate. Raises `Failed` when it fails."""
    await run("curl", "-sS", "--fail-with-body", "--cacert", str(machine.ca), *map(str, arguments))


main(test)
