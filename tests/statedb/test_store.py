"""The rows of the state database, and its errors."""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.fixtures import worker
from wingsd.errors import StateDatabaseError, StorageError
from wingsd.statedb import (
    FILE,
    KEPT,
    SCHEMAS,
    TOKENS_KEPT,
    ActivityEntry,
    ArrivingBackup,
    ArrivingState,
    DirectDestination,
    Direction,
    InstallationRecord,
    LeavingBackup,
    LeftBackup,
    LeftState,
    MoveRecord,
    Outcome,
    Report,
    ReportKind,
    RestoreRecord,
    RewindRecord,
    ServerDescription,
    StateDatabase,
    Store,
    TransferRecord,
    TransferResult,
    history_place,
)
from wingsd.threadio import Workers

__all__ = ["worker"]

DAY = 24 * 3600.0
#: Bytes of a page, SQLite's default.
PAGE = 4096
YEAR = 365 * DAY
A, B = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10", "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"


def again(store: Store) -> Store:
    """Return the database as the next daemon finds it; the fixture closes it."""
    store.close()
    store.open()
    return store


def test_a_transfer_is_kept_with_its_step(store: Store) -> None:
    first = store.begin(10, A, Direction.IN, "RECEIVE")
    second = store.begin(11, B, Direction.OUT, "ASK")
    store.enter(12, first, "VERIFY")
    store.end(13, second, Outcome.FAILURE)
    store = again(store)
    unfinished = TransferRecord(first, A, Direction.IN, "VERIFY", 10, 12)
    assert store.unfinished() == [unfinished]
    ended = TransferRecord(second, B, Direction.OUT, "ASK", 11, 13, Outcome.FAILURE)
    assert store.transfers() == [unfinished, ended]


def test_a_transfer_is_kept_with_its_pool_and_removals(store: Store) -> None:
    plain, described = (store.begin(10, A, Direction.OUT, "ASK") for _ in range(2))
    store.set_terms(described, "the attic", (f"{A}.tar", f"{A}/{B}.tar.gz"), 2**64 - 1)
    store = again(store)
    one, two = store.unfinished()
    assert (one.id, one.pool, one.removals, one.inode) == (plain, "", (), None)
    assert (two.pool, two.removals) == ("the attic", (f"{A}.tar", f"{A}/{B}.tar.gz"))
    assert two.inode == 2**64 - 1


def test_a_dropped_backup_counts_when_its_transfer_has_moved_the_server(store: Store) -> None:
    place = f"{A}/{B}.tar.gz"

    def sent(now: float) -> int:
        entry = store.begin(now, A, Direction.OUT, "ASK")
        store.set_terms(entry, left=[LeavingBackup(place, LeftState.DROPPED)])
        return entry

    failed = sent(1)
    store.end(2, failed, Outcome.FAILURE)
    assert store.age_left(2) == []
    moved = sent(3)
    assert store.age_left(4) == []
    store.end(5, moved, Outcome.SUCCESS)

    def left(age: float, missed: float | None) -> LeftBackup:
        return LeftBackup(place, A, 5, age, missed, moved, LeftState.DROPPED)

    assert store.age_left(10) == [left(0, None)]
    store = again(store)
    # A day at most counts between two looks, and the first time that the Panel was without it.
    store.set_missed(left(DAY, None), is_missed=True)
    assert store.age_left(10 + YEAR) == [left(DAY, 0)]
    store.set_missed(left(DAY, None), is_missed=True)
    assert store.left() == [left(DAY, 0)]
    store.set_missed(left(DAY, None), is_missed=False)
    assert store.left() == [left(DAY, None)]
    store.prune(10 + YEAR)
    assert store.left() == [left(DAY, None)]
    # It stays while the server may come back, and for good when it has.
    back = store.begin(20 + YEAR, A, Direction.IN, "RECEIVE")
    assert store.left() == []
    store.end(21 + YEAR, back, Outcome.FAILURE)
    assert len(store.left()) == 1
    back = store.begin(22 + YEAR, A, Direction.IN, "RECEIVE")
    store.end(23 + YEAR, back, Outcome.SUCCESS)
    assert store.left() == []
    store.prune(24 + YEAR)
    again_away = store.begin(25 + YEAR, A, Direction.OUT, "ASK")
    store.end(26 + YEAR, again_away, Outcome.SUCCESS)
    assert store.left() == []


