"""Moves that end before their copy is open, after a restart of the node or at their beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.full_trees import limit_trees
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.incoming.moving_node import (
    LEVEL,
    MovingNode,
    Nodes,
    half_sent,
    kept,
    rest,
)
from wingsd.errors import (
    MoveAbandoned,
    MoveGivenUp,
    PanelUnreachable,
    ServerNotAssigned,
    TransferCancelled,
    WingsdError,
)
from wingsd.transfers.incoming.moves.transfer import MoveTransfer


async def left_by_a_daemon(nodes: Nodes, source: Path) -> MovingNode:
    """Return a node, before its recovery, of which an earlier daemon has received all files."""
    first = nodes.start()
    await half_sent(first, source)
    await first.end()
    later = nodes.start()
    later.issued = first.issued
    return later


async def goes_on_with_all(node: MovingNode, source: Path) -> None:
    """Move a server whose files are here."""
    client = node.client(source)
    assert (await client.move())["outcome"] == "success"
    assert client.bytes < 1000


async def test_a_move_that_the_panel_has_ended_while_this_node_was_away_is_kept(
    nodes: Nodes, source: Path
) -> None:
    node = await left_by_a_daemon(nodes, source)
    node.faults["server"] = ServerNotAssigned("not for this node")
    await node.recover()
    await rest(node)
    assert kept(node) == [UUID]
    (copy,) = node.partial_copies.kept()
    assert copy.bytes >= len(LEVEL)
    del node.faults["server"]
    await goes_on_with_all(node, source)


@pytest.mark.parametrize(
    ("reason", "reports", "stays"),
    [
        (TransferCancelled(), 1, False),
        (MoveAbandoned(3600), 1, True),
        (MoveGivenUp(keeps=True), 0, True),
        (MoveGivenUp(keeps=False), 0, False),
    ],
)
async def test_a_move_that_has_failed_does_not_go_on_where_the_daemon_dies_before_it_is_cleaned_up(
    nodes: Nodes,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: WingsdError,
    reports: int,
    stays: bool,
) -> None:
    first = nodes.start()
    cleaning: Deferred[None] = Deferred()

    async def wait(_: MoveTransfer) -> None:
        cleaning.callback(None)
        await first.wait()

    with monkeypatch.context() as patch:
        patch.setattr(MoveTransfer, "_put_away", wait)
        client = await half_sent(first, source)
        receiving: Any = first.receiver.find(UUID)
        assert receiving.abort(reason)
        await cleaning
        await until(lambda: first.calls.count("failure") == reports)
        await first.end()
    second = nodes.start()
    client.move_to(second.url)
    await second.recover()
    await rest(second)
    status = await client.outcome()
    assert (status["outcome"], status["code"]) == ("failure", reason.code)
    assert kept(second) == [UUID] * stays
    assert "failure" not in second.calls


async def test_a_later_transfer_gets_the_files_of_a_move_that_is_not_open_again(
    nodes: Nodes, source: Path
) -> None:
    node = await left_by_a_daemon(nodes, source)
    node.faults["owns"] = PanelUnreachable("the Panel does not answer")
    await node.recover()
    await node.reaches("owns")
    del node.faults["owns"]
    await goes_on_with_all(node, source)


async def test_a_node_that_has_no_room_to_read_what_is_kept_keeps_it(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        (source / f"{number}-{'long' * 50}").write_bytes(b"a file")
    client = await half_sent(node, source)
    await client.ask("DELETE", "", params={"keep": "1"})
    await rest(node)
    with monkeypatch.context() as patch:
        limit_trees(patch, node.staging.path)
        full = await node.client(source).begin()
        assert (full.status, full.code) == (507, "move-no-space")
        await rest(node)
    assert kept(node) == [UUID]
    await goes_on_with_all(node, source)


async def test_people_are_told_why_a_copy_is_begun_anew(
    nodes: Nodes, source: Path, logged: Logged
) -> None:
    node = await left_by_a_daemon(nodes, source)
    (ledger,) = Path(node.staging.path).glob("*.ledger")
    written = bytearray(ledger.read_bytes())
    written[100] ^= 1
    ledger.write_bytes(written)
    await node.recover()
    await until(node.takes_requests)
    said = f"{UUID}: what has arrived of its move is removed, and sent again: "
    (line,) = [line for line in logged.lines if line.startswith(said)]
    assert "check this node's disk and memory" in line
