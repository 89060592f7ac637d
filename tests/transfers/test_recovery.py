"""What an earlier daemon left unfinished, and what the next one makes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.receiver import RECORDED, Receiver
from tests.support.sample_server import UUID
from tests.support.sender import BACKUPS, Sender, sending
from wingsd.direct_transfers.initiator import DirectTransfers
from wingsd.errors import (
    DestinationUnreachable,
    EnvironmentFailed,
    PanelRefused,
    ServerNotFound,
    StorageError,
    TransferInProgress,
    TransferRevoked,
)
from wingsd.servers import Server
from wingsd.servers.operations import Hold, Operation
from wingsd.statedb import Direction, MoveRecord, Outcome, Report, TransferRecord
from wingsd.transfers.incoming.uploads import UploadTransfer
from wingsd.transfers.outgoing import move
from wingsd.transfers.recovery import PanelInitiator, durable, open_moves
from wingsd.transfers.steps import ReceiveStep, RollbackList, SendStep


@pytest.mark.promise("unwritable-database-fails-safely")
@pytest.mark.parametrize("step", [step for step in ReceiveStep if step.name in RECORDED])
async def test_a_failed_write_to_the_database_fails_the_transfer_and_loses_nothing(
    receiver: Receiver, step: ReceiveStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = receiver.store.enter

    def full(now: float, transfer: int, name: str) -> None:
        if name == step.name:
            raise StorageError("the disk is full")
        write(now, transfer, name)

    monkeypatch.setattr(receiver.store, "enter", full)
    await receiver.fails(StorageError)
    assert "success" not in receiver.calls
    assert receiver.calls.count("failure") == 1
    assert (receiver.left(), receiver.servers.holds) == ([], {})
    assert receiver.store.unfinished() == []


async def test_a_success_that_cannot_be_recorded_is_not_reported(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = receiver.store.add_report

    def full(now: float, server: str, outcome: Outcome, *given: Any) -> Report:
        if outcome is Outcome.SUCCESS:
            raise StorageError("the disk is full")
        return add(now, server, outcome, *given)

    monkeypatch.setattr(receiver.store, "add_report", full)
    await receiver.fails(StorageError)
    assert "success" not in receiver.calls
    assert receiver.left() == []


async def resumed(receiver: Receiver, step: ReceiveStep, begun: float = 1.0) -> None:
    """Take up, as the next daemon does, a transfer that had come so far."""
    receiver.store.begin(begun, UUID, Direction.IN, step.name)
    directory = Path(receiver.staging.create(UUID))
    (directory / "world").write_text("whole")
    if step in (ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        receiver.staging.swap(UUID)
    await receiver.take_up()


@pytest.mark.promise("destination-completes-or-rolls-back")
@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
async def test_a_complete_server_continues(receiver: Receiver, step: ReceiveStep) -> None:
    await resumed(receiver, step)
    made = ["create"] if step is not ReceiveStep.REPORT else []
    assert receiver.calls == ["owns", "describe", *made, "success", "sync"]
    assert (receiver.data / UUID / "world").read_text() == "whole"
    assert receiver.states[-1] == "completed"
    assert receiver.store.unfinished() == []


@pytest.mark.promise("destination-completes-or-rolls-back")
@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT])
async def test_a_rolled_back_transfer_has_failed(receiver: Receiver, step: ReceiveStep) -> None:
    receiver.store.begin(1.0, UUID, Direction.IN, step.name)
    await receiver.take_up()
    assert "success" not in receiver.calls
    # It may have been killed before the container was removed as well.
    assert ("remove" in receiver.calls) is (step is ReceiveStep.ENVIRONMENT)
    assert (receiver.left(), receiver.store.unfinished()) == ([], [])


@pytest.mark.promise("destination-completes-or-rolls-back")
@pytest.mark.parametrize("step", [ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
async def test_a_refused_container_is_removed(receiver: Receiver, step: ReceiveStep) -> None:
    receiver.faults["owns"] = ServerNotFound("deleted meanwhile")
    await resumed(receiver, step)
    assert receiver.calls == ["owns", "failure", "remove"]


@pytest.mark.promise("destination-completes-or-rolls-back")
async def test_leftovers_of_a_failure_are_removed_by_the_next_daemon(receiver: Receiver) -> None:
    receiver.faults["create"] = EnvironmentFailed("the engine gave no answer in time")
    receiver.waits["remove"] = Deferred()
    with pytest.raises(EnvironmentFailed):
        await receiver.receive()
    await until(lambda: "remove" in receiver.calls)
    # The daemon ends here, before its engine has removed what may have been made.
    (entry,) = receiver.store.unfinished()
    assert (entry.step, durable([entry])) == ("FAILED", set())
    receiver.calls.clear()
    receiver.waits.clear()
    await receiver.take_up()
    # The Panel has heard of it, and may have begun another transfer since.
    assert receiver.calls == ["remove"]
    assert receiver.store.unfinished() == []
    assert receiver.store.transfers()[0].outcome is Outcome.FAILURE


async def test_a_settled_report_is_not_sent_again(receiver: Receiver) -> None:
    receiver.panel.owned = [True, True]
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await resumed(receiver, ReceiveStep.REPORT)
    assert receiver.calls == ["owns", "describe", "success", "owns", "sync"]
    assert receiver.left() == [UUID]


@pytest.mark.promise("destination-completes-or-rolls-back")
async def test_a_restored_directory_is_not_taken_for_the_received_server(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = receiver.data / UUID / "precious"
    precious.parent.mkdir()
    precious.touch()
    receiver.faults["create"] = EnvironmentFailed("no engine")

    def die(now: float, transfer: int, name: str) -> None:
        if name == "FAILED":
            raise StorageError("the daemon is killed here")
        enter(1.0, transfer, name)

    enter = receiver.store.enter
    monkeypatch.setattr(receiver.store, "enter", die)
    monkeypatch.setattr(receiver.store, "end", lambda *_: None)
    await receiver.fails(EnvironmentFailed)
    assert precious.exists()
    monkeypatch.undo()
    (entry,) = receiver.store.unfinished()
    assert entry.step == "ENVIRONMENT"

    del receiver.faults["create"]
    receiver.calls.clear()
    receiver.panel.owned = [False]
    await receiver.take_up(clear=True)
    assert "success" not in receiver.calls
    assert precious.exists()
    assert (receiver.left(), receiver.store.unfinished()) == ([UUID], [])


@pytest.mark.promise("destination-completes-or-rolls-back")
async def test_a_directory_set_aside_is_restored_after_a_refusal(receiver: Receiver) -> None:
    precious = receiver.data / UUID / "precious"
    precious.parent.mkdir()
    precious.touch()
    receiver.panel.owned = [False, False]
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    await receiver.fails(TransferRevoked)
    assert precious.exists()
    assert receiver.left() == [".quarantine", UUID]


def test_a_step_that_is_unknown_here_does_not_stop_a_start() -> None:
    entries = [TransferRecord(1, UUID, Direction.IN, "LATER", 0, 0)]
    moves = [MoveRecord(1, UUID, Direction.IN, "m", "k", "t", "")]
    assert (durable(entries), open_moves(entries, moves)) == (set(), {})


# Recovery of outgoing transfers that an earlier daemon left unfinished


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    yield from sending(tmp_path, answer_grace=600)


def begin(
    sender: Sender,
    step: SendStep,
    pool: str = "",
    removals: Sequence[str] = (),
    inode: int | None = None,
    seconds_ago: float = 1,
) -> None:
    """Take up, as the next daemon does, a transfer that had come so far."""
    entry = sender.store.begin(time.time() - seconds_ago, UUID, Direction.OUT, step.name)
    sender.store.set_terms(entry, pool, removals, inode)
    recovery = sender.make_recovery(sender.store.unfinished())
    recovery.begin()
    assert (sender.server.hold, sender.servers.shared) == (PanelInitiator.hold, pool)
    recovery.resume_outgoing()


class _Starter:
    """Starts servers, and notes how."""

    def __init__(self) -> None:
        self.started: list[tuple[object, str]] = []

    async def start_in_turn(
        self, server: Server, ran: str, stop: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        if stop is not None:
            await stop()
        self.started.append((server, ran))


def made_move(entry: int, **state: bool) -> MoveRecord:
    """Return what is recorded of the move of a transfer, in that `state`."""
    return MoveRecord(
        transfer=entry,
        server=UUID,
        direction=Direction.OUT,
        move="m",
        key="k",
        token="t",
        url="http://127.0.0.1:1/api/transfers",
        request="{}",
        state=json.dumps(state),
    )


def begin_move(sender: Sender, step: SendStep, *, direct: bool = False, **state: bool) -> _Starter:
    """As `begin`, for a move whose record has that `state`; return what starts servers."""
    begun = time.time() - 601
    entry = sender.store.begin(begun, UUID, Direction.OUT, step.name, direct=direct)
    sender.store.add_move(made_move(entry, **state))
    sender.running = starter = _Starter()  # type: ignore[assignment]
    recovery = sender.make_recovery(sender.store.unfinished(), sender.store.open_moves())
    recovery.begin()
    recovery.resume_outgoing()
    return starter


async def end(sender: Sender) -> Outcome | None:
    await until(lambda: sender.store.unfinished() == [])
    return sender.store.transfers()[0].outcome


async def recover(sender: Sender, step: SendStep, **terms: Any) -> Outcome | None:
    begin(sender, step, **terms)
    return await end(sender)


@pytest.mark.promise("container-is-made-again")
@pytest.mark.parametrize(
    ("step", "asked", "calls"),
    [
        (SendStep.ASK, ["failure"], []),
        (SendStep.STOP, ["failure"], []),
        (SendStep.RETIRE, ["failure"], ["restore"]),
        (SendStep.SEND, ["owns", "failure"], ["restore"]),
    ],
)
async def test_the_container_of_a_server_that_stays_is_restored(
    sender: Sender, step: SendStep, asked: list[str], calls: list[str]
) -> None:
    assert await recover(sender, step) is Outcome.FAILURE
    assert (sender.panel.calls, sender.calls, sender.server.hold) == (asked, calls, "")


@pytest.mark.promise("server-runs-again-after-a-failed-move")
@pytest.mark.parametrize(
    ("state", "started"),
    [
        ({"live": True, "running": True, "stopped": True}, 1),
        ({"live": True, "running": True, "stopped": False}, 0),  # it was started already
        ({"live": True, "running": False, "stopped": False}, 0),
        ({"live": False, "running": True}, 0),  # one that is sent as a whole is not
    ],
)
@pytest.mark.parametrize(
    ("step", "asked"),
    [
        (SendStep.SETTLE, ["owns", "failure"]),  # and the grace is over: it does not go on
        (SendStep.FAILED, ["failure"]),
    ],
)
async def test_a_server_that_ran_until_its_move_is_started_again_where_it_stays(
    sender: Sender, state: dict[str, bool], started: int, step: SendStep, asked: list[str]
) -> None:
    starter = begin_move(sender, step, **state)
    assert await end(sender) is Outcome.FAILURE
    assert sender.panel.calls == asked
    # it may not have ended when that failed
    stops = ["stop"] if started and step is SendStep.FAILED else []
    assert sender.calls == ["restore", *stops]
    assert starter.started == [(sender.server, "before its transfer")] * started


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_server_that_was_about_to_run_again_is_started_where_its_move_does_not_go_on(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon ended between giving up the last round and the start."""

    def refuse(*args: object) -> bool:
        raise TransferInProgress("it does not go on", "it is a test")

    monkeypatch.setattr(sender.transfers, "go_on", refuse)
    starter = begin_move(sender, SendStep.FOLLOW, live=True, running=True, stopped=True)
    assert await end(sender) is Outcome.FAILURE
    assert starter.started == [(sender.server, "before its transfer")]


