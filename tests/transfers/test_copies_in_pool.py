"""A server that is copied into a storage pool, where another node may put one of its name."""

from __future__ import annotations

import pytest

from tests.support.receiver import Receiver
from tests.support.sample_server import UUID
from wingsd.errors import Conflict, PanelRefused, TransferRevoked
from wingsd.statedb import Direction
from wingsd.transfers.steps import ReceiveStep


def replaced(receiver: Receiver) -> None:
    """Have another node of the pool put a server of that name where this node's copy was."""
    place = receiver.data / UUID
    if place.exists():
        place.rename(receiver.data / "moved-away")
    (place / "world").mkdir(parents=True)
    (place / "world" / "level.dat").write_bytes(b"in use at another node")


def is_untouched(receiver: Receiver) -> bool:
    level = receiver.data / UUID / "world" / "level.dat"
    return level.exists() and level.read_bytes() == b"in use at another node"


@pytest.mark.promise("pool-nodes-keep-apart")
async def test_a_server_of_another_node_is_not_set_aside_for_a_copy(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.volume.pool, enter = "attic", receiver.store.enter

    def come(now: float, transfer: int, name: str) -> None:
        if name == ReceiveStep.SWAP.name:
            replaced(receiver)
        enter(now, transfer, name)

    monkeypatch.setattr(receiver.store, "enter", come)
    error = await receiver.fails(Conflict)
    assert error.message == "the server's directory is already in the storage pool"
    assert (receiver.left(), is_untouched(receiver)) == ([UUID], True)


@pytest.mark.promise("pool-nodes-keep-apart")
@pytest.mark.parametrize("step", [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT])
async def test_a_server_of_another_node_is_not_taken_for_the_copy_after_a_restart(
    receiver: Receiver, step: ReceiveStep
) -> None:
    receiver.volume.pool = "attic"
    entry = receiver.store.begin(1.0, UUID, Direction.IN, step.name)
    receiver.staging.create(UUID)
    receiver.store.set_terms(entry, "", (), receiver.staging.inode(UUID))
    receiver.staging.swap(UUID)
    replaced(receiver)
    await receiver.take_up()
    assert is_untouched(receiver)
    assert "success" not in receiver.calls
    assert receiver.store.unfinished() == []


@pytest.mark.promise("pool-nodes-keep-apart")
async def test_another_nodes_server_stays_when_the_copy_is_refused(receiver: Receiver) -> None:
    receiver.volume.pool = "attic"
    receiver.before["success"] = lambda: replaced(receiver)
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    receiver.panel.owned = [False, False]
    await receiver.fails(TransferRevoked)
    assert is_untouched(receiver)
