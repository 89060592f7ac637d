"""The state database of version 0.1.0, as the present code opens it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import release_0_1_0 as release
from tests.support.release_0_1_0 import WRITTEN
from wingsd.errors import StateDatabaseError
from wingsd.statedb import (
    FILE,
    SCHEMAS,
    DirectDestination,
    Direction,
    Outcome,
    ReportKind,
    ServerDescription,
    Store,
)

pytestmark = pytest.mark.promise("update-loses-nothing")

DAY = 24 * 3600.0


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[Store]:
    """The database after the first start of the present version."""
    release.write(tmp_path)
    store = Store(str(tmp_path))
    store.open()
    yield store
    store.close()


def test_only_a_start_of_the_daemon_migrates_it(tmp_path: Path) -> None:
    release.write(tmp_path)
    with pytest.raises(StateDatabaseError, match="another version"):
        Store(str(tmp_path)).open(read_only=True)
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (release.VERSION,)


def test_a_migrated_database_is_as_a_new_one(migrated: Store, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with closing(Store(str(tmp_path / "new"))) as new:
        new.open()
        columns = [columns_of(tmp_path / "new"), columns_of(tmp_path)]
    assert columns[0] == columns[1]
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (len(SCHEMAS),)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def columns_of(directory: Path) -> set[tuple[str, str, str]]:
    with closing(sqlite3.connect(directory / FILE)) as database:
        found = database.execute(
            "SELECT m.name, c.name, c.type FROM sqlite_schema AS m, pragma_table_info(m.name) AS c"
        )
        return set(found)


def test_all_transfers_are_there(migrated: Store) -> None:
    unfinished = {
        entry.server: (entry.direction.value, entry.step)
        for entry in migrated.unfinished()
        if not entry.direct
    }
    assert unfinished == release.UNFINISHED
    direct = {entry.server: entry.step for entry in migrated.unfinished() if entry.direct}
    assert direct == {release.DIRECT_IN: "REPORT", release.DIRECT_OUT: "SEND"}
    ended = {entry.server: entry for entry in migrated.ended(10)}
    assert {server: (entry.direct, entry.outcome) for server, entry in ended.items()} == {
        release.CAME: (False, Outcome.SUCCESS),
        release.CAME_DIRECTLY: (True, Outcome.SUCCESS),
        release.SENT_DIRECTLY: (True, Outcome.SUCCESS),
        release.FAILED: (False, Outcome.FAILURE),
    }
    came, failed = ended[release.CAME], ended[release.FAILED]
    assert (came.bytes, came.files, came.inode) == (1 << 20, 100, (1 << 64) - 1)
    assert (failed.direction, failed.reason) == (Direction.OUT, "the disk is full")
    assert (failed.begun, failed.changed) == (WRITTEN - 80_000, WRITTEN - 79_000)
    removals = {entry.server: entry.removals for entry in migrated.unfinished() if entry.removals}
    sent = [server for server, state in release.UNFINISHED.items() if state == ("out", "SEND")]
    assert removals == {server: (f"{server}/{release.BACKUP}.tar.gz",) for server in sent}


def test_all_of_direct_transfers_is_there(migrated: Store) -> None:
    (direct,) = (entry.id for entry in migrated.unfinished() if entry.server == release.DIRECT_OUT)
    assert migrated.destination(direct) == DirectDestination(
        "https://127.0.0.1:9", "Bearer of a direct transfer", remove=True
    )
    here = {server: f"digest of {server}" for server in (release.DIRECT_IN, release.CAME_DIRECTLY)}
    assert migrated.descriptions() == [
        ServerDescription(server, digest, release.DESCRIPTION.format(server), arrived)
        for (server, digest), arrived in zip(here.items(), (None, WRITTEN - 89_000), strict=True)
    ]
    # A source that asks late is told so.
    arrived = [migrated.has_arrived(digest) for digest in here.values()]
    assert arrived == [False, True]


def test_all_reports_are_there(migrated: Store) -> None:
    reports = migrated.reports()
    assert {report.kind for report in reports} == {ReportKind.TRANSFER}
    by_step = {state: server for server, state in release.UNFINISHED.items()}
    assert [(report.server, report.outcome, report.answer) for report in reports] == [
        (by_step["in", "REPORT"], Outcome.SUCCESS, "no answer"),
        (by_step["in", "FAILED"], Outcome.FAILURE, ""),
        (release.CAME, Outcome.SUCCESS, "204"),
    ]
    assert migrated.unsettled() == reports[:2]
    assert reports[2].backups == (release.BACKUP,)
    assert reports[2].settled == WRITTEN - 88_999
    begun = {entry.server: entry.begun for entry in migrated.transfers()}
    assert all(report.begun == begun[report.server] for report in reports)


def test_tokens_stay_used_and_revoked(migrated: Store) -> None:
    assert migrated.was_used(release.USED, WRITTEN + 1800)
    assert not migrated.use_token(release.USED, WRITTEN + 1800)
    assert migrated.use_token("of a new token", WRITTEN + 1800)
    assert migrated.denied() == {release.REVOKED: WRITTEN - 600}


def test_days_in_quarantine_go_on_counting(migrated: Store) -> None:
    name = release.QUARANTINED
    assert migrated.ages(WRITTEN, [name]) == {name: 90_000}
    assert migrated.ages(WRITTEN + 10 * DAY, [name]) == {name: 90_000 + DAY}
