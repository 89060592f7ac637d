"""A server whose files are in a pool of both nodes: found, left alone, and never copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from tests.support.archives import seen
from tests.support.logged_errors import LoggedErrors
from tests.support.sample_server import UUID
from tests.transfers.receiving import ALONE, JOURNALED, Alone, House, Source, reactor
from wingsd.backups.attachments import Backup, InstallLog
from wingsd.config import PELICAN
from wingsd.errors import BadRequest, Conflict, EnvironmentFailed, StorageError
from wingsd.panel.errors import PanelRefused
from wingsd.statedb import Direction, Outcome
from wingsd.transfers.errors import StreamMismatch, TransferRevoked, UploadTruncated
from wingsd.transfers.incoming.uploads import IncomingUpload
from wingsd.transfers.recovery import clear_leftovers
from wingsd.transfers.steps import ReceiveStep

ONE = Backup("5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11", "tar.gz", PELICAN)
LOG = f"install/{UUID}.log"


@pytest.fixture
def pooled(house: House) -> House:
    """A node of the pool, in which the server's files are."""
    house.volume.pool = "Attic"
    (house.data / UUID / "world").mkdir(parents=True)
    (house.data / UUID / "world" / "level.dat").write_bytes(b"level")
    return house


def source(data: bytes = b"whatever a Pelican node sends", *, pool: str = "attic") -> Source:
    # Its checksum is wrong, as that of something that was read while it changed: nobody minds.
    made = Source(data, checksum="0" * 64)
    made.pool = pool
    return made


# What comes


@pytest_twisted.ensureDeferred
async def test_nothing_is_copied_and_the_panel_is_told(pooled: House) -> None:
    before = seen(pooled.data / UUID)
    inode = (pooled.data / UUID).stat().st_ino
    await pooled.receiver.open(UUID).run(source(), ALONE)
    assert pooled.world.calls == ["owns", "server", "create", "success", "sync"]
    assert (seen(pooled.data / UUID), (pooled.data / UUID).stat().st_ino) == (before, inode)
    assert pooled.left() == [UUID]
    assert pooled.world.shared == ["Attic", ""]
    assert pooled.world.sizes == [None]  # Only a look tells it.
    assert pooled.states == ["pending", "processing", "success", "completed"]
    (entry,) = pooled.store.transfers()
    assert (entry.pool, entry.outcome) == ("Attic", Outcome.SUCCESS)


@pytest_twisted.ensureDeferred
async def test_who_deletes_it_before_the_panel_has_heard_deletes_no_files(pooled: House) -> None:
    telling: Deferred[None] = Deferred()
    pooled.world.waits["success"] = telling
    running = Deferred.fromCoroutine(pooled.receiver.open(UUID).run(source(), ALONE))
    while not pooled.world.told:
        await deferLater(reactor, 0.005)
    assert pooled.world.shared == ["Attic"]
    telling.callback(None)
    await running


@pytest_twisted.ensureDeferred
async def test_backups_and_the_log_come_with_it_all_the_same(pooled: House) -> None:
    laden = source().bring(ONE, b"one").bring(InstallLog(), b"installed")
    await pooled.receiver.open(UUID).run(laden, ALONE)
    assert pooled.kept() == {ONE.path(UUID): b"one", LOG: b"installed"}


@pytest_twisted.ensureDeferred
async def test_a_backup_that_is_there_already_is_the_same_file(pooled: House) -> None:
    place = pooled.backup_directory / ONE.path(UUID)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"one")
    inode = place.stat().st_ino
    await pooled.receiver.open(UUID).run(source().bring(ONE, b"one"), ALONE)
    assert (place.stat().st_ino, pooled.kept()) == (inode, {ONE.path(UUID): b"one"})


@pytest_twisted.ensureDeferred
async def test_a_backup_with_a_wrong_checksum_fails_it(pooled: House) -> None:
    before = seen(pooled.data / UUID)
    await pooled.fails(BadRequest, source().bring(ONE, b"one", "0" * 64))
    assert (pooled.kept(), seen(pooled.data / UUID)) == ({}, before)


