"""Moves of running servers that are cut off: what was stopped for them runs again if it stays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.support.move_node import SILENT, Fault, MoveNode, Mover, refused
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import KnownBudget, at_stop
from tests.transfers.outgoing.moving import live_sender as sender
from tests.transfers.outgoing.test_live_moves import ROUNDS
from wingsd.errors import EnvironmentFailed, PanelUnreachable, StorageError
from wingsd.servers import running
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.transfers.coordinator import PanelSending
from wingsd.transfers.steps import SendStep
from wingsd.util.retry import Backoff

__all__ = ["sender"]

pytestmark = pytest.mark.usefixtures("slow_to_settle")


@pytest.mark.promise("move-continues-after-a-kill")
async def test_the_server_runs_on_while_the_daemon_is_started_anew(sender: Mover) -> None:
    await sender.stop_at("rounds", 2)
    assert sender.calls == []
    assert sender.panel.settled_by == []
    await sender.go_on()
    sender.check_moved(running=True)
    assert sender.calls == ["adopt", "stop", "remove"]


@pytest.mark.promise("move-continues-after-a-kill")
async def test_a_daemon_that_ends_after_the_stop_has_the_next_one_send_the_rest(
    sender: Mover,
) -> None:
    await sender.stop_at("rounds", ROUNDS + 1)
    assert sender.calls == ["stop", "remove"]
    await sender.go_on()
    sender.check_moved(running=True)
    # the earlier daemon may have ended before it was removed
    assert sender.calls == ["stop", "remove", "adopt", "remove"]


async def test_an_engine_that_is_away_when_the_next_daemon_starts_fails_no_move(
    sender: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "BACKOFF", Backoff(0.01, 0.01))
    await sender.stop_at("rounds", 2)
    sender.faults["adopt"] = EnvironmentFailed("it is away", is_silent=True)
    sender.next_daemon()
    await until(lambda: sender.calls.count("adopt") > 2)
    sender.faults.clear()
    await until(lambda: not sender.transfers.servers)
    sender.check_moved(running=True)


async def test_a_server_that_runs_after_its_stop_is_not_sent_by_the_next_daemon(
    sender: Mover, node: MoveNode
) -> None:
    """It was started again, and the disk was full when that was to be recorded."""
    await sender.stop_at("rounds", ROUNDS + 1)
    sender.calls.clear()
    sender.server.state = PowerState.RUNNING
    sender.next_daemon()
    await until(lambda: "failure" in sender.states)
    assert sender.said("the server runs on this node, although it was stopped for its move")
    await until(lambda: sender.store.unfinished() == [])
    assert sender.calls == ["adopt", "restore"]
    assert sender.server.state is PowerState.RUNNING
    assert sender.server.operations.hold is None
    assert "commit" not in node.asked


@pytest.mark.promise("server-runs-again-after-a-failed-move")
@pytest.mark.parametrize(
    ("kind", "count", "actions"), [("begin", 1, 0), ("rounds", 2, 0), ("begin", 1, 2)]
)
async def test_a_server_that_ended_with_its_machine_is_sent_and_started_there(
    sender: Mover, kind: str, count: int, actions: int
) -> None:
    """So is one that ended for a restore, after somebody had started it."""
    sender.server.power_actions = actions
    await sender.stop_at(kind, count)
    sender.server.state = PowerState.OFFLINE
    sender.server.starts_if_it_stays = True
    await sender.go_on()
    sender.check_moved(running=True)
    assert "start" not in sender.calls


@pytest.mark.promise("servers-start-after-a-reboot")
async def test_a_server_is_started_there_that_is_taken_before_its_start_after_a_reboot(
    sender: Mover,
) -> None:
    sender.server.state = PowerState.OFFLINE
    sender.server.starts_if_it_stays = True
    await sender.start()
    sender.check_moved(running=True)
    assert "start" not in sender.calls


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_server_that_ended_with_its_machine_is_started_again_if_it_stays(
    sender: Mover, node: MoveNode
) -> None:
    await sender.stop_at("rounds", 2)
    sender.server.state = PowerState.OFFLINE
    sender.server.starts_if_it_stays = True
    node.at_round(node.count("rounds") + 1, lambda: refused(403, "forbidden"))
    await sender.go_on()
    await until(lambda: sender.server.state is PowerState.RUNNING)
    assert sender.calls[-1] == "start"
    assert sender.server.operations.hold is None


def silent() -> Fault:
    """Come to a halt, of which the watch of the last round takes notice soon."""
    KnownBudget.give_up()
    return SILENT


async def halt(sender: Mover, node: MoveNode) -> Deferred[None]:
    """Have the last round be given up, and wait before the server is started again."""
    node.at_round(ROUNDS + 1, silent)
    sender.waits["restore"] = Deferred()
    over = sender.start()
    await until(lambda: "restore" in sender.calls)
    assert step(sender) is SendStep.FOLLOW
    return over


async def end_before_the_start(sender: Mover, node: MoveNode) -> None:
    """Have the daemon end then."""
    over = await halt(sender, node)
    await sender.transfers.stop()
    await over
    del sender.waits["restore"]
    sender.calls.clear()


def step(sender: Mover) -> SendStep:
    (entry,) = sender.store.unfinished()
    return SendStep[entry.step]


def is_to_run(sender: Mover) -> bool:
    """Return whether it is recorded that the server is to run if it stays."""
    (record,) = sender.store.open_moves()
    return json.loads(record.state)["stopped"] is True


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_daemon_that_ends_before_it_starts_the_server_again_has_the_next_one_do_so(
    sender: Mover, node: MoveNode
) -> None:
    await end_before_the_start(sender, node)
    assert is_to_run(sender)
    in_round: list[tuple[PowerState, bool]] = []

    def look() -> None:
        in_round.append((sender.server.state, is_to_run(sender)))

    node.at_round(node.count("rounds") + 1, look)
    await sender.go_on()
    assert in_round == [(PowerState.RUNNING, False)]
    sender.check_moved(running=True)
    assert sender.calls == ["adopt", "restore", "start", "stop", "remove"]


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_server_that_could_not_be_started_again_is_started_at_the_destination(
    sender: Mover, node: MoveNode
) -> None:
    over = await halt(sender, node)
    sender.faults["start"] = EnvironmentFailed("the engine does not answer")
    sender.waits["restore"].callback(None)
    await over
    sender.check_moved(running=True)


@pytest.mark.promise("stuck-final-round-is-given-up")
async def test_a_server_runs_while_the_next_daemon_waits_for_the_destination(
    sender: Mover, node: MoveNode
) -> None:
    await sender.stop_at("rounds", ROUNDS + 1)
    assert step(sender) is SendStep.SEND
    sender.calls.clear()

    live: Any = SimpleNamespace(
        **attrs.asdict(sender.sender.parts.config.live) | {"final_patience": 0.3}
    )
    sender.follow(live)

    def away_until_it_runs(kind: str, count: int) -> Fault:
        if sender.server.state is PowerState.OFFLINE and kind == "begin":
            return SILENT
        live.final_patience = 600
        return None

    node.fault = away_until_it_runs
    await sender.go_on()
    sender.check_moved(running=True)
    assert sender.calls == ["adopt", "restore", "start", "stop", "remove"]
    assert sender.said("the server is started again, and the move goes on")


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_move_that_is_cancelled_before_the_start_has_the_server_run(
    sender: Mover, node: MoveNode
) -> None:
    over = await halt(sender, node)
    waiting = sender.waits.pop("restore")
    sender.transfers.cancel(UUID)
    await over
    await until(lambda: sender.server.state is PowerState.RUNNING)
    assert waiting.called
    assert sender.calls == ["stop", "remove", "restore", "restore", "start"]


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_move_that_is_cancelled_while_the_server_stops_has_it_run_again(
    sender: Mover,
) -> None:
    stopping = at_stop(sender)
    over = sender.start()
    await stopping
    sender.server.state = PowerState.STOPPING
    waiting = sender.waits.pop("stop")
    sender.transfers.cancel(UUID)
    await over
    await until(lambda: sender.server.state is PowerState.RUNNING)
    assert waiting.called
    assert sender.calls == ["stop", "adopt", "stop", "start"]


@pytest.mark.promise("users-decide-during-a-move")
async def test_a_server_that_runs_already_was_used_since(sender: Mover, node: MoveNode) -> None:
    await end_before_the_start(sender, node)
    sender.server.state = PowerState.RUNNING
    node.at_round(node.count("rounds") + 1, lambda: _end(sender))
    await sender.go_on()
    sender.check_moved(running=False)
    assert "start" not in sender.calls


def _end(sender: Mover) -> None:
    sender.server.state = PowerState.OFFLINE


@pytest.mark.promise("users-decide-during-a-move")
async def test_a_server_that_was_stopped_before_its_daemon_ended_is_not_started(
    sender: Mover,
) -> None:
    await sender.stop_at("rounds", 2)
    _end(sender)
    await sender.go_on()
    sender.check_moved(running=False)


async def test_a_server_is_free_after_an_unknown_outcome_though_the_disk_is_full(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PanelSending, "has_moved", AsyncMock(return_value=None))
    full = AsyncMock(side_effect=StorageError("the disk is full"))

    def fault(kind: str, count: int) -> Fault:
        if kind != "commit":
            return None
        monkeypatch.setattr(sender.database, "change_move_state", full)
        return refused(403, "forbidden")

    node.fault = fault
    await sender.start()
    await until(lambda: sender.store.unfinished() == [])
    assert full.await_count == 1
    assert sender.server.operations.hold is None
    assert "start" not in sender.calls


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_failed_move_is_unfinished_until_the_server_runs_again(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the next daemon starts it, and does not go on with the move."""
    monkeypatch.setattr(running, "BACKOFF", Backoff(0.01, 0.01))
    power, is_away = sender.server.power, True

    async def away(action: PowerAction) -> None:
        if is_away:
            raise PanelUnreachable("the Panel is away", "it is a test")
        await power(action)

    monkeypatch.setattr(sender.server, "power", away)
    node.at_round(ROUNDS + 1, lambda: refused(403, "forbidden"))
    await sender.start()
    await until(lambda: node.deleted == ["keep"])
    assert (step(sender), is_to_run(sender)) == (SendStep.FAILED, True)
    is_away = False
    await until(lambda: sender.store.unfinished() == [])
    assert sender.server.state is PowerState.RUNNING


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_server_that_was_stopping_when_its_daemon_ended_runs_again_if_it_stays(
    sender: Mover, node: MoveNode
) -> None:
    stopping = at_stop(sender)
    over = sender.start()
    await stopping
    sender.waits.pop("stop")
    await sender.transfers.stop()
    await over
    assert (step(sender), is_to_run(sender)) == (SendStep.STOP, True)
    sender.calls.clear()
    node.fault = lambda kind, count: refused(403, "forbidden") if kind == "begin" else None
    sender.next_daemon()
    await until(lambda: sender.store.unfinished() == [])
    assert sender.states[-1] == "failure"
    assert sender.calls == ["adopt", "stop", "start"]
    assert sender.server.state is PowerState.RUNNING


