"""Outgoing transfers that are cancelled, and servers that are deleted meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from tests.support.sender import (
    Sender,
    at_answer,
    at_question,
    at_removal,
    at_stop,
    at_upload,
    sending,
)
from wingsd import callbacks
from wingsd.errors import Conflict
from wingsd.transfers import manager
from wingsd.util.retry import Backoff

sender = pytest.fixture(sending)
MOMENTS = [at_question, at_stop, at_removal, at_upload, at_answer]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_cancel_ends_each_step_at_once(
    sender: Sender, moment: Callable[[Sender], Deferred[None]]
) -> None:
    over = await sender.start_until(moment)
    sender.transfers.cancel(UUID)
    await over.addTimeout(60, reactor)
    assert sender.states[-2:] == ["failed", "failure"]
    assert sender.said("the transfer was cancelled")
    assert sender.panel.calls.count("failure") == 1
    assert sender.server.hold == ""
    with pytest.raises(Conflict) as caught:
        sender.transfers.cancel(UUID)
    assert caught.value.message == "Server is not currently being transferred."


@pytest.mark.promise("cancel-is-quick-and-safe")
async def test_a_cancelled_server_that_may_have_moved_is_held_while_the_panel_denies_its_transfer(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "MINUTE_BACKOFF", Backoff(0.01, 0.01))
    sender.panel.denials = 1_000_000
    over = await sender.start_until(at_answer)
    sender.transfers.cancel(UUID)
    await until(lambda: sender.panel.calls.count("failure") > 2)
    assert sender.server.hold != ""
    sender.panel.owned = False
    await over
    assert sender.states[-2:] == ["success", "completed"]
    assert "restore" not in sender.calls


@pytest.mark.parametrize("moment", MOMENTS[:-1])
async def test_a_deletion_during_the_upload_cancels_the_transfer(
    sender: Sender, moment: Callable[[Sender], Deferred[None]]
) -> None:
    over = await sender.start_until(moment)
    await sender.delete()
    assert sender.transfers.servers == ()
    assert sender.panel.calls == ["failure"]
    await over


async def test_a_deletion_after_the_upload_is_a_success(sender: Sender) -> None:
    over = await sender.start_until(at_answer)
    released = Deferred.fromCoroutine(sender.transfers.release(UUID))
    # At once: the Panel waits for it with its own answer to the destination.
    assert released.called
    sender.transfers.deleted(UUID)
    assert sender.states[-2:] == ["success", "completed"]
    with pytest.raises(Conflict):
        sender.transfers.cancel(UUID)
    sender.destination.waits["POST"].callback(None)
    await over
    assert sender.panel.calls == []
    assert "restore" not in sender.calls


async def test_an_answer_that_is_lost_after_the_deletion_changes_nothing(sender: Sender) -> None:
    there = at_answer(sender)
    sender.destination.drop = True
    over = sender.start()
    await there
    await sender.delete()
    sender.destination.waits["POST"].callback(None)
    await over
    assert sender.panel.calls == []
    assert sender.states[-1] == "completed"


@pytest.mark.promise("source-copy-goes-when-moved")
@pytest.mark.parametrize("ours", [False, True])
async def test_a_server_that_moved_and_was_not_deleted_is_asked_about(
    sender: Sender, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "DELETION_WITHIN", 0.02)
    sender.panel.owned = ours
    await sender.start()
    (entry,) = sender.store.unfinished()
    assert entry.step == "SEND"
    await until(lambda: sender.store.unfinished() == [])
    if ours:
        # The destination took it and is lost, or its success was not wanted.
        assert sender.panel.calls == ["owns", "failure"]
        assert sender.server.hold == ""
    else:
        assert sender.calls[-2:] == ["discard", "store away"]


@pytest.mark.promise("source-copy-goes-when-moved")
async def test_a_late_deletion_completes_the_transfer(sender: Sender) -> None:
    await sender.start()
    await sender.transfers.release(UUID)
    # Until its files are out of its place, a daemon that dies leaves them to the next.
    await sender.disk.run(int)
    assert len(sender.store.unfinished()) == 1
    sender.transfers.deleted(UUID)
    assert sender.store.unfinished() == []
