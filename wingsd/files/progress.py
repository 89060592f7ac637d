"""The progress of long work on files, and its cancellation."""

from __future__ import annotations

from wingsd.errors import FileWorkCancelled
from wingsd.filesystem.paths import ServerPath


class Progress:
    """The progress of one piece of work. Its thread writes it; any thread reads and cancels it.

    `bytes_total` is 0 while it is not known, `target` None while it is not decided.
    """

    def __init__(self) -> None:
        self.bytes_done = 0
        self.bytes_total = 0
        self.files_done = 0
        #: The path of what is made.
        self.target: ServerPath | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """End the work soon, with `FileWorkCancelled`."""
        self._is_cancelled = True

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._is_cancelled

    def check(self) -> None:
        """Raise `FileWorkCancelled` where it was cancelled."""
        if self._is_cancelled:
            raise FileWorkCancelled
