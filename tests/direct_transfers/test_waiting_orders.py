"""Transfers that the Panel orders while something else has the server: taken, and waiting."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.direct_transfers.seeding import (
    OrderingPanel,
    begin,
    figures,
    nodes,
    order,
    quick,
)
from tests.support.node_in_process import NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.errors import ServerBusy, TransferInProgress
from wingsd.servers.operations import Operation, Operations
from wingsd.transfers.outgoing import transfer

__all__ = ["nodes", "quick"]

HELD = (Operation.INSTALL, Operation.RESTORE)


def operations(nodes: NodePair) -> Operations:
    return nodes.source.servers.get(UUID).operations


class Action:
    """Something else that has the server, until it ends."""

    def __init__(self, nodes: NodePair, operation: Operation) -> None:
        self._operations, self._operation, self._stack = (
            operations(nodes),
            operation,
            ExitStack(),
        )
        if operation in HELD:
            self._operations.place_hold(operation, "under way")
        else:
            self._stack.enter_context(self._operations.during(operation))

    def end(self) -> None:
        self._stack.close()
        self._operations.release(self._operation)


def waits(nodes: NodePair) -> bool:
    return [each.step.name for each in nodes.source.sender.progress] == ["WAIT"]


@pytest.mark.promise("order-waits")
@pytest.mark.parametrize("operation", [*HELD, Operation.BACKUP], ids=lambda each: each.value)
async def test_an_order_waits_for_the_end_of_another_action(
    nodes: NodePair, operation: Operation
) -> None:
    panel = OrderingPanel(nodes)
    action = Action(nodes, operation)
    order(nodes, nodes.destination)
    assert waits(nodes)
    assert nodes.source.sender.waiting_orders == 1
    for requested in (Operation.BACKUP, Operation.RESTORE, Operation.INSTALL):
        with pytest.raises(ServerBusy):
            operations(nodes).check(requested)
    if operation is Operation.BACKUP:
        operations(nodes).check(Operation.START)  # it is used as ever
    with pytest.raises(TransferInProgress):
        order(nodes, nodes.destination)
    action.end()
    await panel.see_moved()
    assert nodes.arrived()


@pytest.mark.promise("order-waits")
async def test_a_restart_loses_no_order_that_waits(nodes: NodePair) -> None:
    panel = OrderingPanel(nodes)
    ended = Action(nodes, Operation.BACKUP)  # with the daemon
    order(nodes, nodes.destination)
    await until(lambda: nodes.source.store.open_moves() != [])
    node = await nodes.restart("source")
    panel.be_of(node)
    recovery = await node.recover()
    server = node.servers.get_or_add(nodes.configuration)
    assert server.hold == ""
    action = Action(nodes, Operation.INSTALL)  # which goes on after the restart
    recovery.resume_outgoing()
    await until(lambda: waits(nodes))
    action.end()
    await panel.see_moved()
    ended.end()


@pytest.mark.promise("order-waits")
async def test_a_daemon_that_stops_leaves_it_open(nodes: NodePair) -> None:
    OrderingPanel(nodes)
    action = Action(nodes, Operation.BACKUP)
    order(nodes, nodes.destination)
    await nodes.source.sender.stop()
    action.end()
    assert nodes.source.entries() == [("out", None)]
    assert nodes.source.panel.calls.count("failure") == 0


@pytest.mark.promise("order-waits")
async def test_one_that_waits_for_too_long_fails_and_the_panel_hears_of_it(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    OrderingPanel(nodes)
    del nodes.source.panel.faults["failure"]
    monkeypatch.setattr(transfer, "BEGUN_BEFORE", 899.9)  # of the 900 s of its token
    action = Action(nodes, Operation.BACKUP)
    order(nodes, nodes.destination)
    await nodes.settled()
    assert "order-waited-too-long" in nodes.source.reason
    await until(lambda: "failure" in nodes.source.panel.calls)
    action.end()
    assert not any(operations(nodes).runs(each) for each in Operation)
    assert nodes.source.store.open_moves() == []


async def test_one_that_waits_can_be_cancelled(nodes: NodePair) -> None:
    OrderingPanel(nodes)
    action = Action(nodes, Operation.RESTORE)
    order(nodes, nodes.destination)
    nodes.source.sender.cancel(UUID)
    await nodes.settled()
    assert "cancelled" in nodes.source.reason
    assert operations(nodes).runs(Operation.RESTORE)
    action.end()
    assert not any(operations(nodes).runs(each) for each in Operation)


async def test_a_copy_follows_on_while_the_order_waits_and_is_taken_over(
    nodes: NodePair,
) -> None:
    panel = OrderingPanel(nodes)
    await begin(nodes)
    rounds = figures(nodes).rounds
    action = Action(nodes, Operation.BACKUP)
    order(nodes, nodes.destination)
    (follows,) = nodes.source.sender.seeds
    await until(lambda: nodes.source.sender.seeds[0].rounds > rounds)
    assert follows.trouble == ""
    action.end()
    await panel.see_moved()
    # The copy was taken over.
    await until(lambda: ("out", "failure") in nodes.source.entries())


@pytest.mark.promise("order-waits")
@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_copy_can_be_ended_while_an_order_of_its_server_waits(
    nodes: NodePair, *, goes_on: bool
) -> None:
    panel, sender = OrderingPanel(nodes), nodes.source.sender
    await begin(nodes)
    action = Action(nodes, Operation.BACKUP)
    order(nodes, nodes.destination)
    sender.end_seed(UUID)
    await until(lambda: list(sender.seeds_of()) == [])
    assert waits(nodes)
    if goes_on:
        action.end()
        await panel.see_moved()
        return
    sender.cancel(UUID)
    await nodes.settled()
    action.end()


async def test_what_is_not_waited_for_is_refused(nodes: NodePair) -> None:
    OrderingPanel(nodes)
    operations(nodes).place_hold(Operation.DELETE, "it is deleted")
    with pytest.raises(ServerBusy):
        order(nodes, nodes.destination)