@pytest.mark.parametrize("backups", [None, (), (A,), (A, B)])
def test_backups_stay_in_reports(store: Store, backups: tuple[str, ...] | None) -> None:
    report = store.add_report(10, A, Outcome.SUCCESS, backups)
    store = again(store)
    assert store.reports() == [report]
    assert report.backups == backups


def test_a_restore_is_kept_until_its_report_takes_its_place(store: Store) -> None:
    begun = [
        store.begin_restore(9, A, A, truncate=False),
        store.begin_restore(10, B, A, truncate=True),
    ]
    assert store.restores() == begun
    store.start_after_restore(B)
    store.commit_restore(B, 2**64 - 1)
    store = again(store)
    expected = RestoreRecord(B, A, 10, truncate=True, start=True, inode=2**64 - 1)
    assert store.restores() == [begun[0], expected]
    report = store.end_restore(11, expected, Outcome.SUCCESS)
    store = again(store)
    assert store.restores() == [begun[0]]
    assert store.unsettled() == [report]
    assert (report.kind, report.backups) == (ReportKind.RESTORE, (A,))
    assert report.what == "restore success"


def test_a_rewind_can_be_undone_until_the_next_one_has_a_point_for_that(store: Store) -> None:
    first = store.begin_rewind(9, A, 3, 1.5)
    assert store.rewinds() == [first]
    store.start_after_rewind(A)
    store.set_undo(A, 7)
    store = again(store)
    assert store.rewinds() == [RewindRecord(A, 3, 1.5, 9, start=True, undo=7)]
    store.end_rewind(9, A, Outcome.SUCCESS)
    assert store.due_starts() == [A]
    assert store.rewinds() == [RewindRecord(A, 3, 1.5, 9, undo=7, outcome=Outcome.SUCCESS)]
    assert store.begin_rewind(10, A, 7, 8.5) == RewindRecord(A, 7, 8.5, 10, undo=7)
    store.forget_rewind(A)
    assert store.rewinds() == []


def test_how_it_ended_is_kept_with_it(store: Store) -> None:
    transfer = store.begin(10, A, Direction.IN, "RECEIVE", direct=True)
    store.end(11, transfer, Outcome.FAILURE, TransferResult("the disk is full", 2**40, 3))
    store = again(store)
    (entry,) = store.transfers()
    assert (entry.direct, entry.reason) == (True, "the disk is full")
    assert (entry.bytes, entry.files) == (2**40, 3)


def test_past_transfers_are_listed_latest_first(store: Store) -> None:
    ids = [store.begin(10, server, Direction.IN, "RECEIVE") for server in (A, B, A, A)]
    for id_ in ids[:3]:
        store.end(11, id_, Outcome.SUCCESS)
    assert [entry.id for entry in store.ended(10)] == [ids[2], ids[1], ids[0]]
    assert [entry.id for entry in store.ended(1)] == [ids[2]]
    assert [entry.id for entry in store.ended(10, A)] == [ids[2], ids[0]]


def test_a_server_that_is_described_stays_so(store: Store) -> None:
    store.add_description(A, "digest", "{}")
    store.add_description(B, "first", "{}")
    store.add_description(B, "second", '{"settings": 1}')
    store.mark_arrived(12, B)
    store = again(store)
    there = ServerDescription(B, "second", '{"settings": 1}', 12)
    assert store.descriptions() == [there, ServerDescription(A, "digest", "{}")]
    store.delete_description(A)
    store.clear_description(B)
    assert store.descriptions() == [ServerDescription(B, "second", "", 12)]


def test_an_order_is_kept_as_long_as_its_transfer_goes_on(store: Store) -> None:
    destination = DirectDestination("https://x", "Bearer y", remove=True, description="{}")
    transfer = store.begin(10, A, Direction.OUT, "ASK")
    store.add_destination(transfer, destination)
    store = again(store)
    assert store.destination(transfer) == destination
    assert "Bearer" not in repr(destination)
    with pytest.raises(StateDatabaseError, match="UNIQUE"):
        store.add_destination(transfer, attrs.evolve(destination, url="https://other"))
    assert store.destination(transfer) == destination
    store.end(11, transfer, Outcome.FAILURE)
    assert store.destination(transfer) is None


def test_a_report_is_kept_until_it_is_settled(store: Store) -> None:
    report = store.add_report(10, A, Outcome.SUCCESS)
    other = store.add_report(11, A, Outcome.FAILURE)
    store.record_attempt(report, "it is down")
    store = again(store)
    told = Report(report.id, A, Outcome.SUCCESS, 10, 1, "it is down")
    assert store.unsettled() == [told, other]
    store.close_report(12, report, "heard")
    assert store.unsettled() == [other]
    assert store.reports()[0].settled == 12


