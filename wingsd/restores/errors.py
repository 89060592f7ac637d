"""Errors of restoring backups.

Those of the request are Wings', and Pelican's for an address that this node does not request.
"""

from __future__ import annotations

from wingsd.errors import BadRequest, WingsdError

__all__ = ["BackupChecksumMismatch", "BackupLinkRefused", "RestoreFailed"]


class BackupLinkRefused(BadRequest):
    """The link to a backup cannot be used (400)."""

    code = "backup-link-refused"


class BackupChecksumMismatch(WingsdError):
    """A backup is not what was made."""

    code = "backup-checksum-mismatch"

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            "the backup is not the one that was made",
            f"its SHA-256 is {found}, and {expected} is in its catalogue: the file was changed or "
            "damaged since; restore another backup",
        )


class RestoreFailed(WingsdError):
    """A backup could not be restored; the server's files are as before."""

    code = "restore-failed"

    def __init__(self, detail: str) -> None:
        super().__init__("the backup was not restored", detail)
