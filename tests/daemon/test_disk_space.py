"""A server that is larger than its Panel allows, and a bomb, sent to a real daemon."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.archive.hostile.streams import bomb
from tests.support import server_settings
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive

MIB = 1 << 20


def allow(daemon: ReceivingNode, disk_space: int) -> None:
    """Have the Panel say that the server may have so many MiB."""
    build = server_settings(UUID)["build"] | {"disk_space": disk_space}
    daemon.panel.add_server(server_settings(UUID, build=build), daemon.source)
    daemon.panel.open_transfer(UUID, daemon.node)


@pytest.mark.parametrize("data", [archive(3 * MIB), bomb(8)], ids=["a large server", "a bomb"])
@pytest_twisted.ensureDeferred
async def test_a_server_gets_no_more_disk_than_the_panel_gives_it(
    daemon: ReceivingNode, data: bytes
) -> None:
    allow(daemon, 2)
    await daemon.start()
    status, answer = await daemon.upload(data)
    assert (status, answer["code"]) == (400, "disk-limit-exceeded")
    assert "MiB, its disk limit is 2 MiB" in answer["detail"]
    await daemon.failure_reported()
    assert daemon.stored() == []
    assert daemon.panel.reports() == [(UUID, "failure")]
    # with more, it arrives
    allow(daemon, 4)
    assert await daemon.upload(archive(3 * MIB)) == (200, None)
