"""Seeds: copies that follow their servers at another node until a transfer goes on with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.direct_transfers.seeding import (
    END,
    OrderingPanel,
    begin,
    come,
    copy,
    figures,
    follows,
    is_used_as_ever,
    kept,
    nodes,
    order,
    quick,
    received,
    settings,
    write,
)
from tests.support.logged_errors import Logged
from tests.support.node_in_process import LEVEL, NodeInProcess, NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.direct_transfers.initiator import MOVED_AWAY
from wingsd.errors import (
    DaemonStopping,
    ServerAlreadyExists,
    ServerBusy,
    StorageError,
    TransferInProgress,
)
from wingsd.http.request import StreamingRequest
from wingsd.moves.destination import Rereading
from wingsd.moves.source import MoveSource
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.statedb import KEPT
from wingsd.transfers.incoming.moves import transfer
from wingsd.transfers.manager import IncomingMoves
from wingsd.transfers.outgoing import move
from wingsd.transfers.outgoing.move import Mover
from wingsd.transfers.outgoing.source import SeedOrder
from wingsd.transfers.peer import moves
from wingsd.util.retry import Backoff

__all__ = ["nodes", "quick"]


async def test_a_copy_follows_a_server_that_is_used_as_ever(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    monkeypatch.setattr(nodes.source.bus, "publish", lambda event: published.append(event.name))
    await begin(nodes)
    assert (copy(nodes) / "world" / "level.dat").read_bytes() == LEVEL
    await follows(nodes, "new")
    assert is_used_as_ever(nodes)
    assert not any("transfer" in name for name in published)
    await until(lambda: figures(nodes).rounds > 2)
    now = figures(nodes)
    assert now.age is not None
    assert now.age < 60
    assert now.downtime is not None
    assert (now.missing, now.until, now.trouble) == (0, None, "")


@pytest.mark.promise("seed-follows-its-server")
@pytest.mark.parametrize("ends", ["source", "destination"])
async def test_it_goes_on_after_a_restart(nodes: NodePair, ends: str, logged: Logged) -> None:
    await begin(nodes)
    node = await nodes.restart(ends)
    if ends == "source":
        # As its Panel lists it, which a daemon waits for.
        node.servers.get_or_add(nodes.configuration)
    await node.recover()
    await follows(nodes, "after")
    assert is_used_as_ever(nodes)
    assert any("resumed: " in line for line in logged.lines)
    assert nodes.source.entries() == [("out", None)]


async def test_a_seed_of_a_server_that_is_gone_ends_and_its_copy_is_kept(nodes: NodePair) -> None:
    await begin(nodes)
    node = await nodes.restart("source")
    recovery = await node.recover()
    node.servers.loaded = True
    recovery.resume_outgoing()
    await nodes.settled()
    assert (node.entries(), kept(nodes)) == ([("out", "failure")], [UUID])


@pytest.mark.promise("seed-follows-its-server")
async def test_it_goes_on_when_the_destination_is_there_again(
    nodes: NodePair, logged: Logged
) -> None:
    await begin(nodes)
    nodes.destination.lose = lambda _: True
    await until(lambda: "destination-disconnected" in figures(nodes).trouble)
    assert any("and follows the server again in" in line for line in logged.lines)
    await until(
        lambda: sum("and follows the server again in" in line for line in logged.lines) > 1
    )
    nodes.destination.lose = lambda _: False
    await follows(nodes, "after")
    await until(lambda: figures(nodes).trouble == "")


@pytest.mark.promise("seed-is-kept")
@pytest.mark.parametrize("end", ["source", "destination"])
async def test_what_has_arrived_of_a_cancelled_one_is_kept_for_the_next_transfer(
    nodes: NodePair, end: str, logged: Logged
) -> None:
    await begin(nodes)
    if end == "source":
        nodes.source.sender.cancel(UUID)
    else:
        nodes.destination.receiver.cancel(UUID)
    await nodes.settled()
    assert kept(nodes) == [UUID]
    assert is_used_as_ever(nodes)
    assert nodes.destination.direct_transfers.expected == {}
    assert nodes.destination.store.descriptions() == []
    await nodes.move()
    assert any("resumed: " in line for line in logged.lines)


@pytest.mark.promise("seed-is-kept")
@pytest.mark.parametrize("nodes", [settings(follow_every=3600)], indirect=True)
async def test_one_that_is_cancelled_at_the_destination_ends_in_a_pause(nodes: NodePair) -> None:
    await begin(nodes)
    nodes.destination.receiver.cancel(UUID)
    await nodes.settled()
    assert "the destination node says: the transfer was cancelled" in nodes.source.reason
    assert nodes.source.entries() == [("out", "cancelled")]


@pytest.mark.promise("seed-is-kept")
async def test_a_forgotten_copy_ends_it(nodes: NodePair) -> None:
    await begin(nodes)
    assert nodes.destination.receiver.forget(UUID)
    await nodes.settled()
    assert "removed" in nodes.source.reason
    assert nodes.destination.left() == []
    assert is_used_as_ever(nodes)
    assert not nodes.destination.receiver.forget(UUID)


@pytest.mark.promise("seed-is-kept")
async def test_the_deletion_of_the_server_removes_the_copy(nodes: NodePair) -> None:
    await begin(nodes)
    await nodes.source.sender.release(UUID)
    await nodes.settled()
    assert (kept(nodes), nodes.destination.left()) == ([], [])


@pytest.mark.promise("seed-follows-its-server")
async def test_a_directory_that_replaces_the_servers_is_followed(nodes: NodePair) -> None:
    await begin(nodes)
    files = nodes.source.data / UUID
    files.rename(files.with_name("before"))
    (files / "world").mkdir(parents=True)
    await until(lambda: not (copy(nodes) / "world" / "level.dat").exists())
    await follows(nodes, "restored")


@pytest.mark.promise("seed-is-kept")
async def test_a_destination_that_was_away_hears_that_it_has_ended(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move, "DISCARD_WITHIN", 0.0)
    monkeypatch.setattr(moves, "PAUSES", Backoff(0.05, 0.05))
    await begin(nodes)
    away = nodes.destination
    port = away.port
    await away.close()
    nodes.source.sender.cancel(UUID)
    await until(lambda: not nodes.source.sender.servers)
    nodes.destination = NodeInProcess(away.directory, nodes.workers, port, settings())
    await nodes.destination.recover()
    await nodes.settled()
    assert kept(nodes) == [UUID]


async def test_a_copy_whose_beginning_is_not_answered_leaves_what_was_kept_before(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(nodes)
    nodes.source.sender.cancel(UUID)
    await nodes.settled()
    withdraw = move.Mover.withdraw

    async def be_heard_again(mover: Any, **options: Any) -> None:
        nodes.destination.lose = lambda _: False
        await withdraw(mover, **options)

    monkeypatch.setattr(move.Mover, "withdraw", be_heard_again)
    monkeypatch.setattr(move, "BEGIN_WITHIN", 0.0)
    nodes.destination.lose = lambda request: request.path.endswith(b"/move")
    await nodes.send(await nodes.destination.invite(follow=True, seconds=1), seed=SeedOrder())
    await nodes.settled()
    assert nodes.destination.entries()[-1] == ("in", "failure")
    assert kept(nodes) == [UUID]


# How long a destination waits for its source


@pytest.mark.promise("seed-is-kept")
@pytest.mark.parametrize("nodes", [settings(patience=0.2)], indirect=True)
async def test_a_copy_that_its_source_has_given_up_at_the_beginning_ends_soon(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had no answer to any of its first requests."""
    monkeypatch.setattr(move, "BEGIN_WITHIN", 0.0)
    monkeypatch.setattr(move, "WITHDRAW_WITHIN", 0.1)
    monkeypatch.setattr(transfer, "LONGER", 0.0)
    nodes.destination.lose = lambda request: request.path.endswith(b"/move")
    await nodes.send(await nodes.destination.invite(follow=True), seed=SeedOrder())
    await until(lambda: nodes.source.entries() == [("out", "failure")])
    await until(lambda: nodes.destination.entries() == [("in", "failure")])
    assert "move-abandoned" in nodes.destination.reason