@pytest_twisted.ensureDeferred
async def test_a_mark_of_the_sender_must_be_on_the_volume(pooled: House) -> None:
    marked = source(b"")
    marked.mark = pooled.volume.mark(UUID)
    await pooled.receiver.open(UUID).run(marked, ALONE)
    assert pooled.states[-1] == "completed"


@pytest_twisted.ensureDeferred
async def test_more_than_the_volume_could_have_is_not_read(
    pooled: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooled.volume, "size", lambda: 10)
    error = await pooled.fails(BadRequest, source())
    assert error.message == "the archive is larger than the storage pool that its files are in"


class Another(Alone):
    """One more request with the server."""

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        return succeed([source()])


@pytest_twisted.ensureDeferred
async def test_what_comes_in_several_requests_is_refused(pooled: House) -> None:
    """No family's nodes do both: it could only be somebody who guesses."""
    before = seen(pooled.data / UUID)
    with pytest.raises(StreamMismatch, match="in one request"):
        await pooled.receiver.open(UUID).run(source(), Another())
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)


# When it is not there, or not trusted


@pytest_twisted.ensureDeferred
async def test_files_that_are_not_there_fail_it(pooled: House) -> None:
    (pooled.data / UUID).rename(pooled.data / "elsewhere")
    error = await pooled.fails(StorageError, source())
    assert "is not there" in error.detail
    assert pooled.world.calls == ["owns", "server", "failure"]
    assert pooled.left() == ["elsewhere"]


@pytest_twisted.ensureDeferred
async def test_a_mark_that_is_not_there_fails_it(pooled: House) -> None:
    marked = source(b"")
    marked.mark = "0" * 32
    error = await pooled.fails(StorageError, marked)
    assert "is not the volume that the other node has" in error.detail


@pytest.mark.parametrize("ours", ["", "cellar"])
@pytest_twisted.ensureDeferred
async def test_a_pool_that_is_not_ours_is_not_trusted_and_its_server_copied(
    house: House, ours: str, logged_errors: LoggedErrors
) -> None:
    house.volume.pool = ours
    ordinary = Source()
    ordinary.pool = "attic\n"
    await house.receiver.open(UUID).run(ordinary, ALONE)
    assert (house.data / UUID / "server.properties").is_file()
    (line,) = [line for line in logged_errors.lines if "storage pool" in line]
    told = f"this node {ours!r}" if ours else "this node none"
    assert f"has the storage pool 'attic\\n', {told}: its files are copied" in line
    assert "set system.transfers.storage_pool on both to the same pool_name" in line


@pytest.mark.parametrize(("ours", "theirs"), [("", "attic"), ("attic", ""), ("attic", "cellar")])
@pytest_twisted.ensureDeferred
async def test_a_copy_never_takes_the_place_of_what_may_be_the_senders(
    pooled: House, ours: str, theirs: str
) -> None:
    pooled.volume.pool = ours
    before = seen(pooled.data / UUID)
    ordinary = Source()
    ordinary.pool = theirs
    error = await pooled.fails(Conflict, ordinary)
    assert error.message == "the server's directory is in the storage pool already"
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)


@pytest_twisted.ensureDeferred
async def test_a_sender_that_left_the_files_out_is_not_taken_for_an_empty_server(
    house: House,
) -> None:
    empty = source(b"")
    empty.mark = "0" * 32
    error = await house.fails(Conflict, empty)
    assert error.detail == "it has sent no files; transfer the server again"


# When it fails


@pytest.mark.parametrize("step", [step for step in ReceiveStep if step.name in JOURNALED])
@pytest_twisted.ensureDeferred
async def test_whatever_fails_the_files_are_left_alone(
    pooled: House, step: ReceiveStep, monkeypatch: pytest.MonkeyPatch
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
    assert pooled.world.calls.count("failure") == 1


@pytest.mark.parametrize(
    "error", [EnvironmentFailed("no image"), UploadTruncated("the upload ended", "x")]
)
@pytest_twisted.ensureDeferred
async def test_an_engine_or_a_sender_that_fails_changes_nothing(
    pooled: House, error: BadRequest | EnvironmentFailed
) -> None:
    before, broken = seen(pooled.data / UUID), source()
    if isinstance(error, UploadTruncated):
        broken.error = error
    else:
        pooled.world.faults["create"] = error
    await pooled.fails(type(error), broken)
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)


