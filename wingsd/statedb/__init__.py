"""The state database: what is kept across restarts, such as transfers and callbacks to the Panel.

`records` are the values, `store` is SQLite and blocks; `StateDatabase` calls it from the reactor.
`python -m wingsd.statedb` prints it.
"""

from wingsd.errors import StateDatabaseDamaged, StateDatabaseError
from wingsd.statedb.async_store import StateDatabase
from wingsd.statedb.records import (
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
    TransferRecord,
    TransferResult,
)

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
    "StateDatabaseDamaged",
    "StateDatabaseError",
    "TransferRecord",
    "TransferResult",
]
