"""The errors of the state database."""

from __future__ import annotations

from wingsd.errors import StorageError

__all__ = [
    "StateDatabaseDamaged",
    "StateDatabaseError",
]


class StateDatabaseError(StorageError):
    """The state database cannot be opened, read or written."""

    code = "state-database-failed"

    def __init__(self, detail: str, message: str = "the state database cannot be used") -> None:
        super().__init__(detail, message)


class StateDatabaseDamaged(StateDatabaseError):
    """The file of the state database is damaged, cut short, or not a database."""

    code = "state-database-damaged"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, "the state database is damaged")
