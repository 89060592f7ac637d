"""A node in maintenance takes no servers."""

from __future__ import annotations

import pytest

from tests.direct_transfers.seeding import OrderingPanel, begin, follows, nodes, order, quick
from tests.support.node_in_process import NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.errors import NodeInMaintenance

__all__ = ["nodes", "quick"]


async def maintain(nodes: NodePair, why: str | None = "new disks") -> None:
    node = nodes.destination
    await node.database.set_maintenance(why)
    node.receiver.maintenance = await node.database.maintenance()


@pytest.mark.promise("maintenance-takes-no-servers")
async def test_a_transfer_to_it_fails_and_says_why(nodes: NodePair) -> None:
    OrderingPanel(nodes)
    await maintain(nodes)
    order(nodes, nodes.destination)
    await until(lambda: ("out", "failure") in nodes.source.entries())
    assert "maintenance" in nodes.source.reason
    assert "new disks" in nodes.source.reason
    assert nodes.destination.left() == []
    await maintain(nodes, None)
    await nodes.move()


@pytest.mark.promise("maintenance-takes-no-servers")
async def test_it_outlasts_a_restart_and_what_has_begun_goes_on(nodes: NodePair) -> None:
    await begin(nodes)
    await maintain(nodes)
    await nodes.next("destination")
    await follows(nodes, "after")
    with pytest.raises(NodeInMaintenance):
        await nodes.destination.invite()
    assert UUID in nodes.destination.receiver.servers