@pytest.mark.promise("seed-is-kept")
@pytest.mark.parametrize("nodes", [settings(follow_every=3600)], indirect=True)
async def test_a_copy_that_has_followed_its_server_waits_for_its_source_for_days(
    nodes: NodePair,
) -> None:
    await begin(nodes)
    days = nodes.destination.moves.settings.keep_days * 24 * 3600.0
    assert received(nodes).silence.seconds == days + transfer.LONGER
    await nodes.next("destination")
    await until(lambda: received(nodes).status[-1] is not None)
    assert received(nodes).silence.seconds == days + transfer.LONGER


# Its end by its time


async def test_a_server_that_runs_is_moved_and_started_there_when_the_time_has_come(
    nodes: NodePair,
) -> None:
    await nodes.run()
    await begin(nodes, END)
    come(nodes.source)
    await nodes.assert_moved()
    await until(lambda: UUID in nodes.destination.environment.running)
    assert UUID not in nodes.source.environment.running


async def test_a_server_that_does_not_run_then_is_moved_and_stays_off(nodes: NodePair) -> None:
    nodes.source.panel.known[UUID] = nodes.configuration
    await nodes.source.servers.get(UUID).power(PowerAction.START)
    await begin(nodes, END)
    await nodes.source.servers.get(UUID).power(PowerAction.KILL)
    come(nodes.source)
    await nodes.assert_moved()
    assert nodes.destination.servers.get(UUID).state is PowerState.OFFLINE


