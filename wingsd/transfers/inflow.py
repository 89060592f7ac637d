"""Where a server that is received comes from, as the transfer sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from wingsd.bridge import Feed
from wingsd.errors import WingsdError
from wingsd.transfers.formdata import UploadForm

__all__ = ["Upload"]


class Upload(Protocol):
    """Where the archive comes from. `size` is that of the whole body in bytes, 0 if not known.

    `is_partial` tells that it has only some of the server's files, and other uploads the rest.
    """

    content_type: str
    user_agent: str
    size: int
    is_partial: bool

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[str]:
        """Let the archive flow into `feed`; the Deferred gives the checksum when all is read.

        Raises a `WingsdError` when the upload was stopped before.
        """

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the sender goes after its body was complete, before its answer."""
