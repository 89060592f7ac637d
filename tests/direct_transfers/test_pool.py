"""Moves by hand where nodes have storage pools: within one there are none, since nobody would say
whose the files are.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted

from tests.direct_transfers.harness import UUID, Station, description, until
from tests.direct_transfers.scenarios import Ends
from wingsd.config import StoragePool, SystemConfig, TransfersConfig
from wingsd.errors import Conflict, ServerAlreadyExists
from wingsd.panel.schemas import configuration_from_panel

POOL = TransfersConfig(storage_pool=StoragePool(enabled=True, pool_name="attic"))


async def give_pools(ends: Ends, *, one_volume: bool) -> None:
    """Have both nodes in one pool by name, on one volume or each on its own."""
    for end in ("source", "destination"):
        station: Station = getattr(ends, end)
        data = ends.source.data if one_volume else station.data
        await station.close()
        system = SystemConfig(data=str(data), transfers=POOL)
        setattr(ends, end, Station(station.directory, ends.pool, 0, system))
    ends.source.servers.get_or_add(configuration_from_panel(description(name="Lobby")))


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


@pytest_twisted.ensureDeferred
async def test_within_a_pool_a_server_is_not_moved_by_hand(ends: Ends) -> None:
    await give_pools(ends, one_volume=True)
    before = files(ends.source.data)
    with pytest.raises(ServerAlreadyExists, match="only the Panel can move") as refused:
        await ends.destination.invite()
    assert "is in the storage pool attic" in refused.value.detail
    assert files(ends.source.data) == before


@pytest_twisted.ensureDeferred
async def test_nor_where_the_volume_is_mounted_only_when_it_is_sent(ends: Ends) -> None:
    await give_pools(ends, one_volume=True)
    place = ends.source.data / UUID
    place.rename(ends.source.directory / "elsewhere")
    invitation = await ends.destination.invite()
    (ends.source.directory / "elsewhere").rename(place)
    before = files(place)
    await ends.send(invitation, remove=True)
    await ends.over()
    assert ends.source.entries() == [("out", "failure")]
    assert files(place) == before
    assert ends.source.servers.get(UUID).hold == ""


@pytest.mark.parametrize("remove", [True, False])
@pytest_twisted.ensureDeferred
async def test_from_a_pool_to_another_volume_a_server_goes_as_a_copy(
    ends: Ends, remove: bool
) -> None:
    """Also where that is a pool of the same name: by hand, nothing is pooled."""
    await give_pools(ends, one_volume=False)
    await ends.send(await ends.destination.invite(), remove=remove)
    await ends.over()
    assert ends.arrived()
    await until(lambda: ends.source.left() == ([] if remove else [UUID]))
    (sent,), (came,) = ends.source.store.transfers(), ends.destination.store.transfers()
    assert (sent.pool, came.pool, came.files) == ("", "", 1)


@pytest_twisted.ensureDeferred
async def test_what_a_node_of_a_pool_does_not_know_it_does_not_send(ends: Ends) -> None:
    """The files are in sight of all its nodes, and may be in use at another."""
    await give_pools(ends, one_volume=False)
    ends.source.servers.forget(UUID)
    ends.source.servers.loaded = True
    invitation = await ends.destination.invite()
    before = files(ends.source.data)
    with pytest.raises(Conflict, match="may be another node's"):
        await ends.send(invitation, description=description(), remove=True)
    assert (files(ends.source.data), ends.source.entries()) == (before, [])
