"""A destination that has everything and gives no answer: how long it is waited for, and how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from tests.support.sender import Sender, at_answer, sending
from wingsd import callbacks
from wingsd.transfers import coordinator, steps
from wingsd.util.retry import Backoff


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "GRACE_BACKOFF", Backoff(0.01, 0.01))
    monkeypatch.setattr(steps, "WAITING_EVERY", 0.01)


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    yield from sending(tmp_path, answer_grace=600)


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Sender]:
    yield from sending(tmp_path, answer_grace=600, answer_timeout=0.2)


async def lose_answer(sender: Sender) -> Deferred[None]:
    """Send the server, lose the answer, and return when the Panel was asked some times."""
    sender.destination.drop = True
    over = sender.start()
    await until(lambda: sender.panel.calls.count("owns") > 2)
    assert not over.called
    return over


@pytest.mark.promise("lost-answer-is-asked-for")
async def test_after_a_lost_answer_the_panel_is_asked_until_it_moved(sender: Sender) -> None:
    over = await lose_answer(sender)
    await until(lambda: sender.said("the Panel is asked whether the server has moved, for 0 s"))
    assert sender.said("the destination may still be working: for 10 min")
    assert sender.states == ["pending", "processing"]
    assert sender.server.hold != ""
    sender.panel.owned = False
    await over
    assert sender.states[-2:] == ["success", "completed"]
    assert sender.said("moved: only the destination's answer was lost")
    assert "failure" not in sender.panel.calls
    assert "restore" not in sender.calls
    assert not sender.said("failed while")


@pytest.mark.promise("lost-answer-is-asked-for")
async def test_a_cancel_ends_the_grace_at_once(sender: Sender) -> None:
    over = await lose_answer(sender)
    sender.transfers.cancel(UUID)
    await over.addTimeout(60, reactor)
    assert sender.panel.calls[-2:] == ["owns", "failure"]
    assert sender.states[-2:] == ["failed", "failure"]
    assert (sender.calls[-1], sender.server.hold) == ("restore", "")
    assert sender.said("the destination node did not answer")


async def test_a_daemon_that_ends_leaves_the_grace_to_the_next(sender: Sender) -> None:
    over = await lose_answer(sender)
    await sender.transfers.stop()
    await over
    assert "failure" not in sender.panel.calls
    assert sender.server.hold != ""
    (entry,) = sender.store.unfinished()
    assert entry.step == "SETTLE"


@pytest.mark.promise("lost-answer-is-asked-for")
@pytest.mark.parametrize("status", [408, 524])
async def test_a_proxys_answer_means_a_lost_answer(sender: Sender, status: int) -> None:
    sender.destination.status, sender.destination.body = status, b"<html>Gateway timeout</html>"
    over = sender.start()
    await until(lambda: sender.panel.calls.count("owns") > 2)
    assert "failure" not in sender.panel.calls
    sender.panel.owned = False
    await over
    assert sender.states[-1] == "completed"


@pytest.mark.parametrize(
    ("status", "body"), [(503, b'{"error": "this node is shutting down"}'), (500, b""), (404, b"")]
)
async def test_a_nodes_own_error_is_a_refusal(sender: Sender, status: int, body: bytes) -> None:
    sender.destination.status, sender.destination.body = status, body
    await sender.start()
    assert sender.panel.calls == ["owns", "failure"]
    assert sender.states[-1] == "failure"


async def test_a_refused_server_is_free_while_its_failure_is_reported(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Panel has not committed the transfer yet, or the destination was the first to tell.
    monkeypatch.setattr(callbacks, "MINUTE_BACKOFF", Backoff(0.01, 0.01))
    sender.panel.denials = 3
    sender.destination.status, sender.destination.body = (
        400,
        b'{"error": "checksums don\'t match"}',
    )
    await sender.start()
    assert (sender.states[-1], sender.server.hold) == ("failure", "")
    await until(lambda: sender.store.unsettled() == [])
    assert sender.panel.calls.count("failure") == 4


@pytest.mark.promise("silent-destination-is-named")
async def test_a_silent_destination_is_waited_for_with_a_line_every_minute(sender: Sender) -> None:
    over = await sender.start_until(at_answer)
    await until(
        lambda: sender.said("the destination has everything, and has not answered for 0 s")
    )
    sender.destination.waits["POST"].callback(None)
    await over
    assert sender.states[-1] == "completed"
    assert sender.panel.calls == []


@pytest.mark.promise("silent-destination-is-named")
async def test_a_destination_that_stays_silent_fails_the_transfer(impatient: Sender) -> None:
    impatient.destination.waits["POST"] = Deferred()
    await impatient.start()
    assert impatient.said("no answer for 0.2 s")
    # It has had its time: no grace comes after that.
    assert impatient.panel.calls == ["owns", "failure"]
    assert (impatient.states[-1], impatient.server.hold) == ("failure", "")
