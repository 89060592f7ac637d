"""A user's page makes backups that are points, and gets yesterday's files. By `make browser`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.browser.chromium import CHROMIUM, Chromium, PanelPage
from tests.daemon.backed_up_server import BACKUP, UUID, BackedUpServer
from tests.daemon.test_point_backups import names, settings
from tests.support.archives import seen
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.tokens import signed_url_token
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and os.environ.get("BROWSER")), reason="by `make browser` only"
)
FILES, BACKUPS = f"/api/servers/{UUID}/files", f"/api/servers/{UUID}/backup"


class UsedPage:
    """The page of a server, which is open in Chromium: the node's answers to what a user does."""

    def __init__(self, directory: Path, family: str) -> None:
        self.family = family
        self.server = BackedUpServer(ReceivingNode(directory / "node"))
        self.daemon = self.server.daemon
        self.page = PanelPage(self.server.panel, self.daemon.node)
        self.chromium = Chromium(directory)

    async def open(self) -> None:
        origin = self.page.listen()
        await self.daemon.start_loaded(
            family=self.family, allowed_origins=[origin], system=settings(self.server)
        )
        self.daemon.node.address, self.daemon.node.ca = self.daemon.url, str(self.daemon.ca)
        address = self.daemon.url.replace("https", "wss")
        token = self.server.panel.console_token(UUID)
        self.page.expect(used=f"{address}/api/servers/{UUID}/ws", token=token)
        self.chromium.open(origin)

    async def close(self) -> None:
        await self.chromium.close()
        await self.page.close()
        await self.daemon.close()

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Return what the node answers, when the page has also heard of an `event`."""
        told = await self.page.use(ask=[method, path, body], **more)
        assert 200 <= told["status"] < 300, told
        return json.loads(told["text"]) if told["text"] else None

    async def listed(self, directory: str) -> list[str]:
        found = await self.ask("GET", f"{FILES}/list-directory?directory={quote(directory)}")
        return [each["name"] for each in found]

    async def saved(self, name: str, path: str, scope: str, **claims: Any) -> Path:
        """Let the browser save a signed URL; return the saved file, by the end of its name."""
        is_of_server = self.family != CALAGOPUS or scope != "backup-download"
        owner = UUID if is_of_server else None
        key = self.daemon.node.token
        token = signed_url_token(key, owner, scope, self.family, **claims)
        await self.page.use(save=f"{self.daemon.url}{path}?token={token}")
        found: list[Path] = []

        def is_saved() -> bool:
            found[:] = [each for each in self.chromium.downloads.iterdir() if each.suffix == name]
            return bool(found)

        await until(is_saved)
        return found[0]

    async def delete(self) -> None:
        """Delete the backup as the family's Panel does."""
        if self.family == CALAGOPUS:
            body = {"adapter": "wings", "foreground": True, "server": UUID}
            await self.ask("DELETE", f"/api/backups/{BACKUP}", body)
        else:
            await self.ask("DELETE", f"{BACKUPS}/{BACKUP}")
        await until(lambda: not names(self.server))


@pytest.fixture(params=[PTERODACTYL, PELICAN, CALAGOPUS])
def used(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[UsedPage]:
    made = UsedPage(tmp_path, request.param)
    made.server.fill()
    pytest_twisted.blockon(Deferred.fromCoroutine(made.open()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.mark.promise("backup-is-a-point")
@pytest.mark.promise("past-is-read-only")
async def test_a_page_makes_saves_restores_and_deletes_a_backup_and_gets_a_file_back(
    used: UsedPage, tmp_path: Path
) -> None:
    server, home = used.server, used.server.home
    whole, level = seen(home), (home / "world/level.dat").read_bytes()
    server.panel.backups.add(BACKUP, UUID)
    body = {"adapter": "wings", "uuid": BACKUP, "ignore": ""}
    await used.ask("POST", BACKUPS, body, event="backup completed")
    assert (await server.told())["checksum"] == names(server)[BACKUP].root

    # The world is lost; the browser saves the backup.
    (home / "world/level.dat").write_bytes(b"griefed")
    (home / "start.sh").unlink()
    saved = await used.saved(".gz", "/download/backup", "backup-download", backup_uuid=BACKUP)
    (tmp_path / "saved").mkdir()
    command = ["tar", "-xzpf", str(saved), "-C", str(tmp_path / "saved")]
    subprocess.run(command, check=True, capture_output=True)
    assert seen(tmp_path / "saved") == whole

    # One file of then is looked for, saved, and another one restored by copying.
    (point,) = await used.listed("/.history")
    past = f"/.history/{point}"
    assert ".history" in await used.listed("/")
    assert "start.sh" in await used.listed(past)
    assert "start.sh" not in await used.listed("/")
    path = f"{past}/world/level.dat"
    saved = await used.saved(".dat", "/download/file", "file-download", file_path=path)
    assert saved.read_bytes() == level
    field = "path" if used.family == CALAGOPUS else "location"
    await used.ask("POST", f"{FILES}/copy", {field: f"{past}/start.sh"})
    assert (home / "start.sh").read_text() == "#!/bin/sh\n"

    # All of it comes back.
    server.panel.show_restoring(UUID, BACKUP)
    order = {"adapter": "wings", "truncate_directory": True}
    await used.ask("POST", f"{BACKUPS}/{BACKUP}/restore", order, event="backup restore completed")
    assert server.panel.restored(UUID) is True
    assert seen(home) == whole
    await used.delete()
    assert seen(home) == whole