async def test_a_server_that_somebody_has_used_since_its_stop_is_left_as_it_is(
    sender: Mover, node: MoveNode
) -> None:
    """Also by the next daemon, if the destination has not heard of the failure yet."""
    node.at_round(ROUNDS + 1, lambda: refused(403, "forbidden"))
    sender.waits["restore"] = Deferred()
    await sender.start()
    await until(lambda: "restore" in sender.calls)
    assert is_to_run(sender)
    sender.server.power_actions += 1
    node.fault = lambda kind, count: SILENT if kind == "delete" else None
    sender.waits["restore"].callback(None)
    await until(lambda: not is_to_run(sender))
    assert step(sender) is SendStep.FAILED
    assert "start" not in sender.calls


@pytest.mark.promise("stuck-final-round-is-given-up")
async def test_a_last_round_that_comes_to_a_halt_is_given_up_and_taken_once_more(
    sender: Mover, node: MoveNode
) -> None:
    node.at_round(ROUNDS + 1, silent)
    over = sender.start()
    await until(lambda: "start" in sender.calls)
    (sender.tree / "region1").write_bytes(os.urandom(150_000))
    await over
    sender.check_moved(running=True)
    assert sender.calls == ["stop", "remove", "restore", "start", "stop", "remove"]


@pytest.mark.promise("stuck-final-round-is-given-up")
async def test_the_third_halt_fails_the_move_and_the_server_runs(
    sender: Mover, node: MoveNode
) -> None:
    def fault(kind: str, count: int) -> Fault:
        is_stopped = sender.server.state is PowerState.OFFLINE
        return silent() if kind == "rounds" and is_stopped else None

    node.fault = fault
    await sender.fails()
    await until(lambda: sender.server.state is PowerState.RUNNING)
    assert sender.calls == ["stop", "remove", "restore", "start"] * 3
    assert sender.said("final-pass-stalled")
    await until(lambda: node.deleted == ["keep"])