@pytest.mark.promise("container-is-made-again")
async def test_a_transfer_stays_unfinished_until_its_container_is_restored(sender: Sender) -> None:
    sender.waits["restore"] = Deferred()
    begin(sender, SendStep.SEND)
    await until(lambda: "restore" in sender.calls)
    assert sender.store.unfinished()
    sender.waits["restore"].callback(None)
    assert await end(sender) is Outcome.FAILURE


async def test_a_moved_server_goes_into_quarantine(sender: Sender) -> None:
    sender.panel.owned = False
    assert await recover(sender, SendStep.SEND) is Outcome.SUCCESS
    assert (sender.panel.calls, sender.calls) == (["owns"], ["discard", "store away"])


@pytest.mark.promise("pool-nodes-keep-apart")
async def test_only_the_directory_that_was_sent_goes_into_quarantine(sender: Sender) -> None:
    sender.panel.owned = False
    await recover(sender, SendStep.AWAIT, inode=4711)
    assert (sender.calls[-1], sender.quarantined_inode) == ("store away", 4711)


@pytest.mark.promise("source-copy-goes-when-moved")
async def test_a_moved_server_that_is_coming_back_is_left_alone(sender: Sender) -> None:
    sender.panel.owned = False
    sender.receiver.open(UploadTransfer, UUID)
    assert await recover(sender, SendStep.AWAIT, removals=("a backup",)) is Outcome.SUCCESS
    assert (sender.panel.calls, sender.calls) == (["owns"], [])