def test_an_installation_is_kept_until_its_end_is_reported(store: Store) -> None:
    begun = store.begin_installation(10, A, reinstall=True, start=True)
    assert store.installations() == [begun] == [InstallationRecord(A, 10, True, True)]
    store.run_installation(11, A)
    store.decide_installation(A, Outcome.FAILURE)
    store = again(store)
    assert store.installations() == [
        InstallationRecord(A, 10, True, True, ran=11, outcome=Outcome.FAILURE)
    ]
    report = store.end_installation(12, A, ReportKind.REINSTALL, Outcome.FAILURE)
    assert (store.installations(), store.unsettled()) == ([], [report])
    assert (report.kind, report.what) == (ReportKind.REINSTALL, "reinstall failure")


def test_a_second_installation_takes_the_place_of_the_first(store: Store) -> None:
    store.begin_installation(10, A, reinstall=False, start=True)
    store.run_installation(11, A)
    second = store.begin_installation(12, A, reinstall=True, start=False)
    assert store.installations() == [second]
    store.delete_installation(A)
    assert store.installations() == []


def test_a_token_is_used_once(store: Store) -> None:
    assert store.use_token("digest", 100)
    store = again(store)
    assert (store.was_used("digest", 100), store.was_used("other", 100)) == (True, False)
    assert not store.use_token("digest", 100)
    assert store.use_token("other", 100)


@pytest.mark.promise("transfer-token-is-used-once")
def test_a_token_that_is_forgotten_is_good_for_nothing(store: Store) -> None:
    assert store.use_token("digest", 100)
    assert store.use_token("long", 2 * YEAR)
    store.prune(YEAR)  # The clock was set forward, and is set back now.
    store.prune(10)
    store = again(store)
    assert store.was_used("digest", 100)
    assert not store.use_token("digest", 100)
    assert not store.use_token("long", 2 * YEAR)
    assert not store.was_used("later", 101)
    assert store.use_token("later", 101)


def test_a_token_is_remembered_for_a_day_after_it_has_expired(store: Store) -> None:
    store.use_token("digest", 100)
    store.prune(100 + TOKENS_KEPT)
    assert store.use_token("other", 50)
    store.prune(101 + TOKENS_KEPT)
    assert not store.use_token("another", 50)


@pytest.mark.promise("signed-url-is-used-once")
def test_a_signed_url_is_used_as_often_as_it_may_be(store: Store) -> None:
    uses = [store.use_url("five", 100, 5, "192.0.2.1", resumes=False) for _ in range(4)]
    assert store.use_url("once", 100, 1, "192.0.2.1", resumes=True)
    store = again(store)
    uses += [store.use_url("five", 100, 5, "192.0.2.1", resumes=False) for _ in range(2)]
    assert uses == [True] * 5 + [False]
    assert not store.use_url("once", 100, 1, "192.0.2.1", resumes=False)
    assert [store.use_url("always", 100, 0, "", resumes=False) for _ in range(9)] == [True] * 9
    store.prune(YEAR)
    assert not store.use_url("once", 100, 1, "192.0.2.1", resumes=False)


def test_a_download_is_resumed_from_the_address_that_began_it(store: Store) -> None:
    looked_at = ("once", 100, 1, "192.0.2.1")
    for _ in range(2):
        assert store.use_url(*looked_at, resumes=False, counts=False)
    assert store.use_url("once", 100, 1, "192.0.2.1", resumes=False)
    assert not store.use_url(*looked_at, resumes=False, counts=False)
    assert store.use_url(*looked_at, resumes=True, counts=False)
    assert store.use_url("once", 100, 1, "192.0.2.1", resumes=True)
    assert not store.use_url("once", 100, 1, "192.0.2.2", resumes=True)
    assert store.use_url("nobody", 100, 1, "", resumes=False)
    assert not store.use_url("nobody", 100, 1, "", resumes=True)


def test_the_last_direct_transfer_of_a_server_away_is_kept(store: Store) -> None:
    for server, *directions in (("away", "out"), ("back", "out", "in"), ("twice", "out", "out")):
        for direction in directions:
            made = store.begin(10, server, Direction(direction), "ASK", direct=True)
            store.end(11, made, Outcome.SUCCESS)
    last = store.begin(12, "away", Direction.OUT, "ASK", direct=True)
    store.end(13, last, Outcome.FAILURE)
    store.prune(YEAR)
    kept = [(each.id, each.server) for each in store.transfers()]
    assert kept == [(1, "away"), (5, "twice")]