@pytest_twisted.ensureDeferred
async def test_files_that_the_panel_does_not_want_here_are_not_put_away(pooled: House) -> None:
    pooled.world.faults["success"] = PanelRefused("no transfer open", "x", 409)
    pooled.world.owned = [False, False]
    before = seen(pooled.data / UUID)
    await pooled.fails(TransferRevoked, source().bring(ONE, b"one"))
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)
    assert "remove" in pooled.world.calls
    assert all("/.quarantine/" in path for path in pooled.kept())


# After a restart


async def resumed(house: House, step: ReceiveStep, *, told: bool = False) -> None:
    """Take up what a daemon leaves behind that dies in a step, as late in it as it can."""
    entry = house.store.begin(1.0, UUID, Direction.IN, step.name)
    house.store.set_terms(entry, "Attic", ())
    house.backups.store(UUID, ONE, [b"one"])
    if step in (ReceiveStep.SWAP, ReceiveStep.ENVIRONMENT, ReceiveStep.REPORT):
        house.backups.place(UUID)
    if told:
        house.store.add_report(1.0, UUID, Outcome.SUCCESS)
        house.world.before["server"] = lambda: telling.callback(None)
        telling: Deferred[None] = Deferred()
        house.world.waits["success"] = telling
        await house.callbacks.load()
    entries = house.store.unfinished()
    clear_leftovers(entries, house.staging, house.backups)
    (unfinished,) = entries
    house.receiver.resume(unfinished)
    while house.receiver.servers:
        await deferLater(reactor, 0.005)


BEFORE_REPORT = [
    ReceiveStep.ADMIT,
    ReceiveStep.RECEIVE,
    ReceiveStep.VERIFY,
    ReceiveStep.DURABLE,
    ReceiveStep.SWAP,
    ReceiveStep.ENVIRONMENT,
]


@pytest.mark.parametrize("step", BEFORE_REPORT)
@pytest_twisted.ensureDeferred
async def test_what_the_panel_was_not_told_has_failed_since_its_sender_is_gone(
    pooled: House, step: ReceiveStep
) -> None:
    before = seen(pooled.data / UUID)
    await resumed(pooled, step)
    assert pooled.world.calls == ["failure"] + ["remove"] * (step is ReceiveStep.ENVIRONMENT)
    assert (pooled.left(), pooled.kept()) == ([UUID], {})
    assert seen(pooled.data / UUID) == before
    assert pooled.store.unfinished() == []


@pytest_twisted.ensureDeferred
async def test_so_it_has_when_nobody_wrote_down_that_it_is_to_be_told(pooled: House) -> None:
    pooled.world.owned = [False]
    before = seen(pooled.data / UUID)
    await resumed(pooled, ReceiveStep.REPORT)
    assert pooled.world.calls == ["owns", "server", "failure", "remove"]
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)


@pytest.mark.parametrize("told", [True, False])
@pytest_twisted.ensureDeferred
async def test_what_may_have_been_told_goes_on(pooled: House, told: bool) -> None:
    # What is written down to be told, the Panel may hear after it was asked.
    pooled.world.owned = [not told]
    before = seen(pooled.data / UUID)
    await resumed(pooled, ReceiveStep.REPORT, told=told)
    assert "success" in pooled.world.calls
    assert "failure" not in pooled.world.calls
    assert pooled.states[-1] == "completed"
    assert (pooled.left(), seen(pooled.data / UUID)) == ([UUID], before)
    assert pooled.kept() == {ONE.path(UUID): b"one"}


def test_what_is_in_the_pool_is_no_leftover(pooled: House, tmp_path: Path) -> None:
    entry = pooled.store.begin(1.0, UUID, Direction.IN, ReceiveStep.RECEIVE.name)
    pooled.store.set_terms(entry, "Attic", ())
    clear_leftovers(pooled.store.unfinished(), pooled.staging, pooled.backups)
    assert pooled.left() == [UUID]