@pytest.mark.promise("pool-files-are-untouched")
async def test_a_moved_server_stays_in_its_pool(sender: Sender) -> None:
    sender.panel.owned = False
    marks = [sender.data / f".pool-mark-{UUID}-{'0' * 32}"]
    marks.append(sender.backup_directory / f".backups-mark-{UUID}-{'0' * 32}")
    sender.backup_directory.mkdir()
    for mark in marks:
        mark.touch()
    await recover(sender, SendStep.SEND, pool="attic")
    assert sender.calls == ["discard", "store away backups"]
    assert not [mark for mark in marks if mark.exists()]


@pytest.mark.parametrize("moved", [True, False])
async def test_a_server_moved_within_a_pool_is_forgotten(sender: Sender, moved: bool) -> None:
    """It once came so; its files are there still, and would have it known at the next start."""
    sender.store.add_description(UUID, "digest", "{}")
    sender.store.mark_arrived(1.0, UUID)
    sender.panel.owned = not moved
    await recover(sender, SendStep.SEND, pool="attic")
    assert len(sender.store.descriptions()) == (not moved)


async def test_a_pooled_server_that_stays_is_not_shared_any_more(sender: Sender) -> None:
    await recover(sender, SendStep.SEND, pool="attic")
    assert (sender.servers.shared, sender.server.hold) == ("", "")


