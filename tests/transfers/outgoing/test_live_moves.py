"""Moves of running servers at their source: what happens to the server meanwhile, and then."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.move_node import Fault, MoveNode, Mover, refused
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from tests.transfers.outgoing.moving import live_sender as sender
from wingsd.errors import EnvironmentFailed, PanelUnreachable
from wingsd.filesystem.walk import Measured, survey
from wingsd.moves import filling
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerState
from wingsd.threadio import Share, TokenBucket
from wingsd.transfers.outgoing import move, source
from wingsd.transfers.outgoing.rounds import SentServer

__all__ = ["sender"]

pytestmark = pytest.mark.usefixtures("slow_to_settle")

#: The rounds of a server whose predicted downtime does not change.
ROUNDS = 4


async def test_a_server_runs_until_more_rounds_do_not_help(sender: Mover, node: MoveNode) -> None:
    def write(kind: str, count: int) -> Fault:
        if kind == "rounds" and "stop" not in sender.calls:
            assert sender.server.hold == ""
            (now,) = sender.transfers.progress
            assert f"the server runs, round {count}: " in now.step_text
            assert (now.round, now.downtime is None) == (count, count == 1)
            assert sender.server.operations.runs(Operation.FOLLOW)
            (sender.tree / f"new{count}").write_bytes(os.urandom(50_000))
            (sender.tree / "region0").write_bytes(os.urandom(100_000 * count))
        return None

    node.fault = write
    await sender.succeeds(running=True)
    assert sender.states == ["starting", "processing", "success", "completed"]
    assert sender.calls == ["stop", "remove"]
    # one file changes all the time: the last round but one has it, too
    assert (node.count("resume"), node.count("rounds")) == (1, ROUNDS + 2)
    assert len(sender.heard.rounds) == ROUNDS + 1
    # as announced, with the container that was rehearsed meanwhile
    assert len(sender.heard.predicted) == ROUNDS + 2
    assert len(sender.heard.downtimes) == 1
    assert sender.said("round 2: ")
    assert sender.said("more rounds do not make it less")


@pytest.mark.promise("activity-precedes-the-move")
async def test_what_users_did_until_the_stop_is_sent_before_the_commit(
    sender: Mover, node: MoveNode
) -> None:
    had: list[list[str]] = []

    def note(kind: str, count: int) -> Fault:
        if (kind, count) == ("rounds", 1):
            sender.use()
        if kind == "commit":
            had.append([*sender.panel.activity])
        return None

    node.fault = note
    await sender.succeeds(running=True)
    assert had == [["server:power.restart"]]


@pytest.mark.promise("room-is-checked-before-the-stop")
async def test_a_round_that_there_is_no_room_for_ends_the_move_and_the_server_runs_on(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move, "MUCH", 500_000)
    monkeypatch.setattr(source, "FIGURES_FACTOR", 0)

    def grow(kind: str, count: int) -> Fault:
        if (kind, count) == ("rounds", 1):
            (sender.tree / "grown").write_bytes(os.urandom(600_000))
        return refused(507, "move-no-space") if kind == "room" else None

    node.fault = grow
    await sender.start()
    sender.check_runs_on()
    assert sender.said("the node says move-no-space")
    assert (node.count("room"), node.count("rounds")) == (1, 1)


@pytest.mark.parametrize("fault", [None, refused(404, "path-not-found")])
async def test_the_room_for_a_round_is_looked_for_if_the_destination_can(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(move, "MUCH", 1)
    monkeypatch.setattr(source, "FIGURES_FACTOR", 0)

    def grow(kind: str, count: int) -> Fault:
        if (kind, count) == ("rounds", 1):
            (sender.tree / "grown").write_bytes(os.urandom(600_000))
        return fault if kind == "room" else None

    node.fault = grow
    await sender.succeeds(running=True)
    assert node.count("room") > 0
    assert fault is not None or node.measured["disk_bytes"] > 1_100_000


class ByClock:
    """The reactor, by the time of a clock in memory."""

    def __init__(self, clock: Clock) -> None:
        self.seconds = clock.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


@pytest.mark.parametrize(("refusals", "walked"), [(0, 1), (1, 2)])
async def test_a_server_whose_files_take_long_to_measure_is_measured_once_for_a_move(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch, refusals: int, walked: int
) -> None:
    """It is measured again only where all that has changed would not fit if it were new."""
    clock, walks = Clock(), []

    def slow(directory: str) -> Measured:
        walks.append(clock.seconds())
        clock.advance(7)
        return survey(directory)

    monkeypatch.setattr(source, "survey", slow)
    by_clock: Any = ByClock(clock)
    sender.send_with(reactor=by_clock)
    parts = sender.sender.parts
    first = await parts.figures(UUID)
    (sender.tree / "grown").write_bytes(bytes(60_000))
    assert await parts.figures(UUID, may_be_known=True) == first
    assert (await parts.figures(UUID))["files"] == first["files"] + 1
    clock.advance(20 * 7)
    await parts.figures(UUID, may_be_known=True)
    assert walks == [0, 7, 7 + 7 + 20 * 7]
    walks.clear()
    monkeypatch.setattr(move, "MUCH", 500_000)

    def grow(kind: str, count: int) -> Fault:
        if (kind, count) == ("rounds", 1):
            (sender.tree / "more").write_bytes(os.urandom(600_000))
        return refused(507, "move-no-space") if (kind, count) == ("room", refusals) else None

    node.fault = grow
    await sender.succeeds(running=True)
    assert node.count("prepare") > 0
    assert len(walks) == walked
    assert node.count("room") > refusals


class Watched:
    """Threads, and a bucket: note in which state the server is used by them, and what they got."""

    def __init__(self, sender: Mover) -> None:
        self.seen: list[tuple[PowerState, bool]] = []
        self._server = sender.server
        self._workers = sender.sender.parts.packers
        self._bucket = TokenBucket(reactor, 1 << 30)

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.seen.append((self._server.state, False))
        return self._workers.run(work, *args, **kwargs)

    def join(self, resume: Callable[[], object], *, yields: bool) -> Share:
        self.seen.append((self._server.state, yields))
        return self._bucket.join(resume, yields=yields)


@pytest.mark.promise("move-yields-to-the-game")
async def test_rounds_come_after_all_else_until_the_server_is_stopped(sender: Mover) -> None:
    followers, packers, bucket = Watched(sender), Watched(sender), Watched(sender)
    used: dict[str, Any] = {"followers": followers, "packers": packers, "bucket": bucket}
    sender.send_with(**used)
    await sender.succeeds(running=True)
    assert {state for state, _ in followers.seen} == {PowerState.RUNNING}
    assert (PowerState.OFFLINE, False) in packers.seen
    assert (PowerState.RUNNING, True) in bucket.seen
    assert all(yields == (state is PowerState.RUNNING) for state, yields in bucket.seen)


@pytest.mark.parametrize("sender", [{"enabled": False}], indirect=True)
async def test_a_running_server_is_stopped_first_where_rounds_are_disabled(
    sender: Mover, node: MoveNode
) -> None:
    await sender.succeeds(running=True)
    assert node.count("rounds") == 1
    assert sender.states[0] == "pending"


async def test_a_server_that_is_off_is_sent_in_one_round(sender: Mover, node: MoveNode) -> None:
    sender.server.state = PowerState.OFFLINE
    await sender.succeeds(running=False)
    assert node.count("rounds") == 1


@pytest.mark.promise("users-decide-during-a-move")
async def test_a_server_that_ends_meanwhile_is_not_started_at_the_destination(
    sender: Mover, node: MoveNode
) -> None:
    def end() -> None:
        sender.server.state = PowerState.OFFLINE

    node.at_round(2, end)
    await sender.succeeds(running=False)
    assert node.count("rounds") == 3


@pytest.mark.promise("users-decide-during-a-move")
async def test_a_server_that_is_suspended_meanwhile_stays_stopped(
    sender: Mover, node: MoveNode
) -> None:
    def suspend() -> None:
        settings = attrs.evolve(sender.server.configuration.settings, suspended=True)
        sender.server.configuration = attrs.evolve(sender.server.configuration, settings=settings)

    node.at_round(2, suspend)
    await sender.succeeds(running=False)


async def test_a_server_that_is_starting_is_waited_for(sender: Mover, node: MoveNode) -> None:
    server = sender.server

    def restart() -> None:
        server.state = PowerState.STARTING

    node.at_round(ROUNDS, restart)
    over = sender.start()
    await until(lambda: sender.heard.predicted[ROUNDS - 1 :] != [])
    assert "stop" not in sender.calls
    server.state = PowerState.RUNNING
    await over
    sender.check_moved(running=True)


@pytest.mark.parametrize("sender", [{"max_downtime": 5}], indirect=True)
async def test_a_server_that_would_be_down_for_too_long_runs_on_until_it_ends(
    sender: Mover, node: MoveNode
) -> None:
    over = sender.start()
    await until(lambda: node.count("rounds") > ROUNDS + 1)
    assert sender.calls == []
    assert sender.said("more than system.transfers.live.max_downtime")
    sender.server.state = PowerState.OFFLINE
    await over
    sender.check_moved(running=False)


@pytest.mark.parametrize("sender", [{"announce": "say {seconds} s, {}"}], indirect=True)
async def test_its_players_are_told_for_how_long_it_will_be_down(sender: Mover) -> None:
    await sender.succeeds(running=True)
    told, *calls = sender.calls
    seconds = sender.heard.predicted[-1]
    assert told == f"say {math.ceil(seconds)} s, {{}}"
    assert calls == ["stop", "remove"]


@pytest.mark.promise("users-decide-during-a-move")
@pytest.mark.parametrize("sender", [{"announce": "say it moves"}], indirect=True)
async def test_a_console_that_takes_no_line_does_not_stop_the_move(sender: Mover) -> None:
    sender.faults["say it moves"] = EnvironmentFailed("the server did not read its console")
    await sender.succeeds(running=True)
    assert sender.said("the move could not be announced to its players: ")


@pytest.mark.promise("rehearsal-before-the-stop")
async def test_it_is_not_stopped_while_the_panel_does_not_answer(sender: Mover) -> None:
    sender.panel.faults["describe"] = PanelUnreachable("the Panel is away", "it is a test")
    over = sender.start()
    await until(lambda: sender.said("the server is not stopped yet, and runs on"))
    assert sender.calls == []
    sender.panel.faults.clear()
    await over
    sender.check_moved(running=True)


@pytest.mark.promise("users-decide-during-a-move")
async def test_a_cancelled_move_leaves_the_server_running(sender: Mover, node: MoveNode) -> None:
    node.at_round(2, lambda: sender.transfers.cancel(UUID))
    await sender.start()
    sender.check_runs_on()
    await until(lambda: node.deleted == ["all"])


@pytest.mark.promise("users-decide-during-a-move")
async def test_a_server_that_is_deleted_meanwhile_is_not_sent(
    sender: Mover, node: MoveNode
) -> None:
    deleting: list[Deferred[None]] = []
    node.at_round(2, lambda: deleting.append(Deferred.fromCoroutine(sender.delete())))
    await sender.start()
    await deleting[0]
    sender.check_runs_on()
    await until(lambda: node.deleted == ["all"])


async def test_a_server_that_is_deleted_after_its_stop_is_not_started_again(
    sender: Mover, node: MoveNode
) -> None:
    deleting: list[Deferred[None]] = []
    node.at_round(ROUNDS + 1, lambda: deleting.append(Deferred.fromCoroutine(sender.delete())))
    await sender.start()
    await deleting[0]
    assert "start" not in sender.calls


@pytest.mark.promise("changing-files-are-sent-again")
async def test_a_file_that_cannot_be_read_fails_the_move_and_the_server_runs_on(
    sender: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(filling, "_exactly", fail)
    await sender.start()
    sender.check_runs_on()
    assert sender.said("region0")


async def test_a_round_that_breaks_off_goes_on(sender: Mover, node: MoveNode) -> None:
    node.at_round(2, node.restart)
    await sender.succeeds(running=True)
    assert node.count("resume") == 2
    assert sender.calls == ["stop", "remove"]


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_failure_after_the_stop_starts_the_server_again(
    sender: Mover, node: MoveNode
) -> None:
    node.at_round(ROUNDS + 1, lambda: refused(403, "forbidden"))
    await sender.fails()
    await until(lambda: sender.server.state is PowerState.RUNNING)
    assert sender.calls == ["stop", "remove", "restore", "start"]
    assert sender.server.operations.hold is None


def used_at_the_stop(
    sender: Mover, monkeypatch: pytest.MonkeyPatch, state: PowerState
) -> list[bool]:
    """Have somebody use the server while its state is recorded; return what is recorded."""
    record, noted = SentServer.record_running, list[bool]()

    async def record_running(sent: SentServer, *, runs: bool) -> None:
        if not noted:
            sender.server.state = state
        noted.append(runs)
        await record(sent, runs=runs)

    monkeypatch.setattr(SentServer, "record_running", record_running)
    return noted


async def test_a_server_that_is_stopped_by_its_user_at_last_stays_stopped(
    sender: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = used_at_the_stop(sender, monkeypatch, PowerState.OFFLINE)
    await sender.succeeds(running=False)
    assert noted == [True, False]


async def test_a_server_that_is_stopped_by_its_user_at_last_is_not_started_if_it_stays(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_at_the_stop(sender, monkeypatch, PowerState.OFFLINE)
    node.at_round(ROUNDS + 1, lambda: refused(403, "forbidden"))
    await sender.start()
    await until(lambda: sender.store.unfinished() == [])
    assert sender.states[-1] == "failure"
    assert "start" not in sender.calls


async def test_a_server_that_is_started_by_its_user_at_last_runs_at_the_destination(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = used_at_the_stop(sender, monkeypatch, PowerState.RUNNING)
    node.at_round(2, lambda: setattr(sender.server, "state", PowerState.OFFLINE))
    await sender.succeeds(running=True)
    assert noted == [False, True]
    assert sender.calls == ["stop", "remove"]


async def test_a_server_that_its_panel_leaves_here_after_all_is_started_again(
    sender: Mover,
) -> None:
    """The destination had it, and has not reached the Panel."""
    await sender.succeeds(running=True)
    (transfer,) = sender.transfers._left_behind.values()
    await Deferred.fromCoroutine(transfer.check_left_behind())
    assert sender.store.transfers()[0].step == "FAILED"  # for the next daemon, until it runs
    await until(lambda: sender.store.unfinished() == [])
    assert sender.server.state is PowerState.RUNNING
    assert sender.calls == ["stop", "remove", "restore", "start"]
    assert sender.server.operations.hold is None
