"""A sender that has to wait for its turn, since the node receives no more servers at a time."""

from __future__ import annotations

from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import begun

OTHER = "1b0c7f6e-9a3d-4e52-8c41-5f2e7d90ab36"


async def test_a_waiting_sender_that_disconnects_fails_at_once(daemon: ReceivingNode) -> None:
    daemon.expect(OTHER)
    daemon.transfers = {"concurrent": 1}
    await daemon.start()
    first = await begun(daemon, archive())
    await daemon.wait_for_line(f"{UUID}: state processing")
    second = await begun(daemon, archive(), token=daemon.token(OTHER))
    await daemon.wait_for_line(f"{OTHER}: state processing")
    await second.vanish()
    await daemon.wait_for_line(f"{OTHER}: state failure")
    assert await first.finish() == (200, b"")
