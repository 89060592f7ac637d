"""The state database: transfers, callbacks to the Panel and used tokens, kept across restarts.

`records` are the values, `store` is SQLite and blocks; `StateDatabase` calls it from the reactor.
`python -m wingsd.statedb` prints it.
"""

from wingsd.statedb.async_store import StateDatabase
from wingsd.statedb.records import (
    DirectDestination,
    Direction,
    InstallationRecord,
    Outcome,
    Report,
    ReportKind,
    ServerDescription,
    StateDatabaseDamaged,
    StateDatabaseError,
    TransferRecord,
    TransferResult,
)

__all__ = [
    "DirectDestination",
    "Direction",
    "InstallationRecord",
    "Outcome",
    "Report",
    "ReportKind",
    "ServerDescription",
    "StateDatabase",
    "StateDatabaseDamaged",
    "StateDatabaseError",
    "TransferRecord",
    "TransferResult",
]
