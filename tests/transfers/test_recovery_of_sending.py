"""Recovery of outgoing transfers that an earlier daemon left unfinished."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import BACKUPS, Sender, sending
from wingsd.statedb import Direction, Outcome
from wingsd.transfers.errors import DaemonRestarted
from wingsd.transfers.recovery import PanelOutcomes
from wingsd.transfers.steps import SendStep


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    yield from sending(tmp_path, answer_grace=600)


def begin(
    sender: Sender,
    step: SendStep,
    pool: str = "",
    removals: Sequence[str] = (),
    inode: int | None = None,
    seconds_ago: float = 1,
) -> None:
    """Take up, as the next daemon does, a transfer that had come so far."""
    entry = sender.store.begin(time.time() - seconds_ago, UUID, Direction.OUT, step.name)
    sender.store.set_terms(entry, pool, removals, inode)
    recovery = sender.make_recovery(sender.store.unfinished())
    recovery.begin()
    assert (sender.server.hold, sender.servers.shared) == (PanelOutcomes.hold, pool)
    recovery.resume_outgoing()


async def end(sender: Sender) -> Outcome | None:
    await until(lambda: sender.store.unfinished() == [])
    return sender.store.transfers()[0].outcome


async def recover(sender: Sender, step: SendStep, **terms: Any) -> Outcome | None:
    begin(sender, step, **terms)
    return await end(sender)


@pytest.mark.parametrize(
    ("step", "asked", "calls"),
    [
        (SendStep.ASK, ["failure"], []),
        (SendStep.STOP, ["failure"], []),
        (SendStep.RETIRE, ["failure"], ["restore"]),
        (SendStep.SEND, ["owns", "failure"], ["restore"]),
    ],
)
async def test_the_container_of_a_server_that_stays_is_restored(
    sender: Sender, step: SendStep, asked: list[str], calls: list[str]
) -> None:
    assert await recover(sender, step) is Outcome.FAILURE
    assert (sender.panel.calls, sender.calls, sender.server.hold) == (asked, calls, "")


async def test_a_transfer_stays_unfinished_until_its_container_is_restored(sender: Sender) -> None:
    sender.waits["restore"] = Deferred()
    begin(sender, SendStep.SEND)
    await until(lambda: "restore" in sender.calls)
    assert sender.store.unfinished()
    sender.waits["restore"].callback(None)
    assert await end(sender) is Outcome.FAILURE


async def test_a_moved_server_goes_into_quarantine(sender: Sender) -> None:
    sender.panel.owned = False
    assert await recover(sender, SendStep.SEND) is Outcome.SUCCESS
    assert (sender.panel.calls, sender.calls) == (["owns"], ["discard", "store away"])


async def test_only_the_directory_that_was_sent_goes_into_quarantine(sender: Sender) -> None:
    sender.panel.owned = False
    await recover(sender, SendStep.AWAIT, inode=4711)
    assert (sender.calls[-1], sender.quarantined_inode) == ("store away", 4711)


async def test_a_moved_server_that_is_coming_back_is_left_alone(sender: Sender) -> None:
    sender.panel.owned = False
    sender.receiver.open(UUID)
    assert await recover(sender, SendStep.AWAIT, removals=("a backup",)) is Outcome.SUCCESS
    assert (sender.panel.calls, sender.calls) == (["owns"], [])


@pytest.mark.parametrize("moved", [True, False])
async def test_the_outcome_is_counted(sender: Sender, moved: bool) -> None:
    sender.panel.owned = not moved
    await recover(sender, SendStep.SEND)
    ((way, error, transfer),) = sender.heard.over
    assert (way, error is None, transfer) == ("out", moved, None)
    assert moved or isinstance(error, DaemonRestarted)


async def test_a_moved_server_stays_in_its_pool(sender: Sender) -> None:
    sender.panel.owned = False
    marks = [sender.data / f".pool-mark-{UUID}-{'0' * 32}"]
    marks.append(sender.backup_directory / f".backups-mark-{UUID}-{'0' * 32}")
    sender.backup_directory.mkdir()
    for mark in marks:
        mark.touch()
    await recover(sender, SendStep.SEND, pool="attic")
    assert sender.calls == ["discard", "store away backups"]
    assert not [mark for mark in marks if mark.exists()]


@pytest.mark.parametrize("moved", [True, False])
async def test_a_server_moved_within_a_pool_is_forgotten(sender: Sender, moved: bool) -> None:
    """It once came so; its files are there still, and would have it known at the next start."""
    sender.store.add_description(UUID, "digest", "{}")
    sender.store.mark_arrived(1.0, UUID)
    sender.panel.owned = not moved
    await recover(sender, SendStep.SEND, pool="attic")
    assert len(sender.store.descriptions()) == (not moved)


async def test_a_pooled_server_that_stays_is_not_shared_any_more(sender: Sender) -> None:
    await recover(sender, SendStep.SEND, pool="attic")
    assert (sender.servers.shared, sender.server.hold) == ("", "")


@pytest.mark.parametrize("moved", [True, False])
async def test_backups_are_removed_only_if_the_server_moved(sender: Sender, moved: bool) -> None:
    sender.panel.owned = not moved
    removals = [f"{uuid}.tar" for uuid in BACKUPS]
    for name in removals:
        sender.keep(name, b"backup")
    await recover(sender, SendStep.AWAIT, removals=removals)
    assert len([*sender.backup_directory.iterdir()]) == (0 if moved else len(BACKUPS))


@pytest.mark.parametrize("moved", [True, False])
async def test_the_rest_of_the_grace_follows_a_restart(sender: Sender, moved: bool) -> None:
    clock = Clock()
    object.__setattr__(sender.coordinators, "reactor", clock)
    begin(sender, SendStep.SETTLE)
    await until(lambda: sender.panel.calls)
    clock.pump([1.0] * 590)
    assert set(sender.panel.calls) == {"owns"}
    sender.panel.owned = not moved
    clock.pump([1.0] * 20)
    assert await end(sender) is (Outcome.SUCCESS if moved else Outcome.FAILURE)
    assert ("failure" in sender.panel.calls) is not moved


async def test_an_elapsed_grace_is_not_waited_after_a_restart(sender: Sender) -> None:
    await recover(sender, SendStep.SETTLE, seconds_ago=600.5)
    assert (sender.panel.calls, sender.calls) == (["owns", "failure"], ["restore"])
