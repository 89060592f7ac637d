"""Moves of an earlier daemon: the next one goes on with them, and the Panel hears of nothing."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.support.move_node import CUT, SILENT, Fault, MoveNode, Mover, refused, tree_of
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.errors import DaemonStopping, DestinationRefused
from wingsd.servers.power_states import PowerState
from wingsd.statedb import Outcome
from wingsd.transfers.outgoing import move


def start_anew(sender: Mover) -> None:
    """Do what the next daemon does."""
    sender.server.release()
    sender.server.state = PowerState.OFFLINE
    sender.next_daemon()


async def finished(sender: Mover) -> Outcome | None:
    await until(lambda: "completed" in sender.states or sender.store.unfinished() == [])
    await until(lambda: not sender.transfers.servers)
    await sender.delete()
    await until(lambda: sender.store.unfinished() == [])
    return sender.store.transfers()[0].outcome


@pytest.mark.promise("move-continues-after-breaks")
@pytest.mark.parametrize(
    ("kind", "count", "step", "calls"),
    [
        ("begin", 1, "ASK", ["adopt", "stop", "remove"]),
        ("resume", 1, "SEND", ["stop", "remove", "adopt"]),
        ("batches", 4, "SEND", ["stop", "remove", "adopt"]),
        ("rounds", 1, "SEND", ["stop", "remove", "adopt"]),
    ],
)
async def test_the_next_daemon_goes_on(
    sender: Mover, node: MoveNode, kind: str, count: int, step: str, calls: list[str]
) -> None:
    await sender.stop_at(kind, count)
    (entry,) = sender.store.unfinished()
    assert (entry.step, sender.server.hold != "") == (step, True)
    assert "failed" not in sender.states
    ((_, error, _),) = sender.heard.over
    assert isinstance(error, DaemonStopping)
    key, sent = node.key, len(node.batches)
    start_anew(sender)
    assert sender.server.hold != ""
    assert await finished(sender) is Outcome.SUCCESS
    assert (sender.calls, sender.panel.settled_by) == (calls, [])
    assert node.key == key or not key
    assert tree_of(sender.tree) == tree_of(node.copy.tree)
    numbers = [number for number, _ in node.batches]
    assert len(numbers) == len(set(numbers))
    assert node.running
    assert sent == 0 or sender.said("resumed: ")


@pytest.mark.parametrize("moment", ["stop", "remove"])
async def test_steps_that_were_begun_are_taken_again(sender: Mover, moment: str) -> None:
    sender.waits[moment] = Deferred()
    over = sender.start()
    await until(lambda: moment in sender.calls)
    await sender.transfers.stop()
    await over
    del sender.waits[moment]
    start_anew(sender)
    assert await finished(sender) is Outcome.SUCCESS
    begun = ["stop"] if moment == "stop" else ["stop", "remove"]
    assert sender.calls == [*begun, "stop", "remove"]


async def die_in_await(sender: Mover, node: MoveNode) -> None:
    """Have the daemon die when the destination has been asked for the commit."""
    node.commits = False
    over = sender.start()
    await until(lambda: node.count("state") > 1)
    (transfer,) = sender.transfers._open.values()
    transfer._is_left = True
    transfer._cancel(DaemonStopping())
    await over
    (entry,) = sender.store.unfinished()
    assert entry.step == "AWAIT"


@pytest.mark.promise("commit-outcome-is-asked-for")
@pytest.mark.parametrize("outcome", ["success", "open", "commit"])
async def test_after_the_commit_the_next_daemon_asks_the_destination(
    sender: Mover, node: MoveNode, outcome: str
) -> None:
    await die_in_await(sender, node)
    begun, sent, sessions = node.count("begin"), len(node.batches), node.sessions
    node.commits = True
    if outcome == "success":
        node.of.finish()
        node.outcome = "success"
    elif outcome == "open":
        node.restart()
    start_anew(sender)
    if outcome == "commit":
        asked = node.count("state")
        await until(lambda: node.count("state") > asked + 1)
        node.of.finish()
        node.outcome = "success"
    assert await finished(sender) is Outcome.SUCCESS
    assert (sender.calls, sender.panel.settled_by) == (["stop", "remove", "adopt"], [])
    assert tree_of(sender.tree) == tree_of(node.copy.tree)
    # only a node that was started anew is asked what it holds, and has all of it
    assert node.sessions == sessions + (outcome == "open")
    assert (node.count("begin"), len(node.batches)) == (begun, sent)


@pytest.mark.parametrize("is_good", [True, False])
async def test_a_commit_that_comes_late_is_waited_for(
    sender: Mover, node: MoveNode, is_good: bool
) -> None:
    """The destination gets the earlier daemon's request after it has told its phase."""
    await die_in_await(sender, node)
    commits = node.count("commit")
    node.restart()

    def fault(kind: str, count: int) -> Fault:
        if kind != "resume" or node.phase != "open":
            return None
        node.of.finish()
        node.phase, node.outcome = "over", "success" if is_good else "failure"
        return refused(409, "move-committed")

    node.fault = fault
    start_anew(sender)
    if is_good:
        assert await finished(sender) is Outcome.SUCCESS
        assert sender.panel.settled_by == []
    else:
        await until(lambda: sender.store.unfinished() == [])
        assert sender.panel.settled_by == ["owns", "failure"]
    assert node.count("commit") == commits
    assert not sender.said("internal error")


