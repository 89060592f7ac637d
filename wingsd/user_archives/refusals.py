"""The error by which parsing an archive ends, in the process that parses it."""

from __future__ import annotations

from wingsd.user_archives.frames import Reason, Refusal

__all__ = ["Refused"]


class Refused(Exception):
    """An archive is refused, with the reason that the daemon is told."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)
