"""An owner's page in Chromium while the server is moved. `make browser` runs this test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.browser.chromium import CHROMIUM, WITHIN, Chromium, PanelPage
from tests.daemon.test_live_moves import OWNER, TALKER, start
from tests.support.docker_engine import Engine
from tests.support.reactor import reactor
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and os.environ.get("BROWSER")), reason="by `make browser` only"
)


async def test_an_open_page_is_used_while_the_server_is_sent(
    tmp_path: Path, engine: Engine
) -> None:
    nodes, page, chromium = TwoNodes(tmp_path / "nodes"), PanelPage(), Chromium(tmp_path)
    try:
        origin = page.listen()
        await start(nodes, engine, TALKER, allowed_origins=[origin])
        address = nodes.source.node.address.replace("https", "wss")
        token = nodes.panel.console_token(UUID, ("*",), user=OWNER)
        opened = page.expect(console=f"{address}/api/servers/{UUID}/ws", token=token)
        chromium.open(origin)
        assert await opened.addTimeout(WITHIN, reactor) == {"isOpen": True}
        told = page.expect()
        await nodes.transfer()
        await nodes.source.wait_for_line("round 1: ")
        await nodes.source.wait_for_line(f"{UUID}: state success")
        seen = await told.addTimeout(WITHIN, reactor)
        assert seen["states"] == ["starting", "processing"]
        assert seen["answers"] > 0
    finally:
        await chromium.close()
        await page.close()
        await nodes.close()
