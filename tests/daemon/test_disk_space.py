"""A server that is larger than its Panel allows, and a bomb, sent to a real daemon."""

from __future__ import annotations

from tests.archive.hostile.streams import bomb
from tests.support import server_settings
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive

MIB = 1 << 20


def allow(daemon: ReceivingNode, disk_space: int) -> None:
    daemon.expect(UUID, build=server_settings(UUID)["build"] | {"disk_space": disk_space})


async def test_a_server_beyond_its_disk_limit_is_refused_with_400(running: ReceivingNode) -> None:
    for data in (archive(3 * MIB), bomb(8)):
        allow(running, 2)
        since = len(running.log)
        status, answer = await running.upload(data)
        assert (status, answer["code"]) == (400, "disk-limit-exceeded")
        assert "its disk limit is 2 MiB" in answer["detail"]
        await running.failure_reported(since)
        assert running.stored() == []
    assert running.panel.reports() == [(UUID, "failure")] * 2
    # with more, it arrives
    allow(running, 4)
    assert await running.upload(archive(3 * MIB)) == (200, None)