def test_denied_tokens_outlive_the_daemon(store: Store) -> None:
    store.deny(10, ["a", "b"])
    store.deny(20, ["a"])
    store.deny(15, ["a"])  # The clock was set back.
    store = again(store)
    assert store.denied() == {"a": 20, "b": 10}


@pytest.mark.promise("revoked-console-token-stays-refused")
def test_of_denials_that_are_forgotten_their_time_is_known(store: Store) -> None:
    store.deny(10, ["a"])
    store.deny(20, ["b"])
    store.prune(15 + KEPT)
    assert (store.denied(), store.denied_before()) == ({"b": 20}, 10)
    store.prune(YEAR)
    store.prune(30)
    store = again(store)
    assert (store.denied(), store.denied_before()) == ({}, 20)


def test_what_is_kept_has_its_age_counted_by_looking_at_it(store: Store) -> None:
    assert store.ages(10, ["room"]) == {"room": 0}
    assert store.ages(DAY, ["room", "other"]) == {"room": DAY - 10, "other": 0}
    store = again(store)
    assert store.ages(DAY + 5, ["room"]) == {"room": DAY - 5}
    assert store.ages(DAY + 6, ["other"]) == {"other": 0}


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_is_set_makes_nothing_older_than_a_day(store: Store, jump: float) -> None:
    store.ages(YEAR, ["room"])
    counted = store.ages(YEAR + jump, ["room"])["room"]
    assert counted == max(0, min(jump, DAY))
    assert store.ages(YEAR + jump + 10, ["room"])["room"] == counted + 10


@pytest.mark.promise("clock-steps-do-no-harm")
@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_is_set_ends_and_reorders_nothing(store: Store, jump: float) -> None:
    first = store.begin(YEAR, A, Direction.OUT, "SEND")
    told_first = store.add_report(YEAR, A, Outcome.SUCCESS)
    second = store.begin(YEAR + jump, A, Direction.IN, "SWAP")
    told_second = store.add_report(YEAR + jump, A, Outcome.FAILURE)
    for now in (YEAR, YEAR + jump, 3 * YEAR):
        store.prune(now)
    assert [entry.id for entry in store.unfinished()] == [first, second]
    assert store.unsettled() == [told_first, told_second]


def test_names_of_each_kind_are_counted_by_themselves(store: Store) -> None:
    store.ages(10, ["room"])
    store.ages(20, ["room"], "history")
    assert store.ages(30, ["room"]) == {"room": 20}
    assert store.ages(30, ["room"], "history") == {"room": 10}
    assert store.ages(40, [], "history") == {}
    assert store.ages(40, ["room"]) == {"room": 30}
    assert store.ages(50, ["room"], "history") == {"room": 0}


def test_what_is_over_for_long_is_forgotten(store: Store) -> None:
    old, open_ = (store.begin(10, A, Direction.IN, "RECEIVE") for _ in range(2))
    store.end(10, old, Outcome.SUCCESS)
    store.close_report(10, store.add_report(10, A, Outcome.SUCCESS), "heard")
    waiting = store.add_report(10, A, Outcome.FAILURE)
    store.deny(10, ["a"])
    store.prune(11 + KEPT)
    assert [entry.id for entry in store.transfers()] == [open_]
    assert store.reports() == [waiting]
    assert store.denied() == {}