@pytest.mark.parametrize("moved", [True, False])
async def test_backups_are_removed_only_if_the_server_moved(sender: Sender, moved: bool) -> None:
    sender.panel.owned = not moved
    removals = [f"{uuid}.tar" for uuid in BACKUPS]
    for name in removals:
        sender.keep(name, b"backup")
    await recover(sender, SendStep.AWAIT, removals=removals)
    assert len([*sender.backup_directory.iterdir()]) == (0 if moved else len(BACKUPS))


@pytest.mark.promise("lost-answer-is-asked-for")
@pytest.mark.parametrize("moved", [True, False])
async def test_the_rest_of_the_grace_follows_a_restart(sender: Sender, moved: bool) -> None:
    clock = Clock()
    object.__setattr__(sender.coordinators, "reactor", clock)
    begin(sender, SendStep.SETTLE)
    await until(lambda: sender.panel.calls)
    clock.pump([1.0] * 590)
    assert set(sender.panel.calls) == {"owns"}
    sender.panel.owned = not moved
    clock.pump([1.0] * 20)
    assert await end(sender) is (Outcome.SUCCESS if moved else Outcome.FAILURE)
    assert ("failure" in sender.panel.calls) is not moved


@pytest.mark.promise("server-runs-again-after-a-failed-move")
async def test_a_server_that_is_still_stopping_is_stopped_and_started_where_it_stays(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender.transfers, "go_on", lambda *_: False)
    starter = begin_move(sender, SendStep.STOP, live=True, running=True, stopped=True)
    assert await end(sender) is Outcome.FAILURE
    assert sender.calls == ["stop"]
    assert starter.started == [(sender.server, "before its transfer")]


@pytest.mark.promise("next-transfer-is-not-ended")
async def test_a_failure_is_reported_once(sender: Sender) -> None:
    """The Panel may have begun another transfer, and would take it for that one's."""
    sender.store.begin(10, UUID, Direction.OUT, SendStep.FAILED.name)
    report = sender.store.add_report(11, UUID, Outcome.FAILURE)
    sender.store.close_report(12, report, "accepted")
    sender.next_daemon()
    assert await end(sender) is Outcome.FAILURE
    assert sender.panel.calls == []
    assert sender.server.operations.hold is None


