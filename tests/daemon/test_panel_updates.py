"""A Panel saves the settings of a running node."""

from __future__ import annotations

import json

import yaml

from tests.support.browser import browse
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive

OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"
NEW = "n3w-" * 16


async def test_a_new_token_is_in_force_for_the_panel_and_open_consoles(
    daemon: ReceivingNode,
) -> None:
    await daemon.start_loaded()
    assert await daemon.upload(archive()) == (200, None)
    browser = await browse(daemon, UUID, node=daemon.node)
    old = daemon.node.token
    update = ("--json", json.dumps({"token": NEW, "allowed_origins": []}))
    path = "/api/update"
    assert await daemon.curl(*update, token=old, path=path) == (200, {"applied": True})
    daemon.node.token = NEW
    status, _ = await daemon.curl(*update, token=old, path=path)
    assert status == 403
    await browser.auth(daemon.panel.console_token(UUID, node=daemon.node))
    await browser.close()
    # The daemon asks the Panel about this server, by the new token, and reports to it.
    daemon.expect(OTHER)
    assert await daemon.upload(archive(), token=daemon.token(OTHER)) == (200, None)
    written = yaml.safe_load((daemon.directory / "config.yml").read_text())
    assert written == daemon.configuration()
    await daemon.wait_for_line("changed by the Panel: token")
    assert not daemon.lines_with(NEW)
