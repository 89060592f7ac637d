"""How the node is, as its operator is told."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from tests.direct_transfers.scenarios import Ends
from wingsd import __version__
from wingsd.control import status as module
from wingsd.docker.runtime import EngineInformation
from wingsd.errors import EnvironmentFailed
from wingsd.panel.errors import PanelRefused, PanelUnreachable

ENGINE = EngineInformation("27.1", "", "", 0, 0, 0, 0, "", "", "")


async def gathered(ends: Ends) -> dict[str, Any]:
    request: Any = None
    return await ends.source.status()().get_status(request)


async def test_it_tells_what_it_is_and_has_room_for(ends: Ends) -> None:
    found = await gathered(ends)
    assert (found["version"], found["pid"]) == (__version__, os.getpid())
    assert 0 <= found["uptime_seconds"] < 60
    assert found["address"] == ends.source.url
    assert found["servers"] == {"loaded": False, "count": None, "running": None}
    assert found["transfers"] == {"receiving": 0, "sending": 0, "expected": 0}
    assert found["engine"] == {"enabled": False, "version": "", "error": "", "code": ""}
    assert found["limits"]["download_mib_per_second"] is None
    assert found["limits"]["concurrent"] == 8
    assert [disk["purpose"] for disk in found["disks"]] == ["servers", "arriving", "journal"]
    for disk in found["disks"]:
        held = os.statvfs(disk["path"])
        assert disk["total_bytes"] == held.f_blocks * held.f_frsize
        assert 0 < disk["free_bytes"] <= disk["total_bytes"]


async def test_a_disk_that_is_gone_is_said_so(ends: Ends) -> None:
    ends.source.data.rename(ends.source.directory / "elsewhere")
    found = await gathered(ends)
    disk = found["disks"][0]
    assert (disk["free_bytes"], disk["error"]) == (None, "No such file or directory")


async def test_a_panel_that_answers_is_reachable(ends: Ends) -> None:
    ends.source.panel.heard = time.time()
    panel = (await gathered(ends))["panel"]
    assert (panel["reachable"], panel["error"]) == (True, "")
    assert panel["last_heard"] == ends.source.panel.heard
    assert panel["url"] == "https://panel.invalid"


@pytest.mark.parametrize(
    ("error", "reachable", "says"),
    [
        (PanelUnreachable("the Panel gave no answer", "refused"), False, "refused"),
        (PanelRefused("the Panel refused", "answered 401", 401), True, "answered 401"),
    ],
)
async def test_a_panel_that_does_not_is_told_with_its_reason(
    ends: Ends, error: Exception, reachable: bool, says: str
) -> None:
    ends.source.panel.greeting = fail(error)
    panel = (await gathered(ends))["panel"]
    assert (panel["reachable"], panel["error"]) == (reachable, says)


async def test_nobody_is_waited_for_for_long(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_TIMEOUT", 0.05)
    ends.source.panel.greeting = Deferred()

    async def silent() -> EngineInformation:
        return await Deferred()

    ends.source.engine = silent
    found = await gathered(ends)
    assert found["panel"]["error"] == "no answer within 0.05 s"
    assert found["engine"]["error"] == "no answer within 0.05 s"


async def test_the_engine_tells_its_version_or_why_not(ends: Ends) -> None:
    async def answers() -> EngineInformation:
        return ENGINE

    async def does_not() -> EngineInformation:
        raise EnvironmentFailed("the socket is not there")

    ends.source.engine = answers
    engine = (await gathered(ends))["engine"]
    assert engine == {"enabled": True, "version": "27.1", "error": "", "code": ""}
    ends.source.engine = does_not
    assert (await gathered(ends))["engine"]["error"] == "the socket is not there"
