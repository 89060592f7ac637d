"""Direct transfers of nodes with storage pools: within a pool they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.node_in_process import LEVEL, NodePair, description
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.config import StoragePool, TransfersConfig
from wingsd.errors import Conflict, ServerAlreadyExists
from wingsd.panel.schemas import configuration_from_panel

POOL = TransfersConfig(storage_pool=StoragePool(enabled=True, pool_name="attic"))


async def give_pools(nodes: NodePair, *, one_volume: bool) -> None:
    """Have both nodes in one pool by name, on one volume or each on its own."""
    for name in ("source", "destination"):
        data = nodes.source.data if one_volume else getattr(nodes, name).data
        await nodes.restart(name, POOL, data=str(data))
    nodes.source.servers.get_or_add(configuration_from_panel(description(name="Lobby")))


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


@pytest.mark.promise("doubtful-direct-transfer-is-refused")
async def test_a_direct_transfer_within_a_pool_is_refused(nodes: NodePair) -> None:
    await give_pools(nodes, one_volume=True)
    before = files(nodes.source.data)
    with pytest.raises(ServerAlreadyExists) as refused:
        await nodes.destination.invite()
    assert "is in the storage pool attic" in refused.value.detail
    assert files(nodes.source.data) == before


@pytest.mark.promise("doubtful-direct-transfer-is-refused")
async def test_a_direct_transfer_fails_if_the_volume_is_mounted_later(nodes: NodePair) -> None:
    await give_pools(nodes, one_volume=True)
    place = nodes.source.data / UUID
    place.rename(nodes.source.directory / "elsewhere")
    invitation = await nodes.destination.invite()
    (nodes.source.directory / "elsewhere").rename(place)
    before = files(place)
    await nodes.send(invitation, remove=True)
    await nodes.settled()
    assert nodes.source.entries() == [("out", "failure")]
    assert files(place) == before
    assert nodes.source.servers.get(UUID).hold == ""


@pytest.mark.parametrize("remove", [True, False])
async def test_a_transfer_to_another_volume_is_a_copy(nodes: NodePair, remove: bool) -> None:
    """Also where that is a pool of the same name: a direct transfer shares nothing."""
    await give_pools(nodes, one_volume=False)
    await nodes.send(await nodes.destination.invite(), remove=remove)
    await nodes.settled()
    assert nodes.arrived()
    await until(lambda: nodes.source.left() == ([] if remove else [UUID]))
    (sent,), (came,) = nodes.source.store.transfers(), nodes.destination.store.transfers()
    assert (sent.pool, came.pool, came.bytes) == ("", "", len(LEVEL))


@pytest.mark.promise("doubtful-direct-transfer-is-refused")
async def test_a_node_of_a_pool_does_not_send_an_unknown_server(nodes: NodePair) -> None:
    """The files are in sight of all its nodes, and may be in use at another."""
    await give_pools(nodes, one_volume=False)
    nodes.source.servers.discard(UUID)
    nodes.source.servers.loaded = True
    invitation = await nodes.destination.invite()
    before = files(nodes.source.data)
    with pytest.raises(Conflict):
        await nodes.send(invitation, description=description(), remove=True)
    assert (files(nodes.source.data), nodes.source.entries()) == (before, [])