@pytest.mark.promise("seed-switch-waits")
async def test_a_server_that_is_busy_then_is_waited_for(nodes: NodePair, logged: Logged) -> None:
    await begin(nodes, END)
    come(nodes.source)
    with nodes.source.servers.get(UUID).operations.during(Operation.BACKUP):
        await until(lambda: any("is moved when that is over: " in line for line in logged.lines))
        await follows(nodes, "during the backup")
        assert nodes.source.entries() == [("out", None)]
    await nodes.assert_moved()
    assert (nodes.destination.data / UUID / "world" / "during the backup").exists()


@pytest.mark.promise("seed-switch-waits")
async def test_an_end_that_came_while_the_source_was_away_is_made_up_for(nodes: NodePair) -> None:
    await begin(nodes, END)
    node = await nodes.restart("source")
    node.servers.get_or_add(nodes.configuration)
    come(node)
    await node.recover()
    await nodes.assert_moved()


async def test_a_source_that_died_at_the_stop_goes_on_with_the_move(nodes: NodePair) -> None:
    await begin(nodes, END)
    nodes.source.die_at("STOP")
    come(nodes.source)
    await until(lambda: nodes.source.store.unfinished()[0].step == "STOP")
    node = await nodes.restart("source")
    node.servers.get_or_add(nodes.configuration)
    await node.recover()
    await nodes.assert_moved()


# What is refused


async def test_one_of_a_server_that_has_moved_is_refused(nodes: NodePair) -> None:
    nodes.source.servers.get(UUID).disown("it has moved")
    with pytest.raises(ServerBusy, match="has moved to another node"):
        await begin(nodes)
    assert nodes.source.entries() == []


async def test_a_second_one_is_refused(nodes: NodePair) -> None:
    await begin(nodes)
    invitation = await nodes.destination.invite(follow=True)
    with pytest.raises(TransferInProgress):
        await nodes.send(invitation, seed=SeedOrder())
    with pytest.raises(TransferInProgress):
        await nodes.send(invitation)
    await follows(nodes, "still")


async def test_a_destination_that_was_not_told_of_it_refuses_it(nodes: NodePair) -> None:
    await nodes.send_now(seed=SeedOrder())
    await nodes.settled()
    assert "wingsctl receive there with --follow" in nodes.source.reason
    assert nodes.destination.left() == []


# Seeds that are due when something is not as it was, or cannot be done


@pytest.mark.promise("seed-switch-waits")
async def test_a_server_that_was_suspended_since_is_moved_and_stays_off(nodes: NodePair) -> None:
    await nodes.run()
    await begin(nodes, END)
    server = nodes.source.servers.get(UUID)
    suspended = attrs.evolve(server.configuration.settings, suspended=True)
    server.configuration = attrs.evolve(server.configuration, settings=suspended)
    come(nodes.source)
    await nodes.assert_moved()
    assert nodes.destination.servers.get(UUID).state is PowerState.OFFLINE


