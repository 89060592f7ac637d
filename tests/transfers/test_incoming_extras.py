"""Backups and logs that come with a server, and servers whose files are in a storage pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from tests.support.archives import seen
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.receiver import RECORDED, Receiver, Source
from tests.support.sample_server import UUID
from wingsd.backups.store import AttachedLog, Backup
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import (
    BadRequest,
    Conflict,
    EnvironmentFailed,
    PanelRefused,
    ServerNotFound,
    StorageError,
    TransferRevoked,
    WingsdError,
)
from wingsd.statedb import Direction, Outcome
from wingsd.transfers.recovery import clear_leftovers
from wingsd.transfers.steps import ReceiveStep

ONE = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", PELICAN)
TWO = Backup("6b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c12", "tar", CALAGOPUS)
LOG = f"install/{UUID}.log"
KEPT = {ONE.path(UUID): b"one", TWO.path(UUID): b"two", LOG: b"installed"}


def laden(*, checksum: str = "") -> Source:
    source = Source().bring(ONE, b"one").bring(AttachedLog(), b"installed")
    return source.bring(TWO, b"two", checksum)


async def test_attachments_are_kept_and_reported(receiver: Receiver) -> None:
    await receiver.receive(laden())
    assert receiver.kept() == KEPT
    assert receiver.panel.reported_backups == [(ONE.uuid, TWO.uuid)]
    assert receiver.left() == [UUID]


@pytest.mark.parametrize(("family", "told"), [(PELICAN, None), (CALAGOPUS, ())])
async def test_backups_are_reported_to_calagopus_panels_only(
    receiver: Receiver, family: str, told: object
) -> None:
    object.__setattr__(receiver.coordinators, "family", family)
    await receiver.receive()
    assert receiver.panel.reported_backups == [told]


@pytest.mark.parametrize(
    ("call", "error"),
    [("create", EnvironmentFailed("no image")), ("describe", ServerNotFound("unknown"))],
)
async def test_no_attachment_stays_when_the_transfer_fails(
    receiver: Receiver, call: str, error: WingsdError
) -> None:
    other = receiver.backup_directory / UUID / "other.tar.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"precious")
    receiver.faults[call] = error
    await receiver.fails(type(error), laden())
    assert receiver.kept() == {f"{UUID}/other.tar.gz": b"precious"}
    assert receiver.left() == []


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_another_backup_in_its_place_fails_it_and_stays(receiver: Receiver) -> None:
    receiver.backup_directory.mkdir()
    (receiver.backup_directory / TWO.path(UUID)).write_bytes(b"precious")
    error = await receiver.fails(Conflict, laden())
    assert "is not overwritten" in error.detail
    assert (receiver.kept(), receiver.left()) == ({TWO.path(UUID): b"precious"}, [])
    assert "failure" in receiver.calls


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_a_log_that_cannot_be_kept_fails_nothing(receiver: Receiver, logged: Logged) -> None:
    receiver.logs.write_text("no directory")
    await receiver.receive(laden())
    assert receiver.states[-1] == "completed"
    assert [line for line in logged.lines if "installation log" in line]


@pytest.mark.promise("refused-server-is-quarantined")
async def test_a_refused_server_goes_into_quarantine_with_its_backups(receiver: Receiver) -> None:
    receiver.faults["success"] = PanelRefused("no transfer open", "x", 409)
    receiver.panel.owned = [False, False]
    await receiver.fails(TransferRevoked, laden())
    assert receiver.left() == [".quarantine"]
    kept = receiver.kept()
    assert sorted(kept.values()) == [b"one", b"two"]
    assert all("/.quarantine/" in path for path in kept)


def begun(receiver: Receiver, step: ReceiveStep) -> None:
    """Leave behind what a daemon does that dies in a step, as late in it as it can."""
    receiver.store.begin(1.0, UUID, Direction.IN, step.name)
    directory = Path(receiver.staging.create(UUID))
    (directory / "world").write_text("whole")
    receiver.received_backups.store(UUID, ONE, [b"one"])
    receiver.received_backups.store(UUID, TWO, [b"two"])
    receiver.staging.log(UUID).write_bytes(b"installed")
    if step in (ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        receiver.staging.swap(UUID)
        receiver.received_backups.place(UUID)


WHOLE = [ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT]


@pytest.mark.promise("attached-backups-arrive-whole")
@pytest.mark.parametrize("step", WHOLE)
async def test_backups_are_kept_by_the_next_daemon(receiver: Receiver, step: ReceiveStep) -> None:
    begun(receiver, step)
    await receiver.take_up(clear=True)
    assert receiver.kept() == KEPT
    assert receiver.panel.reported_backups == [(ONE.uuid, TWO.uuid)]
    assert receiver.left() == [UUID]


@pytest.mark.promise("refused-server-is-quarantined")
@pytest.mark.parametrize("step", WHOLE)
async def test_the_next_daemon_puts_a_refused_server_and_its_backups_into_quarantine(
    receiver: Receiver, step: ReceiveStep
) -> None:
    begun(receiver, step)
    receiver.faults["owns"] = ServerNotFound("deleted meanwhile")
    await receiver.take_up(clear=True)
    assert receiver.panel.reported_backups == []
    assert (receiver.left(), receiver.store.unfinished()) == ([".quarantine"], [])
    (files,) = [path.name for path in receiver.staging.quarantine.iterdir()]
    quarantine = receiver.data.with_name(".volumes.staging") / ".quarantine"
    assert (quarantine / files / "world").read_text() == "whole"
    kept = receiver.kept()
    assert sorted(kept.values()) == [b"one", b"two"]
    assert all("/.quarantine/" in path for path in kept)


async def test_the_next_daemon_fails_a_transfer_without_its_backups(receiver: Receiver) -> None:
    begun(receiver, ReceiveStep.DURABLE)
    (entry,) = receiver.store.unfinished()
    receiver.store.enter(2.0, entry.id, ReceiveStep.SWAP.name)
    receiver.faults["owns"] = ServerNotFound("deleted meanwhile")
    await receiver.take_up(clear=True)
    assert (receiver.kept(), receiver.left()) == ({}, [])


@pytest.mark.parametrize("step", [ReceiveStep.RECEIVE, ReceiveStep.VERIFY, ReceiveStep.DURABLE])
async def test_incomplete_attachments_are_cleared(receiver: Receiver, step: ReceiveStep) -> None:
    begun(receiver, step)
    await receiver.take_up(clear=True)
    assert receiver.calls == ["failure"]
    assert (receiver.kept(), receiver.left()) == ({}, [])


# A server whose files are in a pool of both nodes: found, left alone, and never copied


@pytest.fixture
def pooled(receiver: Receiver) -> Receiver:
    """A node of the pool, in which the server's files are."""
    receiver.volume.pool = "Attic"
    (receiver.data / UUID / "world").mkdir(parents=True)
    (receiver.data / UUID / "world" / "level.dat").write_bytes(b"level")
    return receiver