@pytest.mark.promise("commit-outcome-is-asked-for")
async def test_a_move_that_has_failed_meanwhile_has_the_panel_decide(
    sender: Mover, node: MoveNode
) -> None:
    await die_in_await(sender, node)
    node.phase, node.outcome = "over", "failure"
    start_anew(sender)
    await until(lambda: sender.store.unfinished() == [])
    assert sender.panel.settled_by == ["owns", "failure"]
    assert sender.calls == ["stop", "remove", "adopt", "restore"]
    assert sender.server.hold == ""


@pytest.mark.promise("commit-outcome-is-asked-for")
async def test_the_panel_is_asked_while_the_destination_is_silent(
    sender: Mover, node: MoveNode
) -> None:
    await die_in_await(sender, node)
    node.fault = lambda kind, count: CUT
    sender.panel.owned = False
    start_anew(sender)
    assert await finished(sender) is Outcome.SUCCESS
    assert set(sender.panel.settled_by) == {"owns"}


@pytest.mark.parametrize(("status", "code"), [(503, "move-busy"), (500, "")])
async def test_a_destination_that_cannot_tell_yet_is_asked_until_it_can(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    """It is starting, or a proxy does not let the question pass."""
    monkeypatch.setattr(move, "LOST", 0.02)
    await die_in_await(sender, node)
    node.of.finish()
    node.outcome, asked = "success", len(node.asked)
    node.fault = lambda *_: refused(status, code) if len(node.asked) < asked + 20 else None
    start_anew(sender)
    assert await finished(sender) is Outcome.SUCCESS
    assert set(sender.panel.settled_by) == {"owns"}


@pytest.mark.parametrize("owned", [False, True])
async def test_a_move_of_which_no_answer_is_recorded_has_the_panel_decide(
    sender: Mover, node: MoveNode, owned: bool
) -> None:
    await die_in_await(sender, node)
    (entry,) = sender.store.unfinished()
    sender.store.set_move_state(entry.id, "{}")  # by an earlier version
    sender.panel.owned = owned
    asked = node.count("state")
    start_anew(sender)
    await until(lambda: sender.store.unfinished() == [])
    # it would wait for its source
    await until(lambda: node.deleted == (["keep"] if owned else []))
    assert node.count("state") == asked


async def test_a_proxy_that_is_busy_has_not_told_the_destination_of_a_failure(
    sender: Mover, node: MoveNode
) -> None:
    await sender.stop_at("batches", 3)
    (record,) = sender.store.open_moves()
    node.fault = lambda *_: refused(429)
    with pytest.raises(DestinationRefused):
        await Deferred.fromCoroutine(move.end_move(sender.sender.parts, record, 0.0))


async def test_a_destination_that_forgot_the_move_ends_it(sender: Mover, node: MoveNode) -> None:
    await sender.stop_at("batches", 3)
    node.fault = lambda kind, count: refused(401, "token-expired") if kind == "begin" else None
    start_anew(sender)
    await until(lambda: sender.store.unfinished() == [])
    assert sender.panel.settled_by == ["failure"]
    assert sender.calls == ["stop", "remove", "adopt", "restore"]
    assert sender.server.hold == ""


async def test_a_resumed_move_can_be_cancelled(sender: Mover, node: MoveNode) -> None:
    await sender.stop_at("batches", 3)
    node.fault = lambda kind, count: SILENT if kind == "batches" else None
    begun = node.count("batches")
    start_anew(sender)
    await until(lambda: node.count("batches") > begun)
    sender.transfers.cancel(UUID)
    await until(lambda: sender.store.unfinished() == [])
    assert node.deleted == ["all"]
    assert sender.panel.settled_by == ["failure"]
