"""What the next daemon makes of a server that was being sent when the last one ended."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from tests.daemon.house import UUID
from tests.heard import Heard
from wingsd.errors import Interrupted
from wingsd.journal import Direction, Journal, Outcome
from wingsd.journal.store import Store
from wingsd.testing import SynchronousWorkers
from wingsd.transfers.lifecycle import SendStep
from wingsd.transfers.recovery import Recovery


class World:
    """The Panel, the outbox and the node's servers: they note what they are asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.owned = True
        self.restoring: Deferred[None] = succeed(None)

    def get(self, uuid: str) -> World:
        return self

    def reserve(self, uuid: str, why: str) -> None:
        self.calls.append("hold")

    def let_go(self) -> None:
        self.calls.append("let go")

    async def restore_environment(self) -> None:
        self.calls.append("restore")
        await self.restoring

    def forget(self, uuid: str) -> None:
        self.calls.append("forget")

    async def store_away(self, uuid: str) -> None:
        self.calls.append("store away")

    async def tell(self, uuid: str, outcome: Outcome) -> None:
        self.calls.append(outcome.value)

    async def owns(self, uuid: str) -> bool:
        self.calls.append("owns")
        return self.owned

    async def transfer_failed(self, uuid: str) -> bool:
        self.calls.append("failure")
        return True


def recover(store: Store, world: Any, step: SendStep) -> Heard:
    """Take up, as the next daemon does, a transfer that had come so far."""
    heard = Heard()
    store.begin(UUID, Direction.OUT, step.name, 1.0)
    workers: Any = SynchronousWorkers()
    recovery = Recovery(
        entries=store.transfers(unfinished=True),
        receiver=world,
        servers=world,
        journal=Journal(store, workers, lambda: 2.0),
        outbox=world,
        panel=world,
        attic=world,
        by_hand=world,
        reactor=Clock(),
        observer=heard,
    )
    recovery.begin()
    recovery.settle()
    return heard


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        (SendStep.ASK, ["failure", "let go"]),
        (SendStep.STOP, ["failure", "let go"]),
        (SendStep.RETIRE, ["failure", "let go", "restore"]),
        (SendStep.SEND, ["owns", "failure", "let go", "restore"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_that_stays_has_its_container_again(
    store: Store, step: SendStep, calls: list[str]
) -> None:
    world = World()
    recover(store, world, step)
    assert world.calls == ["hold", *calls]
    (entry,) = store.transfers()
    assert entry.outcome is Outcome.FAILURE


@pytest_twisted.ensureDeferred
async def test_it_is_not_over_before_its_container_is_there_again(store: Store) -> None:
    world = World()
    world.restoring = Deferred()
    recover(store, world, SendStep.SEND)
    assert store.transfers(unfinished=True)
    world.restoring.callback(None)
    assert store.transfers(unfinished=True) == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_has_moved_is_put_away(store: Store) -> None:
    world = World()
    world.owned = False
    recover(store, world, SendStep.SEND)
    assert world.calls == ["hold", "owns", "forget", "store away"]
    (entry,) = store.transfers()
    assert entry.outcome is Outcome.SUCCESS


@pytest.mark.parametrize("moved", [True, False])
@pytest_twisted.ensureDeferred
async def test_how_it_has_ended_is_counted(store: Store, moved: bool) -> None:
    world = World()
    world.owned = not moved
    heard = recover(store, world, SendStep.SEND)
    ((way, error, transfer),) = heard.over
    assert (way, error is None, transfer) == ("out", moved, None)
    assert moved or isinstance(error, Interrupted)
