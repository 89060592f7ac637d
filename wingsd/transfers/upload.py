"""What a server comes by: one request, or several at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from wingsd.bridge import Feed
from wingsd.errors import WingsdError
from wingsd.transfers.formdata import Checksums, UploadForm

__all__ = ["ALONE", "Companions", "Upload"]


class Upload(Protocol):
    """Where an archive comes from. `size` is that of the whole body in bytes, 0 if not known.

    `pool` is the storage pool of the sender, and `mark` what it has left there; empty without.
    """

    content_type: str
    user_agent: str
    size: int
    pool: str
    mark: str

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[Checksums]:
        """Let the archive flow into `feed`, then each extra as a part of its own.

        The Deferred gives the checksums when all is read. Raises a `WingsdError` when the upload
        was stopped before.
        """

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the sender goes after its body was complete, before its answer."""


class Companions(Protocol):
    """The other uploads that a server comes by, beside the first."""

    def gathered(self) -> Deferred[Sequence[Upload]]:
        """Return all of them by their numbers, when they are here.

        The Deferred fails with the `WingsdError` that any of them has failed with.
        """

    def stop(self, error: WingsdError) -> None:
        """Read none of them further, for the reason `error`."""

    def when_failed(self, tell: Callable[[WingsdError], object]) -> None:
        """Call `tell` with the reason when they cannot all come any more."""


class _Alone:
    """There are no others."""

    def gathered(self) -> Deferred[Sequence[Upload]]:
        return succeed(())

    def stop(self, error: WingsdError) -> None:
        pass

    def when_failed(self, tell: Callable[[WingsdError], object]) -> None:
        pass


ALONE: Companions = _Alone()
