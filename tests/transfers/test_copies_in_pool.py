"""A server that is copied into a storage pool, where another node may put one of its name."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from tests.support.sample_server import UUID
from tests.transfers.receiving import House, reactor
from wingsd.errors import Conflict
from wingsd.panel.errors import PanelRefused
from wingsd.statedb import Direction
from wingsd.transfers.errors import TransferRevoked
from wingsd.transfers.steps import ReceiveStep


def replaced(house: House) -> None:
    """Have another node of the pool put a server of that name where this node's copy was."""
    place = house.data / UUID
    if place.exists():
        place.rename(house.data / "moved-away")
    (place / "world").mkdir(parents=True)
    (place / "world" / "level.dat").write_bytes(b"in use at another node")


def is_untouched(house: House) -> bool:
    level = house.data / UUID / "world" / "level.dat"
    return level.exists() and level.read_bytes() == b"in use at another node"


@pytest_twisted.ensureDeferred
async def test_no_other_nodes_server_is_set_aside_for_a_copy(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.volume.pool, enter = "attic", house.store.enter

    def come(now: float, transfer: int, name: str) -> None:
        if name == ReceiveStep.SWAP.name:
            replaced(house)
        enter(now, transfer, name)

    monkeypatch.setattr(house.store, "enter", come)
    error = await house.fails(Conflict)
    assert error.message == "the server's directory is in the storage pool already"
    assert (house.left(), is_untouched(house)) == ([UUID], True)


@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
@pytest_twisted.ensureDeferred
async def test_nor_is_it_taken_for_the_copy_after_a_restart(
    house: House, step: ReceiveStep
) -> None:
    house.volume.pool = "attic"
    entry = house.store.begin(1.0, UUID, Direction.IN, step.name)
    house.staging.create(UUID)
    house.store.set_terms(entry, "", (), house.staging.inode(UUID))
    house.staging.swap(UUID)
    replaced(house)
    (unfinished,) = house.store.unfinished()
    house.receiver.resume(unfinished)
    while house.receiver.servers:
        await deferLater(reactor, 0.005)
    assert is_untouched(house)
    assert "success" not in house.world.calls
    assert house.store.unfinished() == []


@pytest_twisted.ensureDeferred
async def test_nor_put_away_when_the_panel_does_not_want_the_copy(house: House) -> None:
    house.volume.pool = "attic"
    house.world.before["success"] = lambda: replaced(house)
    house.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    house.world.owned = [False, False]
    await house.fails(TransferRevoked)
    assert is_untouched(house)