@pytest.mark.promise("user-data-is-bounded")
def test_only_its_user_reads_it(store: Store, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_each_change_is_on_the_disk_when_it_returns(store: Store) -> None:
    """SQLite's own promise, which is made only with these two."""
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.promise("update-loses-nothing")
@pytest.mark.parametrize("version", range(1, len(SCHEMAS)))
def test_an_older_database_is_migrated_and_loses_nothing(tmp_path: Path, version: int) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript("".join(SCHEMAS[:version]))
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("INSERT INTO tokens (digest, expires) VALUES ('digest', 100)")
    connection.execute(
        "INSERT INTO transfers (server, direction, step, begun, changed, outcome)"
        " VALUES (?, 'in', 'DONE', 1, 2, 'success')",
        (A,),
    )
    connection.commit()
    connection.close()
    store = Store(str(tmp_path))
    with pytest.raises(StateDatabaseError, match="another version"):
        store.open(read_only=True)
    store.open()
    assert store.was_used("digest", 100)
    assert (store.ages(10, ["room"]), store.denied_before()) == ({"room": 0}, 0)
    assert store.trim_activity(1) == (0, 0)
    assert store.transfers() == [TransferRecord(1, A, Direction.IN, "DONE", 1, 2, Outcome.SUCCESS)]
    store.close()


@pytest.mark.promise("newer-database-is-left-alone")
def test_a_newer_database_is_left_alone(store: Store, tmp_path: Path) -> None:
    store.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(StateDatabaseError, match="newer wingsd"):
        Store(str(tmp_path)).open()
    assert (tmp_path / FILE).read_bytes() == before


def test_servers_received_before_arrivals_were_recorded_have_arrived(tmp_path: Path) -> None:
    before = next(at for at, each in enumerate(SCHEMAS) if "TABLE arrivals" in each)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.executescript("".join(SCHEMAS[:before]))
        connection.execute(f"PRAGMA user_version = {before}")
        connection.executescript(
            """
            INSERT INTO described VALUES ('a', 'here', '', 10), ('b', 'coming', '', NULL);
            INSERT INTO transfers (id, server, direction, step, begun, changed, outcome, by_hand)
                VALUES (1, 'c', 'in', '', 1, 1, 'success', 1);
            INSERT INTO transfers (id, server, direction, step, begun, changed, outcome, by_hand)
                VALUES (2, 'd', 'in', '', 1, 1, 'failure', 1);
            INSERT INTO moves VALUES (1, 'c', 'in', '', '', 'deleted', '', '', '', ''),
                (2, 'd', 'in', '', '', 'failed', '', '', '', '');
            """
        )
    with closing(Store(str(tmp_path))) as store:
        store.open()
        found = {each: store.has_arrived(each) for each in ("here", "coming", "deleted", "failed")}
    assert found == {"here": True, "coming": False, "deleted": True, "failed": False}


def test_transfers_cancelled_before_that_was_an_outcome_are_known(
    tmp_path: Path,
) -> None:
    before = next(at for at, each in enumerate(SCHEMAS) if "= 'cancelled'" in each)
    reasons = ("while sending: transfer-cancelled: the transfer was cancelled", "while sending: x")
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.executescript("".join(SCHEMAS[:before]))
        connection.execute(f"PRAGMA user_version = {before}")
        connection.executemany(
            "INSERT INTO transfers (server, direction, step, begun, changed, outcome, reason)"
            " VALUES ('a', 'out', '', 1, 1, 'failure', ?)",
            [(each,) for each in reasons],
        )
    with closing(Store(str(tmp_path))) as store:
        store.open()
        found = [each.outcome for each in store.transfers()]
    assert found == [Outcome.CANCELLED, Outcome.FAILURE]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_that_cannot_be_opened_is_closed(tmp_path: Path, read_only: bool) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    store = Store(str(tmp_path))
    with pytest.raises(StateDatabaseError):
        store.open(read_only=read_only)
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert [link for link in links if tmp_path in link.parents] == []


@pytest.mark.promise("next-transfer-is-not-ended")
def test_a_failed_transfer_ends_when_another_one_begins(store: Store) -> None:
    failed, open_, other = (store.begin(10, server, Direction.OUT, "ASK") for server in (A, A, B))
    for entry in (failed, other):
        store.enter(11, entry, "FAILED")
    store.begin(12, A, Direction.OUT, "ASK", direct=True)
    outcomes = {each.id: each.outcome for each in store.transfers()}
    assert (outcomes[failed], outcomes[open_], outcomes[other]) == (Outcome.FAILURE, None, None)


def test_failures_of_earlier_transfers_are_not_reported_when_another_one_begins(
    store: Store,
) -> None:
    store.begin(10, A, Direction.OUT, "ASK")
    success, failure = (
        store.add_report(11, A, each) for each in (Outcome.SUCCESS, Outcome.FAILURE)
    )
    other = store.add_report(11, B, Outcome.FAILURE)
    store.begin(12, A, Direction.OUT, "ASK", direct=True)
    assert store.unsettled() == [success, failure, other]
    store.begin(13, A, Direction.OUT, "ASK")
    assert store.unsettled() == [success, other]


def test_a_failure_that_was_reported_is_known_by_its_transfer(store: Store) -> None:
    store.begin(10, A, Direction.OUT, "ASK")
    assert not store.is_failure_reported(A, 10)
    store.add_report(11, A, Outcome.FAILURE)
    store = again(store)
    assert store.is_failure_reported(A, 10)
    assert not store.is_failure_reported(B, 10)
    store.begin(12, A, Direction.OUT, "ASK")
    store.add_report(13, A, Outcome.SUCCESS)
    assert not store.is_failure_reported(A, 12)


def test_a_start_is_due_from_the_end_of_a_restore_until_it_was_tried(store: Store) -> None:
    started, stopped = (store.begin_restore(10, each, "x", truncate=False) for each in (A, B))
    store.start_after_restore(A)
    assert store.due_starts() == []
    store.end_restore(11, started, Outcome.FAILURE)
    store.end_restore(11, stopped, Outcome.SUCCESS)
    store = again(store)
    assert store.due_starts() == [A]
    store.end_start(A)
    assert store.due_starts() == []
    store.close()


# The activity in the state database


USER = "2f0c0b1e-5d0a-4d57-8d0c-6b1f3c7a9e21"
MANY = 100_000


def entries(number: int) -> list[ActivityEntry]:
    return [ActivityEntry(A, "server:x", "{}", USER, "192.0.2.1", at) for at in range(number)]


def times(store: Store, after: int = 0) -> list[float]:
    return [entry.at for entry in store.activity(after, MANY)]


def test_entries_are_kept_in_their_order_until_they_are_deleted(store: Store) -> None:
    first = ActivityEntry(A, "server:console.command", '{"command":"é"}', USER, "2001:db8::1", 1.5)
    second = ActivityEntry(A, "server:crashed", "{}", None, None, 1)
    assert store.add_activity([first, second], MANY) == 0
    kept = again(store).activity(0, 10)
    assert kept == [attrs.evolve(first, id=1), attrs.evolve(second, id=2)]
    assert store.activity(1, 10) == kept[1:]
    assert store.activity(0, 1) == kept[:1]
    assert store.delete_activity(1) == 1
    assert store.activity(0, 10) == kept[1:]


@pytest.mark.promise("user-data-is-bounded")
def test_only_the_newest_are_kept(store: Store) -> None:
    assert store.add_activity(entries(3), 3) == 0
    assert store.add_activity(entries(5)[3:], 3) == 2
    assert times(store) == [2, 3, 4]
    assert store.add_activity(entries(4), 2) == 5
    assert times(store) == [2, 3]


def test_an_id_is_not_used_again(store: Store) -> None:
    store.add_activity(entries(3), MANY)
    store.delete_activity(3)
    store.add_activity(entries(1), MANY)
    assert [entry.id for entry in store.activity(0, 10)] == [4]


def test_100_000_entries_are_trimmed_and_deleted(store: Store) -> None:
    store.add_activity(entries(MANY), MANY)
    assert store.trim_activity(MANY) == (MANY, 0)
    assert store.trim_activity(70_000) == (70_000, 30_000)
    assert store.activity(0, 1)[0].at == 30_000
    assert store.delete_activity(90_000) == 60_000
    assert store.trim_activity(MANY) == (10_000, 0)


def test_an_empty_table_has_nothing_to_trim(store: Store) -> None:
    assert store.trim_activity(1) == (0, 0)
    assert store.add_activity([], 1) == 0
    assert store.delete_activity(5) == 0


# The moves in the state database


def outgoing(store: Store) -> MoveRecord:
    transfer = store.begin(1, A, Direction.OUT, "ASK")
    return MoveRecord(transfer, A, Direction.OUT, "", "key", "token", "https://node", "pelican")


def incoming(move: str = "id", token: str = "token", **fields: Any) -> MoveRecord:  # noqa: S107
    return MoveRecord(0, A, Direction.IN, move, "key", token, "", "pelican", **fields)


def admit(store: Store, record: MoveRecord) -> int:
    transfer = store.admit_move(1, record, "ADMIT", 100, direct=False)
    assert transfer is not None
    return transfer


def test_a_move_to_this_node_is_added_with_its_transfer_and_the_use_of_its_token(
    store: Store,
) -> None:
    transfer = admit(store, incoming())
    record = attrs.evolve(incoming(), transfer=transfer)
    assert [(each.id, each.step) for each in store.unfinished()] == [(transfer, "ADMIT")]
    assert store.was_used("token", 100)
    assert store.move(transfer) == record
    assert store.find_move(Direction.IN, "id") == record
    assert store.find_admitted("token") == record
    assert store.open_moves() == [record]


def test_a_used_token_begins_no_move(store: Store) -> None:
    store.use_token("token", 100)
    assert store.admit_move(1, incoming(), "ADMIT", 100, direct=False) is None
    assert (store.unfinished(), store.open_moves()) == ([], [])


def test_a_move_that_cannot_be_added_leaves_nothing(store: Store) -> None:
    record = incoming(request=None)
    with pytest.raises(StateDatabaseError):
        store.admit_move(1, record, "ADMIT", 100, direct=False)
    assert not store.was_used("token", 100)
    assert store.unfinished() == []


def test_what_a_source_learns_is_kept_until_the_move_ends(store: Store) -> None:
    record = outgoing(store)
    store.add_move(record)
    store.set_move(record.transfer, "id")
    store.set_move_state(record.transfer, '{"round": 2}')
    expected = attrs.evolve(record, move="id", state='{"round": 2}')
    assert store.find_move(Direction.OUT, "id") == expected
    assert store.find_move(Direction.IN, "id") is None
    store.end(2, record.transfer, Outcome.SUCCESS)
    assert store.move(record.transfer) is None


def test_a_move_to_this_node_can_be_asked_about_as_long_as_its_transfer_is_kept(
    store: Store,
) -> None:
    record = attrs.evolve(incoming(), transfer=admit(store, incoming()))
    store.end(2, record.transfer, Outcome.FAILURE)
    store.prune(KEPT)
    assert store.find_move(Direction.IN, "id") == record
    assert store.open_moves() == []
    store.prune(KEPT + 3)
    assert store.find_move(Direction.IN, "id") is None


def test_servers_are_to_be_started_after_a_success_only(store: Store) -> None:
    moves = [admit(store, incoming(f"id{number}", token=f"token{number}")) for number in range(4)]
    for move, starts in zip(moves, (True, True, False, True), strict=True):
        store.set_start(move, starts=starts)
    assert [store.starts(move) for move in moves] == [True, True, False, True]
    assert store.arrived_to_start() == []
    succeeded, failed, *_ = moves
    for move in moves[:3]:
        store.end(2, move, Outcome.FAILURE if move == failed else Outcome.SUCCESS)
    assert [each.transfer for each in store.arrived_to_start()] == [succeeded]
    store.set_start(succeeded, starts=False)
    assert store.arrived_to_start() == []


# The state database from the reactor: one thread, in order, to the very end


async def test_the_store_closes_after_pending_writes(store: Store, worker: Workers) -> None:
    database = StateDatabase(store, worker, lambda: 10.0)
    entry = await database.begin(A, Direction.IN, "RECEIVE")
    busy = threading.Event()
    worker.run(busy.wait)
    ended = database.end(entry, Outcome.FAILURE)
    closed = database.close()
    busy.set()
    await closed
    assert ended.called
    await ended
    with pytest.raises(StorageError, match="is not open"):
        store.transfers()
    store.open()
    assert [kept.outcome for kept in store.transfers()] == [Outcome.FAILURE]


def moved(store: Store, now: float, direction: Direction) -> int:
    """Record a transfer that has succeeded."""
    entry = store.begin(now, A, direction, "ASK")
    store.end(now + 1, entry, Outcome.SUCCESS)
    return entry


def test_a_left_backup_whose_removal_has_begun_stays_where_its_server_comes_back(
    store: Store,
) -> None:
    place = f"{A}/{B}.tar.gz"
    earlier = moved(store, 0, Direction.IN)
    store.add_arriving([ArrivingBackup(B, earlier, A, "tar.gz", 5, 1.5)])
    entry = store.begin(1, A, Direction.OUT, "ASK")
    announced = LeavingBackup(place, LeftState.FOLLOWS, 5, 1.5)
    store.set_terms(entry, left=[announced])
    assert store.announced(entry) == [announced]
    left = LeftBackup(place, A, 2, 0, None, entry, LeftState.FOLLOWS)
    assert not store.begin_removal(left, B, ArrivingState.PASSED)
    store.end(2, entry, Outcome.SUCCESS)
    assert store.left() == store.left(B) == [left]
    assert store.left(A) == []
    # Of another transfer, or in another state, it is another one.
    other = attrs.evolve(left, transfer=9)
    store.forget_left(other)
    store.set_missed(other, is_missed=True)
    for each in (attrs.evolve(left, state=LeftState.ORDERED), other):
        assert not store.begin_removal(each, B, ArrivingState.PASSED)
    assert store.left() == [left]
    assert len(store.coming()) == 1
    assert store.begin_removal(left, B, ArrivingState.STAYS)
    # What was still to come to this node gets its state at the same time.
    found = store.arriving(earlier, B)
    assert found is not None
    assert found.state is ArrivingState.STAYS
    assert store.is_being_removed(left)
    back = store.begin(3, A, Direction.IN, "ASK")
    assert not store.is_being_removed(left)
    store.end(4, back, Outcome.FAILURE)
    assert store.is_being_removed(left)
    moved(store, 5, Direction.IN)
    assert not store.is_being_removed(left)
    # The next transfer takes it over.
    again_away = store.begin(6, A, Direction.OUT, "ASK")
    store.set_terms(again_away, left=[announced])
    assert store.announced(again_away) == [announced]
    store.end(7, again_away, Outcome.SUCCESS)
    store.forget_left(left)
    (left,) = store.left()
    assert left.transfer == again_away
    # One whose destination does not hear of its removal is forgotten after months.
    assert store.begin_removal(left, B, ArrivingState.PASSED)
    store.prune(KEPT)
    assert len(store.left()) == 1
    store.prune(8 + KEPT)
    assert store.left() == []
    store.close()


def test_the_key_of_a_move_stays_as_long_as_backups_follow(store: Store) -> None:
    place = f"{A}/{B}.tar.gz"
    entry = store.begin(1, A, Direction.OUT, "ASK")
    store.add_move(MoveRecord(entry, A, Direction.OUT, "id", "key", "token", "url"))
    store.set_terms(entry, left=[LeavingBackup(place, LeftState.FOLLOWS)])
    store.end(2, entry, Outcome.SUCCESS)
    assert store.open_moves() == []
    store.prune(2 + YEAR)
    assert store.move(entry) is not None
    (left,) = store.left()
    store.forget_left(left)
    store.prune(2 + YEAR)
    assert store.move(entry) is None
    store.close()


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.CANCELLED])
def test_backups_that_are_to_come_are_forgotten_with_a_transfer_that_fails(
    store: Store, outcome: Outcome
) -> None:
    entry = store.begin(1, A, Direction.IN, "RECEIVE")
    coming = ArrivingBackup(B, entry, A, "tar.gz", 5, 1.5)
    store.add_arriving([coming, coming])
    assert store.coming(A) == store.coming("", B) == store.coming() == [coming]
    assert store.coming(B) == []
    store.end(2, entry, outcome)
    assert store.coming() == []
    assert store.last_move(A) is None
    store.prune(3)
    assert store.arriving(entry, B) is None
    store.close()


