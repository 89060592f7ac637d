#!/usr/bin/python3
"""A browser uploads and downloads files of a server under the unit, by signed URLs."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from machine import CONFIGURATION, VOLUMES, Machine, check, main, run

from tests.browser.chromium import Chromium, PanelPage
from tests.support.tokens import signed_url_token

#: As a browser shows it, in three alphabets.
NAME = "мир 例 world.zip"
MIB = 1 << 20
OK = 200


async def test(machine: Machine) -> None:
    """Receive a server, and use its files with Chromium."""
    page = PanelPage()
    origin = page.listen()
    await machine.configure()
    allow(origin)
    await run("systemctl", "restart", "wingsd")
    uuid = machine.new_server()
    await machine.until_answer("/api/system", lambda _: True)
    check("a server is received", await machine.send(uuid) == (OK, ""))
    await upload(machine, uuid, page, origin)
    await download(machine, uuid, page, origin)
    await page.close()
    await run("systemctl", "stop", "wingsd")


def allow(origin: str) -> None:
    """Let the Panel's pages use the node."""
    settings = yaml.safe_load(CONFIGURATION.read_text())
    settings["allowed_origins"] = [origin]
    CONFIGURATION.write_text(yaml.safe_dump(settings))


async def upload(machine: Machine, uuid: str, page: PanelPage, origin: str) -> None:
    """By a form, with progress, as the page of a Panel sends it."""
    address = url(machine, uuid, "/upload/file", "file-upload")
    told = page.expect(url=address, name=NAME, size=3 * MIB)
    with TemporaryDirectory() as directory:
        chromium = Chromium(Path(directory))
        chromium.open(origin)
        await machine.within(told, "the page's report")
        await chromium.close()
    answer = await told
    check("the node answers the page with 200", answer["status"] == OK, answer)
    check("the page saw the progress of its upload", answer["sent"] > 3 * MIB, answer)
    stored = VOLUMES / uuid / NAME
    check("the file is whole", stored.read_bytes() == b"x" * (3 * MIB))


async def download(machine: Machine, uuid: str, page: PanelPage, origin: str) -> None:
    """By a click."""
    content = os.urandom(3 * MIB)
    (VOLUMES / uuid / NAME).write_bytes(content)
    page.expect(url=url(machine, uuid, "/download/file", "file-download", file_path=NAME))
    with TemporaryDirectory() as directory:
        chromium = Chromium(Path(directory))
        chromium.open(origin)
        saved = chromium.downloads / NAME
        await machine.until(saved.exists, "the file that the browser saves")
        check("a file is saved under its name", saved.read_bytes() == content)
        await chromium.close()


def url(machine: Machine, uuid: str, path: str, scope: str, **claims: Any) -> str:
    """Return an address as the Panel makes it for a click."""
    token = signed_url_token(machine.node.token, uuid, scope, **claims)
    return f"{machine.node.address}{path}?token={token}"


main(test)
