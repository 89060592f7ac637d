"""Recovery of outgoing transfers that an earlier daemon left unfinished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from tests.support import SynchronousWorkers
from tests.support.recording_observer import RecordingObserver
from tests.support.sample_server import UUID
from wingsd.archive import Compression
from wingsd.config import PTERODACTYL
from wingsd.errors import ServersNotLoaded
from wingsd.events import EventBus
from wingsd.statedb import Direction, Outcome, StateDatabase
from wingsd.statedb.store import Store
from wingsd.transfers.coordinator import PanelCoordinators, PanelSending
from wingsd.transfers.errors import DaemonRestarted
from wingsd.transfers.outgoing.payload import SourceStorage
from wingsd.transfers.outgoing.transfer import SourceServers
from wingsd.transfers.recovery import PanelOutcomes, Recovery
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.steps import SendStep


class World:
    """The Panel, the outbox and the node's servers: they note what they are asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.owned = True
        self.loaded = False
        self.shared, self.marks = "before", 2
        self.restoring: Deferred[None] = succeed(None)
        #: The transfer that brings the server here.
        self.arriving: object = None
        #: Of the directory that was put away.
        self.inode: int | None = None

    def get(self, uuid: str) -> World:
        if not self.loaded:
            raise ServersNotLoaded
        return self

    def reserve(self, uuid: str, why: str) -> None:
        if why:
            self.calls.append("hold")

    def release(self) -> None:
        self.calls.append("let go")

    async def restore_environment(self) -> None:
        self.calls.append("restore")
        await self.restoring

    def forget(self, uuid: str) -> None:
        self.calls.append("forget")

    def share(self, uuid: str, pool: str) -> None:
        self.calls.append(f"share by {pool}")

    def unshare(self, uuid: str) -> None:
        self.shared = ""

    def find(self, uuid: str) -> object:
        return self.arriving

    async def store_away(
        self, uuid: str, *, pooled: bool = False, inode: int | None = None
    ) -> None:
        self.inode = inode
        self.calls.append("store away backups" if pooled else "store away")

    async def remove(self, uuid: str, places: Sequence[str]) -> None:
        self.calls += [f"remove {place}" for place in places]

    def unmark(self, uuid: str) -> None:
        self.marks -= 1

    def unmark_backups(self, uuid: str) -> None:
        self.marks -= 1

    async def add(self, uuid: str, outcome: Outcome) -> None:
        self.calls.append(outcome.value)

    async def settle(self, uuid: str, coordinator: PanelSending) -> bool:
        if coordinator.answer_grace:
            self.calls.append(f"grace of {coordinator.answer_grace:g} s")
        return await coordinator.has_moved(lost=True)

    async def owns(self, uuid: str) -> bool:
        self.calls.append("owns")
        return self.owned

    async def transfer_failed(self, uuid: str) -> bool:
        self.calls.append("failure")
        return True


def recover(
    store: Store,
    world: Any,
    step: SendStep,
    pool: str = "",
    removals: Sequence[str] = (),
    inode: int | None = None,
    answer_grace: float = 600,
    clock: Clock | None = None,
) -> RecordingObserver:
    """Take up, as the next daemon does, a transfer that had come so far a second ago."""
    heard = RecordingObserver()
    entry = store.begin(1.0, UUID, Direction.OUT, step.name)
    store.set_terms(entry, pool, removals, inode)
    workers: Any = SynchronousWorkers()
    clock = clock or Clock()
    database = StateDatabase(store, workers, lambda: 2.0)
    recovery = Recovery(
        store.unfinished(),
        receiver=world,
        servers=world,
        storage=SourceStorage(str, "", world, world, workers, Compression.BEST_SPEED),
        step_logs=StepLogs(database, EventBus(), heard, clock),
        panel=PanelOutcomes(
            PanelCoordinators(world, world, clock, PTERODACTYL, answer_grace),
            receiver=world,
            sender=world,
            servers=SourceServers(world, world, world, world, database),
            database=database,
        ),
        direct=world,
    )
    recovery.begin()
    world.loaded = True
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
async def test_a_server_that_stays_has_its_container_again(
    store: Store, step: SendStep, calls: list[str]
) -> None:
    world = World()
    recover(store, world, step)
    assert world.calls == ["hold", *calls]
    (entry,) = store.transfers()
    assert entry.outcome is Outcome.FAILURE