def test_a_backup_that_has_come_is_known_for_months(store: Store) -> None:
    entry = moved(store, 1, Direction.IN)
    store.add_arriving([ArrivingBackup(B, entry, A, "tar.gz", 5, 1.5)])
    store.prune(YEAR)
    assert store.end_coming(ArrivingState.HERE, B) == 1
    assert store.end_coming(ArrivingState.DELETED, B) == 0
    store.prune(2 + KEPT - 1)
    found = store.arriving(entry, B)
    assert found is not None
    assert found.state is ArrivingState.HERE
    store.prune(3 + KEPT)
    assert store.arriving(entry, B) is None
    store.close()


def test_a_backup_that_stays_comes_when_it_is_ordered(store: Store) -> None:
    entry = moved(store, 1, Direction.IN)
    store.add_arriving([ArrivingBackup(B, entry, A, "tar.gz", 5, 1.5)])
    store.forget_arriving(entry, B)
    assert store.coming() == []
    store.order_arriving(entry, B)
    assert len(store.coming()) == 1
    store.end_coming(ArrivingState.DELETED, "", A)
    store.order_arriving(entry, B)
    assert store.coming() == []
    store.forget_arriving(entry, B)
    assert store.arriving(entry, B) is None
    store.close()


def test_each_move_has_a_row_for_the_history_that_follows(store: Store) -> None:
    """The node of an earlier move is told of its end also when the server has left again."""
    history = LeavingBackup(history_place(A), LeftState.FOLLOWS, 5, newest=7)

    def moved(now: int, direction: Direction) -> int:
        entry = store.begin(now, A, direction, "ASK")
        if direction is Direction.OUT:
            store.set_terms(entry, left=[history])
        store.end(now, entry, Outcome.SUCCESS)
        return entry

    first = moved(1, Direction.OUT)
    assert [each.transfer for each in store.left(A)] == [first]
    assert [each.transfer for each in store.histories_left(A)] == [first]
    moved(2, Direction.IN)
    assert store.left(A) == store.histories_left(A) == []
    last = moved(3, Direction.OUT)
    assert [each.transfer for each in store.left(A)] == [last]
    (back,) = store.histories_back()
    assert (back.transfer, back.is_history) == (first, True)
    store.forget_left(back)
    assert store.histories_back() == []
    assert [each.transfer for each in store.histories_left(A)] == [last]
