"""Transfers that the Panel orders of servers that a copy follows: they take its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.direct_transfers.seeding import (
    OrderingPanel,
    begin,
    follows,
    is_used_as_ever,
    kept,
    nodes,
    order,
    quick,
    received,
    write,
)
from tests.support.logged_errors import Logged
from tests.support.node_in_process import NodeInProcess, NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.errors import DaemonStopping, ServerAlreadyExists, StorageError, TransferInProgress
from wingsd.moves.destination import Rereading
from wingsd.moves.source import MoveSource
from wingsd.servers.operations import Operation
from wingsd.transfers.manager import IncomingMoves
from wingsd.transfers.outgoing.move import Mover
from wingsd.transfers.outgoing.source import SeedOrder

__all__ = ["nodes", "quick"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
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
    opened: list[str],
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
    assert len(opened) == 1
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


async def test_an_order_holds_the_server_when_the_seed_has_ended(nodes: NodePair) -> None:
    await begin(nodes)
    panel = OrderingPanel(nodes)
    write(nodes, "since")
    nodes.destination.lose = lambda request: request.method == b"PUT"
    order(nodes, nodes.destination)
    await until(lambda: ("out", "failure") in nodes.source.entries())
    hold = nodes.source.servers.get(UUID).operations.hold
    assert hold is not None
    assert hold.operation in (Operation.FOLLOW, Operation.TRANSFER_OUT)
    nodes.destination.lose = lambda _: False
    await panel.see_moved()


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
    nodes: NodePair, end: str, opened: list[str]
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
    assert len(opened) == 1


@pytest.mark.promise("seed-is-kept")
async def test_an_order_to_another_node_ends_it_and_its_copy_is_kept(
    nodes: NodePair, tmp_path: Path, opened: list[str], closed: list[MoveSource]
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
        await until(lambda: len(closed) == len(opened))
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
