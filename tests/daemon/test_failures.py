"""What goes wrong on the way, and that nothing of it is left."""

from __future__ import annotations

import pytest_twisted
from twisted.internet.defer import Deferred

from tests.daemon.harness import UUID, House, archive
from tests.daemon.uploads import Sender
from tests.support import Answer, Hang


@pytest_twisted.ensureDeferred
async def test_an_upload_cut_short_leaves_nothing_and_is_told(house: House) -> None:
    await house.start()
    sender = Sender(house, archive())
    await sender.begin()
    await house.wait_for_line("receiving the archive")
    await sender.vanish()
    await house.wait_for_line("state failure")
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]


@pytest_twisted.ensureDeferred
async def test_after_a_failure_the_next_attempt_succeeds(house: House) -> None:
    await house.start()
    await house.upload(archive(), checksum="0")
    await house.told_of_failure()
    house.panel.open_transfer(UUID, house.node)
    assert await house.upload(archive()) == (200, None)
    await house.wait_for_line("state success")
    assert house.states()[-3:] == ["pending", "processing", "success"]


@pytest_twisted.ensureDeferred
async def test_a_success_whose_answer_got_lost_is_a_success(house: House) -> None:
    await house.start()
    house.panel.inject("/success", Answer(500), times=1)
    assert await house.upload(archive()) == (200, None)
    assert house.panel.reports() == [(UUID, "success")] * 2


@pytest_twisted.ensureDeferred
async def test_a_success_the_panel_refuses_keeps_the_files_apart(house: House) -> None:
    await house.start()
    # A Panel that describes the server to the two nodes of a transfer alone, and closes it.
    house.panel.strict = True
    hang = Hang()
    house.panel.inject("/success", hang)
    uploading = Deferred.fromCoroutine(house.upload(archive()))
    await house.panel.called("/success")
    house.panel.close_transfer(UUID)
    hang.release()
    status, answer = await uploading
    assert (status, answer["code"]) == (409, "transfer-revoked")
    assert house.left() == [".quarantine"]
    await house.wait_for_line("kept for 30 days in")
    await house.wait_for_line("cleaned up")
    # The Panel has said itself that no transfer is open.
    assert house.panel.reports() == [(UUID, "success")]


@pytest_twisted.ensureDeferred
async def test_an_engine_that_does_not_answer_fails_the_transfer(house: House) -> None:
    socket = str(house.directory / "no-engine.sock")
    await house.start(docker={"socket": socket})
    status, answer = await house.upload(archive())
    assert (status, answer["code"]) == (500, "environment-failed")
    assert f"{socket} does not answer: No such file or directory;" in answer["detail"]
    await house.told_of_failure()
    assert house.left() == []
    assert house.panel.reports() == [(UUID, "failure")]
