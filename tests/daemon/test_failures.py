"""What goes wrong on the way, and that nothing of it is left."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive


async def test_files_that_the_panel_refuses_are_quarantined(running: ReceivingNode) -> None:
    # A Panel that describes the server to the two nodes of a transfer alone, and closes it.
    running.panel.strict = True
    hang = running.panel.hold("/success")
    uploading = Deferred.fromCoroutine(running.upload(archive()))
    await running.panel.called("/success")
    running.panel.close_transfer(UUID)
    hang.release()
    status, answer = await uploading
    assert (status, answer["code"]) == (409, "transfer-revoked")
    assert running.stored() == [".quarantine"]
    await running.wait_for_line("kept for 30 days in")
    await running.wait_for_line("cleaned up")
    # The Panel has said itself that no transfer is open.
    assert running.panel.reports() == [(UUID, "success")]
