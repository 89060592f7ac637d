"""What goes wrong on the way, and that nothing of it is left."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.support import Answer, Hang
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import UploadClient


async def test_an_upload_cut_short_leaves_nothing_and_is_reported(daemon: ReceivingNode) -> None:
    await daemon.start()
    sender = UploadClient(daemon, archive())
    await sender.begin()
    await daemon.wait_for_line("receiving the archive")
    await sender.vanish()
    await daemon.wait_for_line("state failure")
    await daemon.failure_reported()
    assert daemon.stored() == []
    assert daemon.panel.reports() == [(UUID, "failure")]


async def test_after_a_failure_the_next_attempt_succeeds(daemon: ReceivingNode) -> None:
    await daemon.start()
    await daemon.upload(archive(), checksum="0")
    await daemon.failure_reported()
    daemon.panel.open_transfer(UUID, daemon.node)
    assert await daemon.upload(archive()) == (200, None)
    await daemon.wait_for_line("state success")
    assert daemon.states()[-3:] == ["pending", "processing", "success"]


async def test_a_success_report_without_an_answer_is_sent_again(daemon: ReceivingNode) -> None:
    await daemon.start()
    daemon.panel.inject("/success", Answer(500), times=1)
    assert await daemon.upload(archive()) == (200, None)
    assert daemon.panel.reports() == [(UUID, "success")] * 2


async def test_files_that_the_panel_refuses_are_quarantined(daemon: ReceivingNode) -> None:
    await daemon.start()
    # A Panel that describes the server to the two nodes of a transfer alone, and closes it.
    daemon.panel.strict = True
    hang = Hang()
    daemon.panel.inject("/success", hang)
    uploading = Deferred.fromCoroutine(daemon.upload(archive()))
    await daemon.panel.called("/success")
    daemon.panel.close_transfer(UUID)
    hang.release()
    status, answer = await uploading
    assert (status, answer["code"]) == (409, "transfer-revoked")
    assert daemon.stored() == [".quarantine"]
    await daemon.wait_for_line("kept for 30 days in")
    await daemon.wait_for_line("cleaned up")
    # The Panel has said itself that no transfer is open.
    assert daemon.panel.reports() == [(UUID, "success")]


async def test_an_engine_that_does_not_answer_fails_the_transfer(daemon: ReceivingNode) -> None:
    socket = str(daemon.directory / "no-engine.sock")
    await daemon.start(docker={"enabled": True, "socket": socket})
    status, answer = await daemon.upload(archive())
    assert (status, answer["code"]) == (500, "environment-failed")
    assert f"{socket} does not answer: No such file or directory;" in answer["detail"]
    await daemon.failure_reported()
    assert daemon.stored() == []
    assert daemon.panel.reports() == [(UUID, "failure")]