def source(data: bytes = b"whatever a Pelican node sends", *, pool: str = "attic") -> Source:
    # Its checksum is wrong, as that of something that was read while it changed: nobody minds.
    made = Source(data, checksum="0" * 64)
    made.pool = pool
    return made


async def test_a_shared_server_is_not_copied_and_its_success_reported(pooled: Receiver) -> None:
    before = seen(pooled.data / UUID)
    inode = (pooled.data / UUID).stat().st_ino
    await pooled.receive(source())
    assert pooled.calls == ["owns", "describe", "create", "success", "sync"]
    assert (seen(pooled.data / UUID), (pooled.data / UUID).stat().st_ino) == (before, inode)
    assert pooled.left() == [UUID]
    assert pooled.servers.pools == ["Attic", ""]
    assert pooled.servers.sizes == [None]  # Only a look tells it.
    assert pooled.states == ["pending", "processing", "success", "completed"]
    (entry,) = pooled.store.transfers()
    assert (entry.pool, entry.outcome) == ("Attic", Outcome.SUCCESS)


async def test_a_deletion_before_the_report_deletes_no_files(pooled: Receiver) -> None:
    telling: Deferred[None] = Deferred()
    pooled.waits["success"] = telling
    running = Deferred.fromCoroutine(pooled.receive(source()))
    await until(lambda: pooled.panel.reported_backups)
    assert pooled.servers.pools == ["Attic"]
    telling.callback(None)
    await running


async def test_a_backup_that_exists_already_stays_the_same_file(pooled: Receiver) -> None:
    place = pooled.backup_directory / ONE.path(UUID)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"one")
    inode = place.stat().st_ino
    await pooled.receive(source().bring(ONE, b"one"))
    assert (place.stat().st_ino, pooled.kept()) == (inode, {ONE.path(UUID): b"one"})


async def test_a_backup_with_a_wrong_checksum_fails_the_transfer(pooled: Receiver) -> None:
    before = seen(pooled.data / UUID)
    error = await pooled.fails(BadRequest, source().bring(ONE, b"one", "0" * 64))
    assert error.code == "checksum-mismatch"
    assert f"of the backup {ONE.uuid} received" in error.detail
    assert (pooled.kept(), seen(pooled.data / UUID)) == ({}, before)


async def test_a_missing_mark_fails_the_transfer(pooled: Receiver) -> None:
    marked = source(b"")
    marked.mark = "0" * 32
    error = await pooled.fails(StorageError, marked)
    assert "is not the volume that the other node has" in error.detail


@pytest.mark.promise("pool-names-are-verified")
@pytest.mark.parametrize("ours", ["", "cellar"])
async def test_another_pools_files_are_sent(receiver: Receiver, ours: str, logged: Logged) -> None:
    receiver.volume.pool = ours
    ordinary = Source()
    ordinary.pool = "attic\n"
    await receiver.receive(ordinary)
    assert (receiver.data / UUID / "server.properties").is_file()
    (line,) = [line for line in logged.lines if "storage pool" in line]
    told = f"this node {ours!r}" if ours else "this node none"
    assert f"has the storage pool 'attic\\n', {told}: its files are copied" in line
    assert "set system.transfers.storage_pool on both to the same pool_name" in line


