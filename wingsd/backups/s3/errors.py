"""How the upload of a backup to a store fails."""

from __future__ import annotations

__all__ = ["PartNotSent", "UrlRefused"]


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
