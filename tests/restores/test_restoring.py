"""A restore: the server is stopped for it and started again, and excludes what else is done."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from tests.restores.node import BEFORE, BROKEN, HeldArchive, RestoreHarness, archive
from tests.support.backups import packed_backup
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.errors import (
    Conflict,
    DaemonStopping,
    EnvironmentFailed,
    ServerBusy,
    StorageError,
)
from wingsd.restores import held, manager
from wingsd.restores.content import RestoreArchive
from wingsd.restores.storage import RestoreStorage
from wingsd.servers import running
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.util.retry import Backoff

RESTORED = {**BROKEN, **BEFORE}


async def unreported(restoring: RestoreHarness) -> Deferred[None]:
    """Begin a restore of a server that runs; return what answers its report."""
    unanswered: Deferred[None] = Deferred()
    restoring.node.panel.restored = lambda *_, **__: unanswered
    await restoring.run()
    await restoring.begin()
    return unanswered


async def test_a_server_that_runs_is_stopped_when_all_is_verified_and_started_again(
    restoring: RestoreHarness,
) -> None:
    await restoring.run()
    held = HeldArchive(packed_backup(BEFORE))
    await restoring.begin(held)
    assert restoring.server.state is PowerState.RUNNING
    assert restoring.content() == BROKEN
    held.release()
    await restoring.ended()
    await until(lambda: restoring.server.state is PowerState.STARTING)
    assert restoring.content() == RESTORED
    assert (restoring.reports, held.is_closed) == ([True], True)
    assert [call for call in restoring.node.environment.calls if call[0] == "kill"] == []


@pytest.mark.promise("restore-starts-what-it-stopped")
@pytest.mark.parametrize("restored", [True, False])
async def test_a_server_that_crashes_while_its_backup_is_read_is_started_after_it(
    restoring: RestoreHarness, restored: bool
) -> None:
    await restoring.run()
    held = HeldArchive(packed_backup(BEFORE) if restored else b"no archive")
    await restoring.begin(held)
    restoring.node.environment.running[UUID].end(1)
    assert restoring.server.state is PowerState.OFFLINE
    await until(lambda: [record.start for record in restoring.node.store.restores()] == [True])
    held.release()
    await restoring.ended()
    assert restoring.reports == [restored]
    await until(lambda: restoring.server.state is PowerState.STARTING)
    assert "not started again after its crash" not in "".join(restoring.told("daemon message"))
    restoring.server.operations.check(Operation.RESTORE)


@pytest.mark.promise("restore-starts-what-it-stopped")
async def test_a_server_that_does_not_stop_is_not_killed_and_keeps_its_files(
    restoring: RestoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "STOP_WITHIN", 0.1)
    await restoring.run(stubborn=True)
    assert await restoring.restore() is False
    assert restoring.content() == BROKEN
    assert restoring.server.state is PowerState.STOPPING
    assert "kill" not in [call[0] for call in restoring.node.environment.calls]
    assert "has not stopped within" in restoring.told("daemon message")[-1]
    assert restoring.server.hold == ""
    restoring.node.environment.running[UUID].end()


async def test_a_user_may_kill_a_server_that_does_not_stop(restoring: RestoreHarness) -> None:
    await restoring.run(stubborn=True)
    await restoring.begin()
    await until(lambda: restoring.server.state is PowerState.STOPPING)
    await restoring.server.power(PowerAction.KILL)
    await restoring.ended()
    assert (restoring.reports, restoring.content()) == ([True], RESTORED)


async def test_an_engine_that_does_not_answer_fails_the_restore(
    restoring: RestoreHarness,
) -> None:
    restoring.node.environment.faults["adopt"] = EnvironmentFailed("it is away")
    assert await restoring.restore() is False
    assert restoring.content() == BROKEN


@pytest.mark.promise("bad-backup-changes-nothing")
async def test_a_server_stays_as_it_is_when_its_backup_is_not_the_one_that_was_made(
    restoring: RestoreHarness, tmp_path: Path
) -> None:
    await restoring.run()
    data = packed_backup(BEFORE)
    assert await restoring.restore(archive(tmp_path, data, sha256="0" * 64)) is False
    assert "the backup is not the one that was made" in restoring.told("daemon message")[-1]
    assert restoring.server.state is PowerState.RUNNING
    assert restoring.content() == BROKEN
    right = hashlib.sha256(data).hexdigest()
    assert await restoring.restore(archive(tmp_path, data, right)) is True


@pytest.mark.promise("restore-needs-room")
@pytest.mark.parametrize(
    ("truncate", "size", "restored"), [(False, 700, False), (True, 700, True), (True, 1100, False)]
)
async def test_the_disk_limit_holds_for_what_the_server_will_have(
    restoring: RestoreHarness, tmp_path: Path, truncate: bool, size: int, restored: bool
) -> None:
    await restoring.reopen(build={"disk_space": 1})
    (restoring.home / "big").write_bytes(bytes(500_000))
    data = packed_backup({"other": bytes(size << 10)})
    assert await restoring.restore(archive(tmp_path, data), truncate=truncate) is restored
    assert (restoring.home / "other").exists() is restored
    assert (restoring.home / "big").exists() is not (restored and truncate)


@pytest.mark.promise("restore-excludes-other-work")
async def test_operations_are_refused_until_it_is_over(restoring: RestoreHarness) -> None:
    held = HeldArchive(packed_backup(BEFORE))
    await restoring.begin(held)
    refused = "server is currently being restored"
    for operation in (
        Operation.START,
        Operation.INSTALL,
        Operation.RESTORE,
        Operation.TRANSFER_OUT,
        Operation.CHANGE_FILES,
    ):
        with pytest.raises(ServerBusy, match=refused):
            restoring.server.operations.check(operation)
    with pytest.raises(ServerBusy, match=refused):
        await restoring.begin()
    restoring.server.operations.check(Operation.READ_FILES)
    held.release()
    await restoring.ended()
    restoring.server.operations.check(Operation.START)


@pytest.mark.promise("restore-excludes-other-work")
async def test_a_change_of_files_is_cancelled_and_waited_for(restoring: RestoreHarness) -> None:
    cancelled: list[bool] = []
    changing = restoring.server.operations.during(
        Operation.CHANGE_FILES, lambda: cancelled.append(True)
    )
    with changing:
        await restoring.begin()
        assert cancelled == [True]
        await until(lambda: "world/level.dat" in "".join(restoring.told("daemon message")))
        assert restoring.content() == BROKEN
    await restoring.ended()
    assert restoring.content() == RESTORED


@pytest.mark.promise("restore-excludes-other-work")
async def test_a_restore_ends_when_the_server_is_deleted(restoring: RestoreHarness) -> None:
    held = HeldArchive(packed_backup(BEFORE))
    await restoring.begin(held)
    await restoring.node.restores.release(UUID)
    await restoring.node.servers.delete(UUID)
    await until(lambda: restoring.reports == [False])
    assert held.is_closed
    await until(lambda: restoring.node.left() == [])
    assert restoring.node.store.restores() == []


async def test_the_nodes_end_leaves_it_to_the_next_daemon(restoring: RestoreHarness) -> None:
    await restoring.run()
    await restoring.begin(HeldArchive(packed_backup(BEFORE)))
    await restoring.node.restores.stop()
    assert restoring.reports == []
    assert len(restoring.node.store.restores()) == 1
    assert restoring.server.state is PowerState.RUNNING
    with pytest.raises(DaemonStopping):
        await restoring.begin()


@pytest.mark.promise("restore-starts-what-it-stopped")
async def test_what_an_earlier_daemon_stopped_is_to_be_started_again(
    restoring: RestoreHarness,
) -> None:
    records = [restoring.node.store.begin_restore(1, UUID, "x", truncate=False)]
    restoring.node.store.start_after_restore(UUID)
    records = restoring.node.store.restores()
    restoring.node.panel.restored = lambda *_, **__: Deferred()
    assert await restoring.node.restores.settle(records) == [UUID]
    restoring.node.restores.announce_settled()
    assert "this node was restarted" in restoring.told("daemon message")[-1]
    assert restoring.node.store.restores() == []


async def test_a_server_that_is_offline_stays_so(restoring: RestoreHarness) -> None:
    assert await restoring.restore() is True
    assert restoring.server.state is PowerState.OFFLINE
    assert "start" not in [call[0] for call in restoring.node.environment.calls]


async def test_an_archive_that_cannot_be_opened_changes_and_reports_nothing(
    restoring: RestoreHarness,
) -> None:
    async def fails() -> RestoreArchive:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await restoring.node.restores.begin(restoring.server, "x", fails, truncate=True)
    assert restoring.node.store.restores() == []
    assert (restoring.server.hold, restoring.events) == ("", [])


async def test_the_nodes_end_after_the_exchange_loses_no_report(restoring: RestoreHarness) -> None:
    await restoring.begin()
    await until(lambda: restoring.content() == RESTORED)
    await restoring.node.restores.stop()
    assert restoring.node.store.restores() == []
    assert restoring.reports == [True]


@pytest.mark.promise("restore-is-old-or-new")
async def test_files_that_are_out_of_place_are_left_to_the_next_daemon(
    restoring: RestoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(storage: RestoreStorage, server: str, inode: int) -> None:
        restoring.home.rename(Path(storage.staging.path) / f"{server}.replaced")
        raise StorageError("the disk fails")

    monkeypatch.setattr(RestoreStorage, "put_into_place", fails)
    await restoring.begin()
    await until(lambda: not restoring.node.restores.servers)
    monkeypatch.undo()
    assert restoring.reports == []
    assert restoring.server.hold
    records = restoring.node.store.restores()
    restoring.node.restores.recover(records)
    assert restoring.content() == RESTORED


@pytest.mark.promise("restore-starts-what-it-stopped")
async def test_a_daemon_that_ends_before_the_start_leaves_it_to_the_next_one(
    restoring: RestoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "ANSWER_PATIENCE", 60.0)
    await unreported(restoring)
    await until(lambda: restoring.node.store.restores() == [])
    await restoring.node.restores.stop()
    assert restoring.server.state is PowerState.OFFLINE
    assert restoring.node.store.due_starts() == [UUID]


async def test_an_engine_that_is_away_delays_the_start_after_a_restore(
    restoring: RestoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "BACKOFF", Backoff(0.01, 0.01))
    await restoring.run()
    faults = restoring.node.environment.faults
    faults["recreate"] = faults["adopt"] = EnvironmentFailed("the engine is away", is_silent=True)
    await restoring.begin()
    await restoring.ended()
    calls = restoring.node.environment.calls
    await until(lambda: [call[0] for call in calls].count("adopt") > 2)
    assert restoring.node.store.due_starts() == [UUID]
    faults.clear()
    await until(lambda: restoring.server.state is PowerState.STARTING)
    await restoring.settled()
    assert restoring.node.store.due_starts() == []


@pytest.mark.parametrize("is_left", [True, False])
async def test_a_server_that_a_transfer_takes_before_its_start_is_left_to_that(
    restoring: RestoreHarness, is_left: bool
) -> None:
    node, server = restoring.node, restoring.server
    unanswered = await unreported(restoring)
    await until(lambda: server.operations.hold is None)
    assert server.starts_if_it_stays
    server.place_hold(Operation.TRANSFER_OUT, "it is being transferred")
    if not is_left:
        server.disown("it has been transferred")
    unanswered.callback(None)
    await restoring.settled()
    assert node.store.due_starts() == []
    assert (server.state, server.starts_if_it_stays) == (PowerState.OFFLINE, is_left)
    assert await node.running.load() == ((UUID,) if is_left else ())


async def test_a_server_that_somebody_has_used_after_its_restore_is_left_as_it_is(
    restoring: RestoreHarness,
) -> None:
    node, server = restoring.node, restoring.server
    unanswered = await unreported(restoring)
    await until(lambda: server.operations.hold is None)
    await restoring.run()
    await server.power(PowerAction.STOP)
    unanswered.callback(None)
    await restoring.settled()
    assert node.store.due_starts() == []
    assert server.state is PowerState.OFFLINE