# Moves of running servers whose commit came to nothing: when the server may run here again


#: Questions that take longer together than the last round may come to a halt.
MANY = 40


def loses_the_commit(sender: Mover, node: MoveNode, then: str, fault: Callable[[], Fault]) -> None:
    """Have the destination forget the first commit, and `fault` come of what is asked next.

    The fault comes while the server is down, until it was started.
    """

    def fails(kind: str, count: int) -> Fault:
        if (kind, count) == ("commit", 1):
            node.restart()
        is_down = sender.server.state is PowerState.OFFLINE
        is_down = is_down and "start" not in sender.calls
        return fault() if kind == then and is_down and node.count("commit") == 1 else None

    node.fault = fails


async def test_the_server_runs_again_where_a_reopened_move_comes_to_a_halt(
    sender: Mover, node: MoveNode
) -> None:
    loses_the_commit(sender, node, "rounds", silent)
    over = sender.start()
    await until(lambda: "start" in sender.calls)
    assert step(sender) is SendStep.FOLLOW
    await over
    sender.check_moved(running=True)
    assert sender.calls == ["stop", "remove", "restore", "start", "stop", "remove"]
    assert node.count("commit") == 2


async def test_the_server_is_not_started_before_the_destination_has_reopened_the_move(
    sender: Mover, node: MoveNode
) -> None:
    def refuse() -> Fault:
        """Refuse for longer than the last round may come to a halt."""
        KnownBudget.last.seconds = 0.1 if node.count("resume") < MANY else 600
        return refused(503, "servers-not-loaded")

    loses_the_commit(sender, node, "resume", refuse)
    fails = node.fault
    node.fault = lambda kind, count: (
        None if kind == "resume" and count > MANY else fails(kind, count)
    )
    await sender.start()
    assert node.count("resume") > MANY
    sender.check_moved(running=True)
    assert sender.calls == ["stop", "remove"]


async def test_a_daemon_that_ends_meanwhile_has_the_next_one_start_the_server(
    sender: Mover, node: MoveNode
) -> None:
    loses_the_commit(sender, node, "rounds", lambda: SILENT)
    over = sender.start()
    await until(lambda: node.count("commit") == 1 and node.asked[-1] == "rounds")
    await sender.transfers.stop()
    await over
    assert step(sender) is SendStep.AWAIT
    assert "start" not in sender.calls
    loses_the_commit(sender, node, "rounds", silent)
    await sender.go_on()
    sender.check_moved(running=True)
    assert sender.calls[-3:] == ["start", "stop", "remove"]
