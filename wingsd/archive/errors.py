"""The errors of archives."""

from __future__ import annotations

from wingsd.errors import BadRequest, WingsdError

__all__ = [
    "ArchiveError",
    "DiskLimitExceeded",
]


class DiskLimitExceeded(BadRequest):
    """The server may not have as much disk as this takes, in Wings' own words."""

    code = "disk-limit-exceeded"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "There is not enough disk space available to perform that action.", detail
        )


class ArchiveError(WingsdError):
    """The archive cannot be extracted: damaged, of an unknown kind, or with a refused member."""

    code = "archive-invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("the archive could not be extracted", detail)
