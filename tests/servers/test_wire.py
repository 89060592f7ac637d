"""Servers and a real Panel: what goes over the wire."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import Answer, Call, FakeContainers, server_settings
from tests.support import Panel as FakePanel
from tests.support.harness import Harness, node_config
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from wingsd.config import RemoteQuery
from wingsd.panel import client
from wingsd.threadio import Workers
from wingsd.util.retry import Backoff


async def test_all_pages_but_bad_servers_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(client, "BACKOFF", Backoff(0.001, 12.0, factor=1.5))
    (tmp_path / "volumes").mkdir()
    panel, workers = FakePanel(), Workers(reactor, "disk", 2)
    workers.start()
    here = panel.add_node("https://here.invalid:8080")
    config = node_config(
        tmp_path,
        remote=await panel.listen(reactor),
        token_id=here.token_id,
        token=here.token,
        remote_query=RemoteQuery(boot_servers_per_page=2),
    )
    daemon = Harness(config, workers, None, FakeContainers())
    try:
        uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(5)]
        for uuid in uuids:
            panel.add_server(server_settings(uuid), here)
        panel.settings_of(uuids[1])["mounts"] = "nonsense"
        panel.inject("/servers", Answer(502, b"updating", "text/html"))
        await daemon.servers.boot()
        assert [server.uuid for server in daemon.servers.all()] == uuids[:1] + uuids[2:]
        assert any(line.startswith(f"{uuids[1]}: not loaded") for line in logged.lines)
        await panel.called("/servers/reset")
        assert panel.calls[-1] == Call("POST", "/api/remote/servers/reset")
    finally:
        await daemon.servers.stop()
        await daemon.running.stop()
        await panel.close()
        daemon.store.close()
        workers.stop()