async def test_an_installation_that_was_begun_since_the_failure_holds_its_server(
    sender: Sender,
) -> None:
    sender.store.begin(10, UUID, Direction.OUT, SendStep.FAILED.name, direct=True)
    recovery = sender.make_recovery(sender.store.unfinished())
    recovery.begin()
    sender.server.operations.hold = Hold(Operation.INSTALL, "it is being installed")
    recovery.resume_outgoing()
    assert await end(sender) is Outcome.FAILURE
    assert sender.server.operations.runs(Operation.INSTALL)


def _was_awaited(mock: AsyncMock, times: int) -> bool:
    return mock.await_count == times


async def test_a_destination_is_told_of_a_failed_move_by_each_daemon_until_it_has_heard(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later transfer was recorded, and the daemon ended, before the destination had heard."""
    ended = AsyncMock(side_effect=[DestinationUnreachable("it is away"), None])
    monkeypatch.setattr(move, "end_move", ended)
    seed = sender.store.begin(10, UUID, Direction.OUT, SendStep.FAILED.name, direct=True)
    sender.store.add_move(made_move(seed))
    later = sender.store.begin(11, UUID, Direction.OUT, SendStep.ASK.name)
    sender.store.end(12, later, Outcome.FAILURE)
    for times in (1, 2):
        assert [move.transfer for move in sender.store.open_moves()] == [seed]
        sender.make_recovery([], sender.store.open_moves()).begin()
        await until(partial(_was_awaited, ended, times))
    await until(lambda: sender.store.open_moves() == [])


@pytest.mark.parametrize("step", [SendStep.SEND, SendStep.AWAIT])
async def test_a_seed_that_was_adopted_leaves_the_server_to_the_later_transfer(
    sender: Sender, step: SendStep
) -> None:
    """It had failed when that was recorded already, and the daemon ended before it was closed."""
    now = time.time()
    seed = sender.store.begin(now, UUID, Direction.OUT, SendStep.SEED.name, direct=True)
    later = sender.store.begin(now, UUID, Direction.OUT, step.name)
    sender.store.enter(now, seed, SendStep.FAILED.name)
    sender.server.starts_if_it_stays = True
    sender.panel.waits["owns"] = answer = Deferred[None]()
    sender.running = starter = _Starter()  # type: ignore[assignment]
    sender.next_daemon()
    await until(lambda: [entry.id for entry in sender.store.unfinished()] == [later])
    assert (sender.server.hold, sender.calls, starter.started) == (PanelInitiator.hold, [], [])
    answer.callback(None)
    assert await end(sender) is Outcome.FAILURE
    assert (sender.server.hold, sender.calls) == ("", ["restore"])
    assert starter.started == [(sender.server, "before its transfer")]


@pytest.mark.promise("cancelled-direct-server-stays-off")
async def test_a_server_that_its_destination_may_run_is_not_started(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person has cancelled its direct transfer before it was known whether it has moved."""
    unknown = AsyncMock(return_value=None)
    monkeypatch.setattr(DirectTransfers, "has_moved", unknown)
    sender.server.starts_if_it_stays = True
    starter = begin_move(sender, SendStep.AWAIT, direct=True, live=True, stopped=True)
    assert await end(sender) is Outcome.FAILURE
    assert (sender.server.hold, sender.calls, starter.started) == ("", ["restore"], [])


# Rolling back in reverse order


async def test_actions_are_rolled_back_once_in_reverse_order(logged: Logged) -> None:
    rollback, done = RollbackList("a-server"), []  # type: RollbackList, list[str]

    async def first() -> None:
        done.append("first")

    async def stuck() -> None:
        done.append("stuck")
        raise StorageError("the disk is full")

    async def wrong() -> None:
        done.append("wrong")
        raise KeyError

    for step in (first, stuck, wrong):
        rollback.add(step)
    await rollback.run()
    await rollback.run()
    assert done == ["wrong", "stuck", "first"]
    assert len(logged.take(KeyError)) == 1
    assert [line for line in logged.lines if "a-server" in line and "disk is full" in line]
