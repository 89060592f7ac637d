"""A user's browser downloads and uploads by signed URLs. `make browser` runs these tests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.browser.chromium import CHROMIUM, WITHIN, Chromium, PanelPage
from tests.support import server_settings
from tests.support.reactor import reactor, until
from tests.support.receiving_node import ReceivingNode
from tests.support.tokens import signed_url_token

SERVER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"
MIB = 1 << 20
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and os.environ.get("BROWSER")), reason="by `make browser` only"
)


class Desk:
    """A daemon with a server, the page of its Panel, and a browser."""

    def __init__(self, directory: Path) -> None:
        self.daemon = ReceivingNode(directory / "node")
        self.page = PanelPage()
        self.chromium = Chromium(directory)
        self.origin = ""

    async def start(self) -> None:
        self.origin = self.page.listen()
        self.daemon.panel.add_server(server_settings(SERVER), self.daemon.node)
        await self.daemon.start_loaded(allowed_origins=[self.origin])
        self.home.mkdir(exist_ok=True)

    @property
    def home(self) -> Path:
        return self.daemon.volumes / SERVER

    def url(self, path: str, scope: str, **claims: Any) -> str:
        token = signed_url_token(self.daemon.node.token, SERVER, scope, **claims)
        return f"{self.daemon.url}{path}?token={token}"

    async def upload(self, name: str, size: int) -> Any:
        """Have the page upload a file; return what it saw."""
        seen = self.page.expect(url=self.url("/upload/file", "file-upload"), name=name, size=size)
        self.chromium.open(self.origin)
        return await seen.addTimeout(WITHIN, reactor)

    async def close(self) -> None:
        await self.chromium.close()
        await self.page.close()
        await self.daemon.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    pytest_twisted.blockon(Deferred.fromCoroutine(made.start()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


async def test_a_browser_saves_a_file_under_its_name(desk: Desk) -> None:
    content = os.urandom(5 * MIB)
    (desk.home / "мир café 1.zip").write_bytes(content)
    url = desk.url("/download/file", "file-download", file_path="/мир café 1.zip")
    desk.page.expect(url=url)
    desk.chromium.open(desk.origin)
    saved = desk.chromium.downloads / "мир café 1.zip"
    await until(saved.exists)
    assert saved.read_bytes() == content


async def test_a_browser_uploads_a_file(desk: Desk) -> None:
    seen = await desk.upload('мир "1".zip', 20 * MIB)
    assert (seen["status"], seen["text"]) == (200, "")
    assert (desk.home / 'мир "1".zip').read_bytes() == b"x" * 20 * MIB


@pytest.mark.promise("uploads-resume")
async def test_a_browser_uploads_a_file_in_parts(desk: Desk) -> None:
    urls = [
        f"{desk.url('/upload/file', 'file-upload')}&directory=maps&file=map.zip" for _ in range(3)
    ]
    seen = desk.page.expect(urls=urls, size=2 * MIB, total=5 * MIB)
    desk.chromium.open(desk.origin)
    told = await seen.addTimeout(WITHIN, reactor)
    assert told == {"offsets": [[200, 2 * MIB], [200, 4 * MIB], [200, 5 * MIB]]}
    assert (desk.home / "maps/map.zip").read_bytes() == b"x" * 5 * MIB


@pytest.mark.promise("refused-upload-leaves-nothing")
@pytest.mark.parametrize("size", [101, 300])
async def test_a_browser_shows_why_a_file_is_too_large(desk: Desk, size: int) -> None:
    seen = await desk.upload("map.zip", size * MIB)
    assert seen["status"] == 400, seen
    error = json.loads(seen["text"])["error"]
    assert error == "File map.zip is larger than the maximum file upload size of 100 MB."
    assert [*desk.home.iterdir()] == []
