"""The state database: what is kept across restarts, such as transfers and callbacks to the Panel.

`store` has the records, and is SQLite and blocks; `StateDatabase` calls it for the reactor, in one
thread and in order. `python -m wingsd.statedb` prints it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Concatenate, Generic, ParamSpec, TypeVar

from twisted.internet.defer import Deferred

from wingsd.statedb.store import (
    ActivityEntry,
    BackupRecord,
    DirectDestination,
    Direction,
    DroppedBackup,
    InstallationRecord,
    MoveRecord,
    Outcome,
    Report,
    ReportKind,
    RestoreRecord,
    ServerDescription,
    Store,
    TransferRecord,
    TransferResult,
)
from wingsd.threadio import Workers

__all__ = [
    "ActivityEntry",
    "BackupRecord",
    "DirectDestination",
    "Direction",
    "DroppedBackup",
    "InstallationRecord",
    "MoveRecord",
    "Outcome",
    "Report",
    "ReportKind",
    "RestoreRecord",
    "ServerDescription",
    "StateDatabase",
    "TransferRecord",
    "TransferResult",
]


P = ParamSpec("P")
T = TypeVar("T")


class _InThread(Generic[P, T]):
    """A method of `Store`, called with the same arguments in the database's thread."""

    def __init__(self, method: Callable[Concatenate[Store, P], T]) -> None:
        self._name = method.__name__

    def __get__(self, database: StateDatabase, owner: object) -> Callable[P, Deferred[T]]:
        return partial(database.worker.run, getattr(database.store, self._name))


class _Timed(Generic[P, T]):
    """The same for a method whose first argument is the time of the call."""

    def __init__(self, method: Callable[Concatenate[Store, float, P], T]) -> None:
        self._name = method.__name__

    def __get__(self, database: StateDatabase, owner: object) -> Callable[P, Deferred[T]]:
        return partial(database.worker.run, getattr(database.store, self._name), database.now())


class StateDatabase:
    """The state database in `store`. `worker` has one thread; `now` gives seconds since the epoch.

    Its methods are those of `Store`, with a Deferred as result. It fails with
    `StateDatabaseError` where the disk fails; what the call was to record must then not be done.
    """

    def __init__(self, store: Store, worker: Workers, now: Callable[[], float]) -> None:
        self.store = store
        self.worker = worker
        self.now = now

    def seconds_since(self, time: float) -> float:
        """Return the age of `time` in seconds; below 0 where the clock was set back."""
        return self.now() - time

    #: After all calls before it. SQLite crashes when another thread closes a database in use.
    close = _InThread(Store.close)

    begin = _Timed(Store.begin)
    enter = _Timed(Store.enter)
    set_terms = _InThread(Store.set_terms)
    end = _Timed(Store.end)
    transfer = _InThread(Store.transfer)
    unfinished = _InThread(Store.unfinished)
    ended = _InThread(Store.ended)
    last_move = _InThread(Store.last_move)
    moved_directly = _InThread(Store.moved_directly)

    add_description = _InThread(Store.add_description)
    mark_arrived = _Timed(Store.mark_arrived)
    has_arrived = _InThread(Store.has_arrived)
    descriptions = _InThread(Store.descriptions)
    clear_description = _InThread(Store.clear_description)
    delete_description = _InThread(Store.delete_description)
    delete_lost = _InThread(Store.delete_lost)
    add_destination = _InThread(Store.add_destination)
    destination = _InThread(Store.destination)

    begin_installation = _Timed(Store.begin_installation)
    run_installation = _Timed(Store.run_installation)
    decide_installation = _InThread(Store.decide_installation)
    delete_installation = _InThread(Store.delete_installation)
    installations = _InThread(Store.installations)
    end_installation = _Timed(Store.end_installation)

    begin_restore = _Timed(Store.begin_restore)
    start_after_restore = _InThread(Store.start_after_restore)
    commit_restore = _InThread(Store.commit_restore)
    end_restore = _Timed(Store.end_restore)
    due_starts = _InThread(Store.due_starts)
    end_start = _InThread(Store.end_start)

    add_move = _InThread(Store.add_move)
    admit_move = _Timed(Store.admit_move)
    drop_move = _InThread(Store.drop_move)
    set_move = _InThread(Store.set_move)
    set_move_state = _InThread(Store.set_move_state)
    change_move_state = _InThread(Store.change_move_state)
    set_start = _InThread(Store.set_start)
    starts = _InThread(Store.starts)
    arrived_to_start = _InThread(Store.arrived_to_start)
    move = _InThread(Store.move)
    find_move = _InThread(Store.find_move)
    find_admitted = _InThread(Store.find_admitted)

    begin_backup = _Timed(Store.begin_backup)
    backups = _InThread(Store.backups)
    add_backup_report = _Timed(Store.add_backup_report)
    dropped = _InThread(Store.dropped)
    age_dropped = _Timed(Store.age_dropped)
    set_missed = _InThread(Store.set_missed)
    forget_dropped = _InThread(Store.forget_dropped)

    add_report = _Timed(Store.add_report)
    is_failure_reported = _InThread(Store.is_failure_reported)
    record_attempt = _InThread(Store.record_attempt)
    close_report = _Timed(Store.close_report)
    unsettled = _InThread(Store.unsettled)

    use_token = _InThread(Store.use_token)
    use_url = _InThread(Store.use_url)
    was_used = _InThread(Store.was_used)
    deny = _Timed(Store.deny)
    denied = _InThread(Store.denied)

    add_activity = _InThread(Store.add_activity)
    activity = _InThread(Store.activity)
    delete_activity = _InThread(Store.delete_activity)
    trim_activity = _InThread(Store.trim_activity)

    ages = _Timed(Store.ages)
    prune = _Timed(Store.prune)