@pytest.mark.promise("seed-is-kept")
async def test_a_server_whose_move_cannot_be_recorded_runs_on_where_it_is(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nodes.run()
    await begin(nodes, END)

    async def fail(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(nodes.source.database, "change_move_state", fail)
    come(nodes.source)
    await nodes.settled()
    assert "the disk is full" in nodes.source.reason
    assert nodes.source.servers.get(UUID).state is PowerState.RUNNING
    assert is_used_as_ever(nodes)
    assert kept(nodes) == [UUID]


# Servers that direct transfers have moved away, where a Panel still has them at their sources


@pytest.mark.promise("moved-server-is-not-started")
@pytest.mark.parametrize("is_restored", [False, True])
async def test_one_is_held_after_restarts_for_ever(nodes: NodePair, is_restored: bool) -> None:
    """Also where a restore has replaced its directory while the copy followed."""
    await begin(nodes, END)
    if is_restored:
        files = nodes.source.data / UUID
        files.rename(files.with_name("before"))
        (files / "world").mkdir(parents=True)
        (files / "world" / "level.dat").write_bytes(LEVEL)
        (files / "world" / "restored").write_bytes(b"restored")
        await until((copy(nodes) / "world" / "restored").exists)
    come(nodes.source)
    await nodes.assert_moved()
    nodes.source.store.prune(END + KEPT + 2)
    node = await nodes.next("source")
    node.servers.get_or_add(nodes.configuration)
    assert node.hold == MOVED_AWAY


# Direct transfers that are cancelled before it is known whether the server has moved


@pytest.mark.promise("cancelled-direct-server-stays-off")
async def test_a_server_whose_transfer_is_cancelled_before_its_outcome_is_known_stays_off(
    nodes: NodePair, logged: Logged
) -> None:
    source, destination = nodes.source, nodes.destination
    server = await nodes.run()
    await begin(nodes, END)

    def lose(request: StreamingRequest) -> bool:
        if b"/commit" in request.path:
            destination.lose = lambda _: True
        return False

    destination.lose = lose
    come(source)
    await until(lambda: UUID in destination.environment.running)
    source.sender.cancel(UUID)
    await until(lambda: any(each.step.name == "SETTLE" for each in source.sender.progress))
    source.sender.cancel(UUID)
    await until(lambda: not source.sender.servers)
    # As a later daemon would find it, from here on.
    (entry,) = source.store.transfers()
    assert (entry.step, source.hold) == ("FAILED", "")
    record = source.store.move(entry.id)
    assert record is not None
    assert json.loads(record.state)["stopped"] is False
    destination.lose = lambda _: False
    await until(lambda: source.entries() == [("out", "cancelled")])
    assert (server.state, UUID in source.environment.running) == (PowerState.OFFLINE, False)
    assert any("is not started, since its transfer was cancelled" in each for each in logged.lines)


# Transfers that the Panel orders of servers that a copy follows: they take its place


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories whose reading was begun."""
    found: list[str] = []
    make = MoveSource.__init__

    def note(self: MoveSource, directory: str, *args: Any, **options: Any) -> None:
        found.append(directory)
        make(self, directory, *args, **options)

    monkeypatch.setattr(MoveSource, "__init__", note)
    return found


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[MoveSource]:
    """What has read files, and was closed."""
    found: list[MoveSource] = []
    close = MoveSource.close

    def note(self: MoveSource) -> None:
        close(self)
        found.append(self)

    monkeypatch.setattr(MoveSource, "close", note)
    return found


@pytest.mark.promise("shown-figures-are-true")
@pytest.mark.parametrize("moment", ["between rounds", "in a round"])
async def test_the_panels_order_goes_on_with_the_copy_and_with_what_was_read(
    nodes: NodePair,
    moment: str,
    readings: list[str],
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skipped: list[Rereading] = []
    skip = Rereading.skip

    def note(rereading: Rereading) -> None:
        skipped.append(rereading)
        skip(rereading)

    monkeypatch.setattr(Rereading, "skip", note)
    await begin(nodes)
    panel = OrderingPanel(nodes)
    await received(nodes).inbox.upkeep.catch_up()
    write(nodes, "since")
    if moment == "in a round":
        asked = len(nodes.destination.asked)
        nodes.destination.lose = lambda request: request.method == b"PUT"
        is_sending: Callable[[str], bool] = lambda path: "batches" in path  # noqa: E731
        await until(lambda: any(map(is_sending, nodes.destination.asked[asked:])))
        nodes.destination.lose = lambda _: False
    order(nodes, nodes.destination)
    with pytest.raises(TransferInProgress):
        order(nodes, nodes.destination)
    await panel.see_moved()
    assert nodes.arrived()
    assert (nodes.destination.data / UUID / "world" / "since").read_bytes() == b"written later"
    assert len(readings) == 1
    # What was read back from the disk is not read back again.
    assert len(skipped) == 1 or moment == "in a round"
    assert any("of it are here, from an earlier transfer" in line for line in logged.lines)
    assert kept(nodes) == []
    await until(lambda: "seed-adopted" in nodes.source.store.transfers()[0].reason)
    assert not any("failed" in line and "seed-adopted" in line for line in logged.lines)
    assert any("the copy no longer follows the server" in line for line in logged.lines)


@pytest.mark.promise("seed-follows-its-server")
async def test_an_order_right_after_a_restore_sends_what_was_restored(nodes: NodePair) -> None:
    await begin(nodes)
    panel = OrderingPanel(nodes)
    files = nodes.source.data / UUID
    files.rename(files.with_name("before"))
    (files / "world").mkdir(parents=True)
    write(nodes, "restored")
    order(nodes, nodes.destination)  # no round has begun since
    await panel.see_moved()
    assert [path.name for path in (nodes.destination.data / UUID / "world").iterdir()] == [
        "restored"
    ]


async def test_it_goes_on_where_the_order_cannot_be_recorded(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(nodes)
    OrderingPanel(nodes)

    async def fail(*_: Any, **__: Any) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(nodes.source.database, "begin", fail)
    order(nodes, nodes.destination)
    await until(lambda: is_used_as_ever(nodes))
    await follows(nodes, "after")
    assert nodes.source.entries() == [("out", None)]


@pytest.mark.parametrize("end", ["order", "deletion"])
async def test_it_goes_on_where_the_destination_of_the_order_is_away(
    nodes: NodePair, end: str, readings: list[str]
) -> None:
    await begin(nodes)
    panel = OrderingPanel(nodes)
    nodes.destination.lose = lambda request: request.method == b"OPTIONS"
    order(nodes, nodes.destination)
    await until(lambda: nodes.source.entries() == [("out", None), ("out", "failure")])
    assert is_used_as_ever(nodes)
    await follows(nodes, "after")
    nodes.destination.lose = lambda _: False
    if end == "deletion":
        await nodes.source.sender.release(UUID)
        await nodes.settled()
        assert (kept(nodes), nodes.destination.left()) == ([], [])
        return
    order(nodes, nodes.destination)
    await panel.see_moved()
    assert nodes.arrived()
    assert len(readings) == 1


@pytest.mark.promise("seed-is-kept")
async def test_an_order_to_another_node_ends_it_and_its_copy_is_kept(
    nodes: NodePair, tmp_path: Path, readings: list[str], closed: list[MoveSource]
) -> None:
    await begin(nodes)
    (tmp_path / "third").mkdir()
    third = NodeInProcess(
        tmp_path / "third", nodes.workers, 0, nodes.source.config.system.transfers
    )
    try:
        order(nodes, third)
        await until(lambda: kept(nodes) == [UUID])
        await until(lambda: not nodes.source.sender.servers)
        # That node's Panel does not know the server: it stays.
        assert nodes.source.hold == ""
        await until(lambda: nodes.source.entries() == [("out", "failure"), ("out", "failure")])
        await until(lambda: len(closed) == len(readings))
    finally:
        await third.close()


async def test_the_first_request_of_a_copy_that_comes_late_does_not_end_the_ordered_transfer(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the one by which the source withdraws a copy whose beginning was not answered."""
    begin_move, late = IncomingMoves.begin, list[tuple[Any, ...]]()
    panel = OrderingPanel(nodes)

    async def be_away(*request: Any) -> str:
        late.append(request)
        raise DaemonStopping

    async def come_late(*_: Any, **__: Any) -> None:
        """Send nothing: the test has the request come."""

    monkeypatch.setattr(IncomingMoves, "begin", be_away)
    monkeypatch.setattr(Mover, "withdraw", come_late)
    await nodes.send(await nodes.destination.invite(follow=True), seed=SeedOrder())
    await until(lambda: late)
    monkeypatch.setattr(IncomingMoves, "begin", begin_move)
    nodes.destination.lose = lambda request: request.method == b"PUT"
    order(nodes, nodes.destination)
    await until(lambda: any("batches" in path for path in nodes.destination.asked))
    with pytest.raises(ServerAlreadyExists):
        await begin_move(*late[0])
    nodes.destination.lose = lambda _: False
    await until(lambda: panel.has_moved)
    await until(lambda: nodes.destination.entries() == [("in", "success")])
    assert nodes.arrived()
