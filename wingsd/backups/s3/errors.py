"""How the upload of a backup to a store fails."""

from __future__ import annotations

from wingsd.errors import Conflict, WingsdError

__all__ = ["BackupSettled", "BackupUploadFailed", "PartNotSent", "UrlRefused"]


class BackupUploadFailed(WingsdError):
    """The backup cannot be uploaded; trying again is of no use (502).

    With `is_unknown_call`, as the Panel does not have the call for its URLs.
    """

    code = "backup-upload-failed"
    status = 502

    def __init__(self, detail: str, *, is_unknown_call: bool = False) -> None:
        super().__init__("the backup could not be uploaded", detail)
        self.is_unknown_call = is_unknown_call


class BackupSettled(Conflict):
    """The Panel has the backup as completed or failed already: it takes no more of it (409)."""

    code = "backup-settled"

    def __init__(self, detail: str) -> None:
        super().__init__("the Panel has settled the backup already", detail)


class PartNotSent(Exception):
    """One part was not taken, and is to be sent again after `retry_after` seconds or more."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class UrlRefused(Exception):
    """The store does not accept the URL of a part (403); `is_expired` where that is why."""

    def __init__(self, reason: str, *, is_expired: bool) -> None:
        super().__init__(reason)
        self.is_expired = is_expired