@pytest.mark.promise("pool-names-are-verified")
@pytest.mark.parametrize(("ours", "theirs"), [("", "attic"), ("attic", ""), ("attic", "cellar")])
async def test_a_copy_never_replaces_the_senders_files(
    pooled: Receiver, ours: str, theirs: str
) -> None:
    pooled.volume.pool = ours
    before = seen(pooled.data / UUID)
    ordinary = Source()
    ordinary.pool = theirs
    error = await pooled.fails(Conflict, ordinary)
    assert error.message == "the server's directory is already in the storage pool"
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)


async def test_files_left_out_are_no_empty_server(receiver: Receiver) -> None:
    empty = source(b"")
    empty.mark = "0" * 32
    error = await receiver.fails(Conflict, empty)
    assert error.detail == "it has sent no files; transfer the server again"


@pytest.mark.promise("pool-files-are-untouched")
@pytest.mark.parametrize("step", [step for step in ReceiveStep if step.name in RECORDED])
async def test_no_failure_changes_the_shared_files(
    pooled: Receiver, step: ReceiveStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = seen(pooled.data / UUID), pooled.store.enter

    def full(now: float, transfer: int, name: str) -> None:
        if name == step.name:
            raise StorageError("the disk is full")
        write(now, transfer, name)

    monkeypatch.setattr(pooled.store, "enter", full)
    await pooled.fails(StorageError, source().bring(ONE, b"one"))
    assert (pooled.left(), pooled.kept()) == ([UUID], {})
    assert seen(pooled.data / UUID) == before
    assert pooled.calls.count("failure") == 1


@pytest.mark.promise("pool-files-are-untouched")
async def test_shared_files_that_the_panel_refuses_stay_in_place(pooled: Receiver) -> None:
    pooled.faults["success"] = PanelRefused("no transfer open", "x", 409)
    pooled.panel.owned = [False, False]
    before = seen(pooled.data / UUID)
    await pooled.fails(TransferRevoked, source().bring(ONE, b"one"))
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)
    assert "remove" in pooled.calls
    assert all("/.quarantine/" in path for path in pooled.kept())


async def resumed(receiver: Receiver, step: ReceiveStep, *, told: bool = False) -> None:
    """Take up what a daemon leaves behind that dies in a step, as late in it as it can."""
    entry = receiver.store.begin(1.0, UUID, Direction.IN, step.name)
    receiver.store.set_terms(entry, "Attic", ())
    receiver.received_backups.store(UUID, ONE, [b"one"])
    if step in (ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        receiver.received_backups.place(UUID)
    if told:
        receiver.store.add_report(1.0, UUID, Outcome.SUCCESS)
        receiver.before["describe"] = lambda: telling.callback(None)
        telling: Deferred[None] = Deferred()
        receiver.waits["success"] = telling
        await receiver.callbacks.load()
    await receiver.take_up(clear=True)


BEFORE_REPORT = [
    ReceiveStep.ADMIT,
    ReceiveStep.RECEIVE,
    ReceiveStep.VERIFY,
    ReceiveStep.DURABLE,
    ReceiveStep.SWAP,
    ReceiveStep.ENVIRONMENT,
]


@pytest.mark.promise("panel-decides-in-a-pool")
@pytest.mark.parametrize("step", BEFORE_REPORT)
async def test_a_restart_fails_unreported_transfers(pooled: Receiver, step: ReceiveStep) -> None:
    before = seen(pooled.data / UUID)
    await resumed(pooled, step)
    assert pooled.calls == ["failure"] + ["remove"] * (step is ReceiveStep.ENVIRONMENT)
    assert (pooled.left(), pooled.kept()) == ([UUID], {})
    assert seen(pooled.data / UUID) == before
    assert pooled.store.unfinished() == []


@pytest.mark.parametrize("told", [True, False])
async def test_a_transfer_that_may_be_reported_continues(pooled: Receiver, told: bool) -> None:
    # What is written down to be told, the Panel may hear after it was asked.
    pooled.panel.owned = [not told]
    before = seen(pooled.data / UUID)
    await resumed(pooled, ReceiveStep.REPORT, told=told)
    assert "success" in pooled.calls
    assert "failure" not in pooled.calls
    assert pooled.states[-1] == "completed"
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)
    assert pooled.kept() == {ONE.path(UUID): b"one"}


def test_a_server_in_the_pool_is_not_a_leftover(pooled: Receiver, tmp_path: Path) -> None:
    entry = pooled.store.begin(1.0, UUID, Direction.IN, ReceiveStep.RECEIVE.name)
    pooled.store.set_terms(entry, "Attic", ())
    clear_leftovers(pooled.store.unfinished(), pooled.staging, pooled.received_backups)
    assert pooled.left() == [UUID]


# A server that is copied into a storage pool, where another node may put one of its name


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
