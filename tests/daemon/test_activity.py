"""The activity of a user's browser, on its way to the Panel through restarts of the daemon."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import Answer, server_settings
from tests.support.browser import browse
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from wingsd.statedb import Store

SERVER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"
OFTEN: dict[str, Any] = {"system": {"activity_send_interval": 1}}


def events(daemon: ReceivingNode) -> list[str]:
    return [entry["event"] for entry in daemon.panel.activity]


def stored(daemon: ReceivingNode) -> list[str]:
    """Return what the daemon has stored and not sent."""
    store = Store(str(daemon.directory))
    store.open(read_only=True)
    try:
        return [entry.event for entry in store.activity(0, 100)]
    finally:
        store.close()


@pytest.mark.promise("activity-survives-a-kill")
async def test_activity_survives_a_kill_and_a_panel_that_is_away(daemon: ReceivingNode) -> None:
    daemon.panel.add_server(server_settings(SERVER), daemon.node)
    daemon.panel.inject("/activity", Answer(503), times=1000)
    await daemon.start_loaded(**OFTEN)
    browser = await browse(daemon, SERVER)
    browser.send("set state", "stop")
    await until(lambda: stored(daemon) == ["server:power.stop"])
    await daemon.wait_for_line("activity not sent, entries waiting: 1")
    await daemon.kill()
    await daemon.start_loaded(**OFTEN)
    browser = await browse(daemon, SERVER)
    browser.send("set state", "kill")
    browser.send("send stats")
    await browser.wait_for("stats")
    daemon.signal("TERM")
    await daemon.ended()
    assert stored(daemon) == ["server:power.stop", "server:power.kill"], (
        "all was stored at its end"
    )
    daemon.panel.heal("/activity")
    await daemon.start_loaded(**OFTEN)
    await until(lambda: len(events(daemon)) > 1)
    assert events(daemon) == ["server:power.stop", "server:power.kill"]
    first = daemon.panel.activity[0]
    assert (first["ip"], first["metadata"], first["server"]) == ("127.0.0.1", {}, SERVER)
    await until(lambda: stored(daemon) == [])


async def test_pelicans_panel_has_the_state_of_each_server(daemon: ReceivingNode) -> None:
    daemon.panel.add_server(server_settings(SERVER), daemon.node)
    await daemon.start_loaded(family="pelican")
    await daemon.panel.called("/container/status")
    browser = await browse(daemon, SERVER)
    browser.send("set state", "start")  # There are no containers on this node.
    await until(
        lambda: daemon.panel.statuses[-1][2] == "offline" and len(daemon.panel.statuses) > 1
    )
    assert daemon.panel.statuses[0] == (SERVER, "offline", "offline")
    assert daemon.panel.statuses[-1][0] == SERVER


async def test_no_other_panel_is_told_states(daemon: ReceivingNode) -> None:
    daemon.panel.add_server(server_settings(SERVER), daemon.node)
    await daemon.start_loaded()
    browser = await browse(daemon, SERVER)
    browser.send("set state", "start")
    await browser.wait_for("daemon error")
    assert daemon.panel.statuses == []
    assert not [call for call in daemon.panel.calls if "/container/" in call.path]
