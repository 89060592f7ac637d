"""Moves of running servers whose commit came to nothing: when the server may run here again."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from tests.support.move_node import SILENT, Fault, MoveNode, refused
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import Sender
from tests.transfers.test_live_moves import (
    _slow_to_settle,
    check_moved,
    node,
    sender,
)
from tests.transfers.test_live_moves_cut_off import go_on, is_to_run, silent, step
from tests.transfers.test_outgoing_moves import _quick
from wingsd.servers.power_states import PowerState
from wingsd.transfers.steps import SendStep

__all__ = ["_quick", "_slow_to_settle", "node", "sender"]

#: Questions that take longer together than the last round may come to a halt.
MANY = 150


def loses_the_commit(
    sender: Sender, node: MoveNode, then: str, fault: Callable[[], Fault], starts: int = 1
) -> None:
    """Have the destination forget the first commit, and `fault` come of what is asked next.

    The fault comes while the server is down, until it was started `starts` times.
    """

    def fails(kind: str, count: int) -> Fault:
        if (kind, count) == ("commit", 1):
            node.restart()
        is_down = sender.server.state is PowerState.OFFLINE
        is_down = is_down and sender.calls.count("start") < starts
        return fault() if kind == then and is_down and node.count("commit") == 1 else None

    node.fault = fails


async def test_the_server_runs_again_where_a_reopened_move_comes_to_a_halt(
    sender: Sender, node: MoveNode
) -> None:
    loses_the_commit(sender, node, "rounds", silent)
    over = sender.start()
    await until(lambda: "start" in sender.calls)
    assert step(sender) is SendStep.FOLLOW
    await over
    check_moved(sender, node, running=True)
    assert sender.calls == ["stop", "remove", "restore", "start", "stop", "remove"]
    assert node.count("commit") == 2


async def test_the_server_is_not_started_before_the_destination_has_reopened_the_move(
    sender: Sender, node: MoveNode
) -> None:
    resumed = MANY + 1
    loses_the_commit(sender, node, "resume", lambda: refused(503, "servers-not-loaded"))
    fails = node.fault

    def for_a_while(kind: str, count: int) -> Fault:
        fault = fails(kind, count)
        return None if kind == "resume" and count > resumed else fault

    node.fault = for_a_while
    await sender.start()
    assert node.count("resume") > MANY
    check_moved(sender, node, running=True)
    assert sender.calls == ["stop", "remove"]


async def test_a_daemon_that_ends_meanwhile_has_the_next_one_start_the_server(
    sender: Sender, node: MoveNode
) -> None:
    loses_the_commit(sender, node, "rounds", lambda: SILENT)
    over = sender.start()
    await until(lambda: node.count("commit") == 1 and node.asked[-1] == "rounds")
    await sender.transfers.stop()
    await over
    assert step(sender) is SendStep.AWAIT
    assert "start" not in sender.calls
    loses_the_commit(sender, node, "rounds", silent)
    await go_on(sender)
    check_moved(sender, node, running=True)
    assert sender.calls[-3:] == ["start", "stop", "remove"]


async def test_a_daemon_that_ends_before_the_start_has_the_next_one_start_the_server(
    sender: Sender, node: MoveNode
) -> None:
    loses_the_commit(sender, node, "rounds", silent)
    sender.waits["restore"] = Deferred()
    over = sender.start()
    await until(lambda: "restore" in sender.calls)
    assert (step(sender), is_to_run(sender)) == (SendStep.FOLLOW, True)
    await sender.transfers.stop()
    await over
    del sender.waits["restore"]
    await go_on(sender)
    check_moved(sender, node, running=True)
    assert sender.calls[-3:] == ["start", "stop", "remove"]


async def test_a_move_that_is_cancelled_after_its_commit_came_to_nothing_has_the_server_run(
    sender: Sender, node: MoveNode
) -> None:
    loses_the_commit(sender, node, "rounds", silent)
    sender.waits["restore"] = Deferred()
    over = sender.start()
    await until(lambda: "restore" in sender.calls)
    del sender.waits["restore"]
    sender.transfers.cancel(UUID)
    await over
    await until(lambda: sender.server.state is PowerState.RUNNING)
    assert sender.states[-1] == "failure"
    assert sender.panel.calls == ["failure"]


async def test_the_third_halt_after_a_commit_fails_the_move_and_the_server_runs(
    sender: Sender, node: MoveNode
) -> None:
    loses_the_commit(sender, node, "rounds", silent, starts=3)
    await sender.start()
    assert sender.states[-1] == "failure"
    await until(lambda: sender.server.state is PowerState.RUNNING)
    assert sender.said("final-pass-stalled")
    assert node.count("commit") == 1
