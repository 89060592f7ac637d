"""A user finds a file as it was in the file manager, and restores it. `make browser` runs this."""

from __future__ import annotations

import json
import os
from urllib.parse import urlencode

import pytest

from tests.browser.chromium import CHROMIUM, WITHIN
from tests.browser.test_signed_urls import SERVER, Desk, desk
from tests.daemon.test_histories import settings
from tests.support.reactor import reactor, until

__all__ = ["desk"]

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and os.environ.get("BROWSER")), reason="by `make browser` only"
    ),
    pytest.mark.promise("past-is-read-only"),
]


def manager(desk: Desk) -> None:
    """Have the page's file manager ask the node, as the Panel does for it."""
    calls = f"/api/servers/{SERVER}/files"
    daemon = desk.daemon

    async def manage(name: str, given: dict[str, str]) -> tuple[int, bytes]:
        if name == "list":
            return await daemon.fetch(f"{calls}/list-directory?{urlencode(given)}")
        if name == "download":
            return 200, json.dumps(desk.url("/download/file", "file-download", **given)).encode()
        body = ("-H", "Content-Type: application/json", "-d", json.dumps(given))
        return await daemon.fetch(f"{calls}/{name}", "-X", "POST", *body)

    desk.page.manage = manage


async def point(desk: Desk) -> None:
    ran = await desk.daemon.wingsctl("history", "make", SERVER)
    assert ran.status == 0, ran.err


async def test_a_browser_restores_a_file_of_the_past(desk: Desk) -> None:
    await desk.daemon.kill()
    await desk.daemon.start_loaded(
        allowed_origins=[desk.origin], system=settings(desk.daemon, every="1h")
    )
    manager(desk)
    (desk.home / "world").mkdir()
    (desk.home / "world/level.dat").write_bytes(b"before the grief")
    await point(desk)
    (desk.home / "world/level.dat").unlink()
    (desk.home / "world").rmdir()
    (desk.home / "note").write_bytes(b"all gone")
    await point(desk)
    seen = desk.page.expect(files=[".history", None, "world", "level.dat"])
    desk.chromium.open(desk.origin)
    told = await seen.addTimeout(WITHIN, reactor)
    assert told == {
        "seen": [[".history", "note"], told["seen"][1], ["world"], ["level.dat"]],
        "copied": 204,
        "after": [".history", "world", "note"],
    }
    assert len(told["seen"][1]) == 2
    assert (desk.home / "world/level.dat").read_bytes() == b"before the grief"
    saved = desk.chromium.downloads / "level.dat"
    await until(saved.exists)
    assert saved.read_bytes() == b"before the grief"
