"""What goes wrong on the way, and that nothing of it is left."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.support import Answer
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import begun


async def test_an_upload_cut_short_leaves_nothing_and_is_reported(running: ReceivingNode) -> None:
    sender = await begun(running, archive(), until="receiving the archive")
    await sender.vanish()
    await running.wait_for_line("state failure")
    await running.failure_reported()
    assert running.stored() == []
    assert running.panel.reports() == [(UUID, "failure")]


async def test_a_success_report_without_an_answer_is_sent_again(running: ReceivingNode) -> None:
    running.panel.inject("/success", Answer(500), times=1)
    assert await running.upload(archive()) == (200, None)
    assert running.panel.reports() == [(UUID, "success")] * 2


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


async def test_an_engine_that_does_not_answer_fails_the_transfer(daemon: ReceivingNode) -> None:
    socket = str(daemon.directory / "no-engine.sock")
    await daemon.start(docker={"enabled": True, "socket": socket})
    status, answer = await daemon.upload(archive())
    assert (status, answer["code"]) == (500, "environment-failed")
    assert f"{socket} does not answer: No such file or directory;" in answer["detail"]
    await daemon.failure_reported()
    assert daemon.stored() == []
    assert daemon.panel.reports() == [(UUID, "failure")]
