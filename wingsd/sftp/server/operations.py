"""The requests of one channel: each is done, and answered with its result or a status.

Blocking: `answer` is called in a thread, for one request after the other.
"""

from __future__ import annotations

from collections.abc import Callable

from wingsd.errors import (
    DirectoryMissing,
    DiskLimitExceeded,
    FileMissing,
    Forbidden,
    ReadOnly,
    WingsdError,
)
from wingsd.sftp.server import answers
from wingsd.sftp.server.access import SessionAccess
from wingsd.sftp.server.file_operations import FileOperations
from wingsd.sftp.server.handles import HandleBudget, Handles
from wingsd.sftp.server.packets import EXTENDED, Extended, Request
from wingsd.sftp.server.path_operations import ListingLimits, PathOperations

__all__ = ["Operations", "error_status"]

#: The first that an error is an instance of counts.
_STATUSES: tuple[tuple[type[WingsdError], int], ...] = (
    (FileMissing, answers.NO_SUCH_FILE),
    (DirectoryMissing, answers.NO_SUCH_FILE),
    (DiskLimitExceeded, answers.QUOTA_EXCEEDED),
    (Forbidden, answers.PERMISSION_DENIED),
    (ReadOnly, answers.UNSUPPORTED),
    (WingsdError, answers.FAILURE),
)


def error_status(error: WingsdError) -> int:
    """Return the status of SFTP for an error."""
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


class Operations:
    """Does what the client of one channel asks for, with the `access` of its connection."""

    def __init__(
        self,
        access: SessionAccess,
        budget: HandleBudget,
        most_handles: int,
        listing: ListingLimits,
    ) -> None:
        self._handles = Handles(most_handles, budget, access.usage.files)
        files = FileOperations(access, self._handles, most_handles)
        paths = PathOperations(access, self._handles, listing)
        self._calls: dict[int, Callable[..., bytes]] = {
            **files.calls,
            **paths.calls,
            EXTENDED: self._extended,
        }
        self._extensions = {**files.extensions, **paths.extensions}

    def answer(self, request: Request) -> bytes:
        """Do one request; return its answer. Other errors than wingsd's and the disk's pass."""
        call = self._calls.get(request.kind)
        if call is None:
            return answers.status(request.id, answers.UNSUPPORTED, "unknown type of request")
        try:
            return call(request)
        except WingsdError as error:
            return answers.status(request.id, error_status(error), str(error))
        except OSError as error:
            why = error.strerror or str(error)
            return answers.status(request.id, answers.FAILURE, why)

    def close(self) -> None:
        """Close all that is open."""
        self._handles.close_all()

    def _extended(self, request: Extended) -> bytes:
        call = self._extensions.get(request.name)
        if call is None:
            return answers.status(request.id, answers.UNSUPPORTED, "unknown extension")
        return call(request)
