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


class FakeNode:
    """The Panel, the callback queue and the node's servers: they note what they are asked."""

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

    def get(self, uuid: str) -> FakeNode:
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

    def discard(self, uuid: str) -> None:
        self.calls.append("discard")

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

    async def has_moved(self, uuid: str, coordinator: PanelSending) -> bool:
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
    node: Any,
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
        receiver=node,
        servers=node,
        storage=SourceStorage(str, "", node, node, workers, Compression.BEST_SPEED),
        step_logs=StepLogs(database, EventBus(), heard, clock),
        panel=PanelOutcomes(
            PanelCoordinators(node, node, clock, PTERODACTYL, answer_grace),
            receiver=node,
            sender=node,
            servers=SourceServers(node, node, node, node, database),
            database=database,
        ),
        direct=node,
    )
    recovery.begin()
    node.loaded = True
    recovery.resume_outgoing()
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
async def test_the_container_of_a_server_that_stays_is_restored(
    store: Store, step: SendStep, calls: list[str]
) -> None:
    node = FakeNode()
    recover(store, node, step)
    assert node.calls == ["hold", *calls]
    (entry,) = store.transfers()
    assert entry.outcome is Outcome.FAILURE


async def test_a_transfer_stays_unfinished_until_its_container_is_restored(store: Store) -> None:
    node = FakeNode()
    node.restoring = Deferred()
    recover(store, node, SendStep.SEND)
    assert store.unfinished()
    node.restoring.callback(None)
    assert store.unfinished() == []


async def test_a_moved_server_goes_into_quarantine(store: Store) -> None:
    node = FakeNode()
    node.owned = False
    recover(store, node, SendStep.SEND)
    assert node.calls == ["hold", "owns", "discard", "store away"]
    (entry,) = store.transfers()
    assert entry.outcome is Outcome.SUCCESS


async def test_only_the_directory_that_was_sent_goes_into_quarantine(store: Store) -> None:
    node = FakeNode()
    node.owned = False
    recover(store, node, SendStep.AWAIT, inode=4711)
    assert (node.calls[-1], node.inode) == ("store away", 4711)


async def test_a_moved_server_that_is_coming_back_is_left_alone(store: Store) -> None:
    node = FakeNode()
    node.owned, node.arriving = False, "a transfer"
    recover(store, node, SendStep.AWAIT, removals=("a backup",))
    assert node.calls == ["hold", "owns"]
    (entry,) = store.transfers()
    assert entry.outcome is Outcome.SUCCESS


@pytest.mark.parametrize("moved", [True, False])
async def test_the_outcome_is_counted(store: Store, moved: bool) -> None:
    node = FakeNode()
    node.owned = not moved
    heard = recover(store, node, SendStep.SEND)
    ((way, error, transfer),) = heard.over
    assert (way, error is None, transfer) == ("out", moved, None)
    assert moved or isinstance(error, DaemonRestarted)


async def test_a_moved_server_stays_in_its_pool(store: Store) -> None:
    node = FakeNode()
    node.owned = False
    recover(store, node, SendStep.SEND, pool="attic")
    calls = ["hold", "share by attic", "owns", "discard", "store away backups"]
    assert (node.calls, node.marks) == (calls, 0)


@pytest.mark.parametrize("moved", [True, False])
async def test_a_server_moved_within_a_pool_is_forgotten(store: Store, moved: bool) -> None:
    """It once came so; its files are there still, and would have it known at the next start."""
    store.add_description(UUID, "digest", "{}")
    store.mark_arrived(1.0, UUID)
    node = FakeNode()
    node.owned = not moved
    recover(store, node, SendStep.SEND, pool="attic")
    assert len(store.descriptions()) == (not moved)


async def test_a_pooled_server_that_stays_is_not_shared_any_more(store: Store) -> None:
    node = FakeNode()
    recover(store, node, SendStep.SEND, pool="attic")
    assert node.shared == ""
    assert "let go" in node.calls


@pytest.mark.parametrize("moved", [True, False])
async def test_backups_are_removed_only_if_the_server_moved(store: Store, moved: bool) -> None:
    node = FakeNode()
    node.owned = not moved
    recover(store, node, SendStep.AWAIT, removals=["one.tar", "two.tar"])
    assert [call for call in node.calls if call.startswith("remove")] == (
        ["remove one.tar", "remove two.tar"] if moved else []
    )


@pytest.mark.parametrize("moved", [True, False])
def test_the_rest_of_the_grace_is_waited_after_a_restart(store: Store, moved: bool) -> None:
    node, clock = FakeNode(), Clock()
    recover(store, node, SendStep.SETTLE, clock=clock)
    assert node.calls == ["hold", "grace of 599 s", "owns"]
    clock.pump([1.0] * 100)
    assert set(node.calls[1:]) == {"grace of 599 s", "owns"}
    node.owned = not moved
    clock.pump([1.0] * 510)
    (entry,) = store.transfers()
    assert entry.outcome is (Outcome.SUCCESS if moved else Outcome.FAILURE)
    assert ("failure" in node.calls) is not moved


def test_an_elapsed_grace_is_not_waited_after_a_restart(store: Store) -> None:
    node = FakeNode()
    recover(store, node, SendStep.SETTLE, answer_grace=0.5)
    assert node.calls == ["hold", "owns", "failure", "let go", "restore"]