async def test_it_is_not_over_before_its_container_is_there_again(store: Store) -> None:
    world = World()
    world.restoring = Deferred()
    recover(store, world, SendStep.SEND)
    assert store.unfinished()
    world.restoring.callback(None)
    assert store.unfinished() == []


async def test_a_server_that_has_moved_is_put_away(store: Store) -> None:
    world = World()
    world.owned = False
    recover(store, world, SendStep.SEND)
    assert world.calls == ["hold", "owns", "forget", "store away"]
    (entry,) = store.transfers()
    assert entry.outcome is Outcome.SUCCESS


async def test_of_what_has_moved_only_the_directory_that_was_sent_is_put_away(
    store: Store,
) -> None:
    world = World()
    world.owned = False
    recover(store, world, SendStep.AWAIT, inode=4711)
    assert (world.calls[-1], world.inode) == ("store away", 4711)


async def test_what_has_moved_and_comes_back_already_is_left_alone(store: Store) -> None:
    world = World()
    world.owned, world.arriving = False, "a transfer"
    recover(store, world, SendStep.AWAIT, removals=("a backup",))
    assert world.calls == ["hold", "owns"]
    (entry,) = store.transfers()
    assert entry.outcome is Outcome.SUCCESS


@pytest.mark.parametrize("moved", [True, False])
async def test_how_it_has_ended_is_counted(store: Store, moved: bool) -> None:
    world = World()
    world.owned = not moved
    heard = recover(store, world, SendStep.SEND)
    ((way, error, transfer),) = heard.over
    assert (way, error is None, transfer) == ("out", moved, None)
    assert moved or isinstance(error, DaemonRestarted)


async def test_what_is_in_a_pool_stays_where_it_is_when_it_has_moved(store: Store) -> None:
    world = World()
    world.owned = False
    recover(store, world, SendStep.SEND, pool="attic")
    calls = ["hold", "share by attic", "owns", "forget", "store away backups"]
    assert (world.calls, world.marks) == (calls, 0)


@pytest.mark.parametrize("moved", [True, False])
async def test_what_has_left_within_a_pool_is_no_server_that_is_here_by_hand(
    store: Store, moved: bool
) -> None:
    """It once came so; its files are there still, and would have it known at the next start."""
    store.add_description(UUID, "digest", "{}")
    store.mark_arrived(1.0, UUID)
    world = World()
    world.owned = not moved
    recover(store, world, SendStep.SEND, pool="attic")
    assert len(store.descriptions()) == (not moved)


async def test_what_is_in_a_pool_and_stays_here_is_this_nodes_alone_again(store: Store) -> None:
    world = World()
    recover(store, world, SendStep.SEND, pool="attic")
    assert world.shared == ""
    assert "let go" in world.calls


@pytest.mark.parametrize("moved", [True, False])
async def test_backups_that_were_to_go_go_only_with_the_server(store: Store, moved: bool) -> None:
    world = World()
    world.owned = not moved
    recover(store, world, SendStep.AWAIT, removals=["one.tar", "two.tar"])
    assert [call for call in world.calls if call.startswith("remove")] == (
        ["remove one.tar", "remove two.tar"] if moved else []
    )


# The grace of a destination whose answer was lost


@pytest.mark.parametrize("moved", [True, False])
def test_the_rest_of_the_grace_is_given_after_a_restart(store: Store, moved: bool) -> None:
    world, clock = World(), Clock()
    recover(store, world, SendStep.SETTLE, clock=clock)
    assert world.calls == ["hold", "grace of 599 s", "owns"]
    clock.pump([1.0] * 100)
    assert set(world.calls[1:]) == {"grace of 599 s", "owns"}
    world.owned = not moved
    clock.pump([1.0] * 510)
    (entry,) = store.transfers()
    assert entry.outcome is (Outcome.SUCCESS if moved else Outcome.FAILURE)
    assert ("failure" in world.calls) is not moved


def test_no_grace_is_given_after_a_restart_when_it_is_over(store: Store) -> None:
    world = World()
    recover(store, world, SendStep.SETTLE, answer_grace=0.5)
    assert world.calls == ["hold", "owns", "failure", "let go", "restore"]
